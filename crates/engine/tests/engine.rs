//! The engine as its callers see it, on a tiny model.

mod common;

use std::time::{Duration, Instant};

use common::{CTX, Fixture, collect, request};
use foretoken_engine::{
    CacheUse, Engine, EngineConfig, EngineError, Event, FinishReason, Request, Sampling, SpeculationChoice,
    SubmitError,
};

/// For answers that must not end while a test looks at them.
const LONG_CTX: usize = 32_768;
const LONG: usize = 30_000;

fn engine(change: impl FnOnce(&mut EngineConfig)) -> Result<Engine, EngineError> {
    Fixture::load().try_start(change)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_seed_gives_the_same_tokens_alone_and_in_a_batch() {
    let engine = engine(|_| {}).unwrap();
    let ask = |i: u32| request((0..20 + 13 * i).map(|t| (t * 7 + i) % 250), 40, u64::from(i));
    let alone: Vec<_> = (0..8).map(|i| collect(engine.submit(ask(i)).unwrap()).0).collect();
    let answers: Vec<_> = (0..8).map(|i| engine.submit(ask(i)).unwrap()).collect();
    let together: Vec<_> = answers.into_iter().map(|answer| collect(answer).0).collect();
    assert_eq!(alone, together);
    assert!(alone.iter().all(|ids| ids.len() == 40));
}

#[test]
fn a_preempted_sequence_answers_as_if_it_had_not_been() {
    // Room for one whole context and little more, so that several answers cannot grow at a time.
    let blocks = CTX.div_ceil(64) + 1;
    let small = engine(|config| config.kv_bytes = blocks * Fixture::load().block_bytes()).unwrap();
    let roomy = engine(|_| {}).unwrap();
    let ask = |i: u32| request((0..100).map(|t| (t * 3 + i) % 250), 150, u64::from(i));
    let expected: Vec<_> = (0..4).map(|i| collect(roomy.submit(ask(i)).unwrap()).0).collect();
    let answers: Vec<_> = (0..4).map(|i| small.submit(ask(i)).unwrap()).collect();
    let got: Vec<_> = answers.into_iter().map(|answer| collect(answer).0).collect();
    assert_eq!(got, expected);
    assert!(small.stats().preemptions_total > 0, "the test must make blocks run out");
}

#[test]
fn a_client_that_disconnects_frees_its_sequence() {
    let engine = engine(|config| config.ctx = LONG_CTX).unwrap();
    let mut answer = engine.submit(request([1, 2, 3], LONG, 1)).unwrap();
    answer.recv_blocking().expect("it runs");
    drop(answer);
    until("it is freed", || engine.stats().finished_abort_total == 1);
    assert!(engine.is_idle());
    let stats = engine.stats();
    assert_eq!((stats.finished_abort_total, stats.finished_length_total), (1, 0));
    assert!(stats.generation_tokens_total < LONG as u64);
    assert_eq!(stats.kv_usage, 0.0);
}

#[test]
fn a_full_queue_says_so() {
    let small = |config: &mut EngineConfig| (config.ctx, config.queue, config.running_max) = (LONG_CTX, 1, 1);
    let engine = engine(small).unwrap();
    let mut running = engine.submit(request([1], LONG, 1)).unwrap();
    running.recv_blocking().expect("it runs");
    let _waiting = engine.submit(request([1], LONG, 1)).unwrap();
    let refused = engine.submit(request([1], LONG, 1)).unwrap_err();
    assert!(matches!(refused, SubmitError::QueueFull { retry_after_s: 1.. }), "{refused}");
}

#[test]
fn draining_finishes_what_runs_and_takes_nothing_new() {
    let engine = engine(|_| {}).unwrap();
    let answer = engine.submit(request([1, 2], 60, 1)).unwrap();
    engine.drain();
    assert_eq!(engine.submit(request([1], 5, 1)).unwrap_err(), SubmitError::Draining);
    assert_eq!(collect(answer).0.len(), 60);
}

#[test]
fn invalid_parameters_are_rejected_by_name() {
    let engine = engine(|_| {}).unwrap();
    let refused = |request| engine.submit(request).unwrap_err();
    let param = |request| match refused(request) {
        SubmitError::Invalid(invalid) => invalid.param,
        other => panic!("{other}"),
    };
    assert_eq!(param(request([], 5, 1)), "prompt");
    assert_eq!(param(request([1_000_000], 5, 1)), "prompt");
    assert_eq!(param(request([1], 0, 1)), "max_tokens");
    assert_eq!(param(Request { logprobs: Some(21), ..request([1], 5, 1) }), "top_logprobs");
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert_eq!(param(Request { sampling: hot, ..request([1], 5, 1) }), "temperature");
    let long = request(vec![1; CTX], 5, 1);
    assert_eq!(refused(long), SubmitError::PromptTooLong { prompt: CTX, ctx: CTX });
}

#[test]
fn an_answer_ends_at_the_end_of_the_context() {
    let engine = engine(|_| {}).unwrap();
    let (ids, _, summary) = collect(engine.submit(request(vec![5; CTX - 3], 100, 1)).unwrap());
    assert_eq!((ids.len(), summary.reason), (3, FinishReason::Length));
}

#[test]
fn a_stop_token_and_a_stop_text_end_the_answer() {
    let engine = engine(|_| {}).unwrap();
    let (ids, text, _) = collect(engine.submit(request([1, 2], 60, 3)).unwrap());

    let stopped = Request { stop_ids: vec![ids[10]], ..request([1, 2], 60, 3) };
    let (got, _, summary) = collect(engine.submit(stopped).unwrap());
    let end = ids.iter().position(|id| *id == ids[10]).unwrap();
    assert_eq!((got.as_slice(), summary.reason), (&ids[..end], FinishReason::Stop));

    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 3].iter().collect();
    let stopped = Request { stop: vec![stop.clone()], ..request([1, 2], 60, 3) };
    let (_, got, summary) = collect(engine.submit(stopped).unwrap());
    assert_eq!((got.as_str(), summary.reason), (&text[..text.find(&stop).unwrap()], FinishReason::Stop));
}

#[test]
fn log_probabilities_come_with_each_token() {
    let engine = engine(|_| {}).unwrap();
    let mut answer = engine.submit(Request { logprobs: Some(3), ..request([1, 2], 5, 1) }).unwrap();
    let mut seen = 0;
    while let Some(Event::Tokens(tokens)) = answer.recv_blocking() {
        for token in tokens {
            // The answer may be cut in the middle of a character, whose tokens have none.
            let Some(logprob) = token.logprob else { continue };
            assert_eq!(logprob.chosen.id, token.id);
            assert_eq!(logprob.top.len(), 3);
            assert!(logprob.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
            assert!(logprob.top[0].logprob >= logprob.chosen.logprob && logprob.top[0].logprob <= 0.0);
            seen += 1;
        }
    }
    assert!((3..=5).contains(&seen), "{seen} of 5");
}

#[test]
fn running_answers_continue_during_a_long_prefill() {
    let engine = engine(|config| config.step_tokens = 16).unwrap();
    let undrafted = SpeculationChoice { enabled: Some(false), ..SpeculationChoice::default() };
    let mut running = engine.submit(Request { speculation: undrafted, ..request([1], 300, 1) }).unwrap();
    running.recv_blocking();
    let long = engine.submit(request((0..400).map(|t| t % 250), 1, 2)).unwrap();
    let (_, _, summary) = collect(long);
    let before_long_ended = std::iter::from_fn(|| running.recv_blocking()).take(50).count();
    assert_eq!((summary.usage.prompt_tokens, before_long_ended), (400, 50));
    // 400 prompt tokens at most 4 to a step: the running answer got a token in each of those steps.
    assert!(engine.stats().steps_total >= 100);
}

#[test]
fn a_cached_prefix_is_not_computed_again() {
    let engine = engine(|_| {}).unwrap();
    let prompt: Vec<u32> = (0..200).map(|t| (t * 7) % 250).collect();
    let ask = |prompt: &[u32]| collect(engine.submit(request(prompt.to_vec(), 30, 5)).unwrap());
    let (first, _, cold) = ask(&prompt);
    let (second, _, warm) = ask(&prompt);
    assert_eq!(first, second);
    assert_eq!((cold.usage.cache_hit_tokens, warm.usage.cache_hit_tokens), (0, 199));

    // The answer is cached too: the next turn hits past its end, all but the token that was never fed.
    let turn: Vec<u32> = prompt.iter().chain(&first).copied().chain([9, 8, 7]).collect();
    assert_eq!(ask(&turn).2.usage.cache_hit_tokens, 200 + 29);
    // A branch inside a block: token-exact.
    let branch: Vec<u32> = prompt[..100].iter().copied().chain([1, 1, 1]).collect();
    assert_eq!(ask(&branch).2.usage.cache_hit_tokens, 100);
}

#[test]
fn a_hit_answers_as_recomputing_would() {
    let (cached, plain) = (engine(|_| {}).unwrap(), engine(|_| {}).unwrap());
    for seed in 0..6 {
        let prompt: Vec<u32> = (0..90 + 20 * seed as u32).map(|t| (t * 3 + t / 80) % 250).collect();
        let uncached = CacheUse { read: false, write: false };
        let with = collect(cached.submit(request(prompt.clone(), 40, seed)).unwrap());
        let without =
            collect(plain.submit(Request { cache: uncached, ..request(prompt, 40, seed) }).unwrap());
        assert_eq!(with.0, without.0);
        assert_eq!(without.2.usage.cache_hit_tokens, 0);
        assert_eq!(seed > 0, with.2.usage.cache_hit_tokens > 0);
    }
}

#[test]
fn requests_that_arrive_together_compute_a_common_prefix_once() {
    let engine = engine(|config| config.step_tokens = 64).unwrap();
    let ask = |i: u32| request((0..320).map(|t| t % 240).chain([240 + i]), 5, 1);
    let answers: Vec<_> = (0..6).map(|i| engine.submit(ask(i)).unwrap()).collect();
    let hits: Vec<_> = answers.into_iter().map(|answer| collect(answer).2.usage.cache_hit_tokens).collect();
    assert_eq!(hits[0], 0);
    assert!(hits[1..].iter().all(|&hit| hit >= 320), "{hits:?}");
}

#[test]
fn a_follower_takes_over_when_its_leader_is_cancelled() {
    let engine = engine(|config| config.step_tokens = 1).unwrap();
    for round in 0..10 {
        let ask = || request((0..400).map(|t| (t + round * 17) % 240), 5, 1);
        let leader = engine.submit(ask()).unwrap();
        let follower = engine.submit(ask()).unwrap();
        drop(leader);
        assert_eq!(collect(follower).0.len(), 5);
    }
    assert!(engine.stats().finished_abort_total > 0, "no leader was cancelled in time");
}

#[test]
fn tenants_share_nothing() {
    let engine = engine(|_| {}).unwrap();
    let ask = |tenant: &str| Request { tenant: tenant.into(), ..request((0..200).map(|t| t % 250), 5, 1) };
    let hit = |tenant| collect(engine.submit(ask(tenant)).unwrap()).2.usage.cache_hit_tokens;
    assert_eq!((hit("a"), hit("b"), hit("a"), hit("b")), (0, 0, 199, 199));
}

#[test]
fn tenants_share_a_declared_prefix_and_nothing_after_it() {
    let prompt: Vec<u32> = (0..200).map(|t| (t * 3) % 250).collect();
    let engine = engine(|config| config.shared_prompts = vec![prompt[..150].to_vec()]).unwrap();
    let plain = self::engine(|_| {}).unwrap();
    let ask = |tenant: &str| Request { tenant: tenant.into(), ..request(prompt.clone(), 80, 1) };
    let answer = |tenant| {
        let (ids, _, summary) = collect(engine.submit(ask(tenant)).unwrap());
        assert_eq!(ids, collect(plain.submit(ask(tenant)).unwrap()).0);
        summary.usage.cache_hit_tokens
    };
    assert_eq!((answer("a"), answer("b"), answer("a"), answer("b")), (0, 128, 199, 199));
    // Together it is computed once as well.
    let other: Vec<u32> = prompt[..150].iter().copied().chain([9; 60]).collect();
    let ask = |tenant: &str| Request { tenant: tenant.into(), ..request(other.clone(), 5, 1) };
    let both = ["c", "d"].map(|tenant| engine.submit(ask(tenant)).unwrap());
    let hits = both.map(|answer| collect(answer).2.usage.cache_hit_tokens);
    assert_eq!(hits, [128, 128]);
}

#[test]
fn blocks_on_disk_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || engine(|config| config.disk = Some((dir.path().into(), 1 << 30))).unwrap();
    let ask = |engine: &Engine| {
        let prompt = (0..300).map(|t| (t * 11) % 250);
        collect(engine.submit(request(prompt, 20, 3)).unwrap())
    };
    let before = start();
    let cold = ask(&before);
    before.flush_cache();
    drop(before);
    let after = start();
    let warm = ask(&after);
    assert_eq!(cold.0, warm.0);
    assert_eq!((cold.2.usage.cache_hit_tokens, warm.2.usage.cache_hit_tokens), (0, 256));
}

#[test]
fn an_answer_that_repeats_itself_ends_unless_it_is_let_go_on() {
    let answer = |loop_tokens, ignore_eos| {
        let fixture = Fixture::named("heads/agreeing");
        let engine = fixture.start(|config| config.loop_tokens = loop_tokens);
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let prompt = (0..200).map(|t| (37 + t * 7 + t / 90) % 250);
        let request = Request { sampling: greedy, ignore_eos, ..request(prompt, 300, 0) };
        let (ids, _, summary) = collect(engine.submit(request).unwrap());
        assert_eq!(summary.reason, FinishReason::Length);
        ids
    };
    let whole = answer(0, false);
    assert_eq!((whole.len(), answer(30, true).len()), (300, 300));
    let ended = answer(30, false);
    let repeats =
        |period: usize| ended.iter().rev().zip(ended.iter().rev().skip(period)).take(31).all(|(a, b)| a == b);
    assert!(ended.len() < 200 && whole.starts_with(&ended), "{} tokens", ended.len());
    assert!(repeats(11), "{ended:?}");
}
