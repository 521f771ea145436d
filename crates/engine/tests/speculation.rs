//! Speculation as callers see it: the same bytes under `exact`, the same distribution under `lossless`, an honest
//! account under `agreement`, and drafts that never cross tenants.

mod common;

use std::sync::Arc;

use foretoken_cache::SystemClock;
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_engine::{
    CacheUse, DraftReport, Engine, EngineConfig, Event, Policy, Request, Responses, Sampling, Source,
    Sources, Speculation, SpeculationChoice, Thresholds,
};
use proptest::prelude::*;

use common::{Fixture, collect, request};

/// An engine that only drafts where a request says so.
fn quiet(change: impl FnOnce(&mut EngineConfig)) -> Engine {
    Fixture::load().start(|config| {
        config.speculation = Speculation { enabled: false, ..Speculation::default() };
        change(config);
    })
}

fn on() -> SpeculationChoice {
    SpeculationChoice { enabled: Some(true), ..SpeculationChoice::default() }
}

fn only(source: Source) -> SpeculationChoice {
    SpeculationChoice { sources: Some(Sources::from_iter([source])), ..on() }
}

/// Tokens, text and log-probabilities, down to the bits.
fn bits(engine: &Engine, request: Request) -> (Vec<u32>, String, Vec<u32>, DraftReport) {
    let mut answer = engine.submit(request).expect("a tiny engine takes it");
    let (mut ids, mut text, mut scores) = (Vec::new(), String::new(), Vec::new());
    loop {
        match answer.recv_blocking().expect("an answer ends with a summary") {
            Event::Tokens(tokens) => {
                for token in tokens {
                    ids.push(token.id);
                    text.push_str(&token.text);
                    let logprob = token.logprob.into_iter().flat_map(|l| l.top.into_iter().chain([l.chosen]));
                    scores.extend(logprob.map(|score| score.logprob.to_bits()));
                }
            }
            Event::Done(summary) => {
                text.push_str(&summary.text);
                return (ids, text, scores, *summary.drafts);
            }
        }
    }
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0f32), Just(0.3), Just(0.8), Just(1.5)];
    let penalties = (prop_oneof![Just(0.0f32), Just(0.7)], prop_oneof![Just(1.0f32), Just(1.3)]);
    let bias = prop::collection::vec((0u32..250, -3.0f32..3.0), 0..3);
    (temperature, 0.0f32..0.3, prop_oneof![Just(1.0f32), 0.3f32..1.0], penalties, bias, any::<u64>())
        .prop_map(|(temperature, min_p, top_p, (frequency_penalty, repetition_penalty), logit_bias, seed)| {
            Sampling {
                temperature,
                min_p,
                top_p,
                frequency_penalty,
                repetition_penalty,
                logit_bias,
                seed: Some(seed),
                ..Sampling::default()
            }
        })
}

/// A request of which some prompts begin alike and some repeat themselves.
fn any_request() -> impl Strategy<Value = Request> {
    let prompt = (0u32..4, 2usize..150, 3u32..60).prop_map(|(base, len, period)| {
        (0..len as u32).map(|i| (base * 31 + (i % period) * 7) % 250).collect()
    });
    let stop = prop_oneof![3 => Just(Vec::new()), 1 => Just(vec!["a".to_owned()])];
    (prompt, any_sampling(), 1usize..60, prop::option::of(0usize..3), stop).prop_map(
        |(prompt, sampling, max_tokens, logprobs, stop): (Vec<u32>, _, _, _, _)| Request {
            prompt,
            sampling,
            max_tokens: Some(max_tokens),
            logprobs,
            stop,
            ignore_eos: true,
            ..Request::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn exact_gives_the_bytes_of_no_speculation_alone_and_in_a_batch_whatever_is_drafted(
        requests in prop::collection::vec(any_request(), 1..5),
        garbage in prop::collection::vec(0u32..250, 0..80),
        edits in prop::collection::vec((0usize..60, 0u32..250), 0..6),
    ) {
        let (plain, drafting) = (quiet(|_| {}), quiet(|_| {}));
        let expected: Vec<_> = requests.iter().map(|request| bits(&plain, request.clone())).collect();
        // Twice: the second time from a memory and a table full of the first.
        for round in 0..2 {
            let answers: Vec<_> = requests.iter().zip(&expected).enumerate().map(|(at, (request, expected))| {
                // A draft that is right but for some tokens, or not at all.
                let mut prediction = if at % 2 == 0 { expected.0.clone() } else { garbage.clone() };
                for &(place, token) in &edits {
                    if let Some(predicted) = prediction.get_mut(place) {
                        *predicted = token;
                    }
                }
                drafting.submit(Request { prediction, speculation: on(), ..request.clone() }).unwrap()
            }).collect();
            for (answer, expected) in answers.into_iter().zip(&expected) {
                let (ids, text, summary) = collect(answer);
                prop_assert_eq!(&ids, &expected.0, "round {}", round);
                prop_assert_eq!(&text, &expected.1);
                prop_assert_eq!(summary.usage.completion_tokens >= ids.len(), true);
            }
        }
        for (request, expected) in requests.iter().zip(&expected) {
            let (ids, text, scores, _) = bits(&drafting, Request { speculation: on(), ..request.clone() });
            prop_assert_eq!((&ids, &text, &scores), (&expected.0, &expected.1, &expected.2));
        }
    }
}

#[test]
fn a_right_prediction_saves_steps_and_is_counted() {
    let engine = quiet(|_| {});
    let ask = || request((0..60).map(|i| i * 3 % 250), 100, 4);
    let (ids, _, _, plain) = bits(&engine, ask());
    assert_eq!(plain, DraftReport::default());
    let with = |prediction| {
        let (got, _, _, report) =
            bits(&engine, Request { prediction, speculation: only(Source::Prediction), ..ask() });
        assert_eq!(got, ids);
        report
    };
    let report = with(ids.clone());
    assert_eq!(report.prediction, Some((100, 0)));
    // How many draft tokens a step verifies depends on how long steps take on a busy machine.
    assert!(report.accepted > 10 && report.steps + report.accepted <= 100, "{report:?}");
    assert_eq!(report.sources[Source::Prediction as usize].accepted, report.accepted);
    let kept: usize = report.histogram.iter().enumerate().map(|(kept, steps)| kept * steps).sum();
    assert_eq!((kept, report.histogram.iter().sum()), (report.accepted, report.drafts));

    let undrafted = Request { prediction: ids.clone(), ..ask() };
    let drafted = Request { speculation: only(Source::Prediction), ..undrafted.clone() };
    let mut answer = engine.submit(drafted).unwrap();
    let mut together = Vec::new();
    while let Some(Event::Tokens(tokens)) = answer.recv_blocking() {
        together.push(tokens.len());
    }
    assert_eq!(together.iter().sum::<usize>(), 100);
    assert!(together.len() < 90, "the tokens of a step come together: {together:?}");

    assert_eq!(bits(&engine, undrafted).3.prediction, Some((100, 0)), "counted though nothing was drafted");

    let wrong = with(vec![249; 50]);
    assert_eq!(wrong.prediction.map(|(a, b)| a + b), Some(50));
    assert!(wrong.drafted < 60, "a prediction that fails is given up: {wrong:?}");
}

#[test]
fn max_draft_and_sources_are_respected() {
    let engine = quiet(|_| {});
    let ask = || request((0..120).map(|i| i % 20), 80, 4);
    let greedy = |speculation| {
        let mut request = Request { speculation, ..ask() };
        request.sampling.temperature = 0.0;
        bits(&engine, request).3
    };
    let two = greedy(SpeculationChoice { max_draft: Some(2), ..on() });
    assert!(two.drafted > 0 && two.drafted <= 2 * two.drafts, "{two:?}");
    assert_eq!(greedy(SpeculationChoice { max_draft: Some(0), ..on() }), DraftReport::default());
    let own = greedy(only(Source::OwnText));
    assert!(
        own.sources.iter().enumerate().all(|(at, of)| of.proposed == 0 || at == Source::OwnText as usize)
    );
}

#[test]
fn a_request_without_cache_write_updates_no_drafter_state() {
    let engine = quiet(|_| {});
    let ask = |write| {
        let mut ask = request((0..40).map(|i| i * 3 % 250), 60, 4);
        ask.sampling.temperature = 0.0;
        ask.cache = CacheUse { read: true, write };
        ask.speculation = SpeculationChoice {
            sources: Some(Sources::from_iter([Source::Memory, Source::Successors])),
            ..on()
        };
        bits(&engine, ask).3
    };
    assert_eq!(ask(false).drafted, 0, "nothing is known and nothing is learnt on the way");
    assert_eq!(ask(false).drafted, 0);
    ask(true);
    assert!(ask(false).drafted > 0, "what others left is there to be used");
}

#[test]
fn lossless_preserves_the_distribution() {
    let engine = quiet(|_| {});
    const DRAWS: usize = 6000;
    let mut counts = [const { Vec::new() }; 2];
    let mut drafted = 0;
    for (speculation, counts) in
        [on(), SpeculationChoice { policy: Some(Policy::Lossless), ..on() }].into_iter().zip(&mut counts)
    {
        *counts = vec![0usize; 4096];
        for seed in 0..DRAWS {
            let mut ask =
                request([3, 1, 4, 1, 5], 4, seed as u64 * 2 + u64::from(speculation.policy.is_some()));
            ask.speculation =
                SpeculationChoice { sources: Some(Sources::from_iter([Source::Successors])), ..speculation };
            ask.sampling.top_k = 6;
            ask.sampling.temperature = 0.7;
            let (ids, _, _, report) = bits(&engine, ask);
            // The last three tokens, folded: each depends on draft tokens before it.
            counts[ids[1..].iter().fold(0, |hash, id| (hash * 31 + *id as usize) % 97)] += 1;
            drafted += if speculation.policy.is_some() { report.drafted } else { 0 };
        }
    }
    assert!(drafted > DRAWS / 2, "too little was drafted to tell: {drafted}");
    let (chi, cells) = counts[0]
        .iter()
        .zip(&counts[1])
        .filter(|(a, b)| **a + **b >= 10)
        .fold((0.0, 0), |(chi, cells), (&a, &b)| {
            (chi + (a as f64 - b as f64).powi(2) / (a + b) as f64, cells + 1)
        });
    // The 99.9 % quantile of chi-square, by Wilson and Hilferty.
    let freedom = f64::from(cells - 1);
    let bound = freedom * (1.0 - 2.0 / (9.0 * freedom) + 3.09 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
    assert!(cells > 5 && chi < bound, "chi-square {chi} of {cells} cells, bound {bound}");
}

#[test]
fn agreement_accepts_plausible_tokens_and_reports_them() {
    let engine = quiet(|_| {});
    let mut ask = request((0..60).map(|i| i * 3 % 250), 60, 4);
    ask.sampling.temperature = 0.0;
    let (exact, ..) = bits(&engine, ask.clone());
    let mut prediction = exact.clone();
    prediction.iter_mut().skip(3).step_by(7).for_each(|token| *token = (*token + 1) % 250);
    let with = |thresholds| {
        let policy = Some(Policy::Agreement(thresholds));
        let speculation = SpeculationChoice { policy, ..only(Source::Prediction) };
        bits(&engine, Request { prediction: prediction.clone(), speculation, ..ask.clone() })
    };
    let (strict, _, _, report) = with(Thresholds { epsilon: 1.0, delta: 1.0, tau: 1.0 });
    assert_eq!((&strict, report.relaxed), (&exact, 0), "only the most probable token passes");
    let (loose, _, _, report) = with(Thresholds { epsilon: 0.0, delta: 0.0, tau: 0.0 });
    assert!(report.relaxed > 0 && report.given_up > 0.0, "{report:?}");
    assert_ne!(loose, exact);
}

fn with_store(dir: &std::path::Path, responses: Responses) -> (Engine, Arc<Store>) {
    let store = Arc::new(Store::open(dir, StoreConfig::default(), Arc::new(SystemClock::new())));
    let engine = Fixture::load().start(|config| {
        config.store = Some(Arc::clone(&store));
        config.responses = responses;
        config.drafts = Some((dir.join("drafts"), 1 << 20));
    });
    (engine, store)
}

#[test]
fn an_identical_deterministic_request_is_replayed_and_no_other_is() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = with_store(dir.path(), Responses::Deterministic);
    let ask = || Request { logprobs: Some(2), ..request((0..50).map(|i| i * 3 % 250), 30, 4) };
    let replays = |request: Request| {
        let before = engine.stats().replayed_total;
        let bits = bits(&engine, request);
        store.flush();
        (bits, engine.stats().replayed_total - before)
    };
    let (first, none) = replays(ask());
    let (again, one) = replays(ask());
    assert_eq!((none, one), (0, 1));
    assert_eq!((&first.0, &first.1, &first.2), (&again.0, &again.1, &again.2));
    assert!(!again.2.is_empty(), "log-probabilities are replayed too");

    let no_read = CacheUse { read: false, write: true };
    assert_eq!(replays(Request { cache: no_read, ..ask() }).1, 0);
    assert_eq!(replays(Request { tenant: "other".into(), ..ask() }).1, 0);
    let mut chance = ask();
    chance.sampling.seed = None;
    assert_eq!((replays(chance.clone()).1, replays(chance).1), (0, 0));
    let unwritten = Request { cache: CacheUse { read: true, write: false }, ..request([9, 9, 9], 5, 1) };
    assert_eq!((replays(unwritten.clone()).1, replays(unwritten).1), (0, 0));

    let (engine, _) = with_store(dir.path(), Responses::Off);
    assert_eq!(bits(&engine, ask()).0, first.0);
    assert_eq!(engine.stats().replayed_total, 0);
}

#[test]
fn a_changed_question_finds_the_earlier_answer_also_after_a_restart_and_only_its_own_tenant_s() {
    let dir = tempfile::tempdir().unwrap();
    let question = |changed: u32| (0..80).map(move |i| if i == 60 { changed } else { i * 7 % 250 });
    let ask = |tenant: &str, changed| {
        let mut ask = request(question(changed), 60, 4);
        ask.sampling.temperature = 0.0;
        // The answer must be the earlier one for the most part: a strong bias makes it so.
        ask.sampling.logit_bias = (0..12).map(|id| (id * 17, 4.0)).collect();
        Request { tenant: tenant.into(), speculation: only(Source::Memory), ..ask }
    };
    let (engine, store) = with_store(dir.path(), Responses::Deterministic);
    let (_, _, _, cold) = bits(&engine, ask("a", 1));
    assert_eq!(cold.drafted, 0);
    store.flush();
    drop((engine, store));
    let (engine, _) = with_store(dir.path(), Responses::Deterministic);
    let (_, _, _, warm) = bits(&engine, ask("a", 2));
    assert!(warm.accepted > 10, "{warm:?}");
    let (_, _, _, other) = bits(&engine, ask("b", 3));
    assert_eq!(other.drafted, 0, "another tenant's answers are nobody's draft");
    engine.forget(Some("a"));
    let (_, _, _, forgotten) = bits(&engine, ask("a", 4));
    assert_eq!(forgotten.drafted, 0);
}

#[test]
fn a_draft_model_like_the_target_drafts_what_the_target_says() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        quiet(|config| {
            config.draft_model = Some((Fixture::load().model, 1 << 20));
            config.disk = Some((dir.path().join("blocks"), 1 << 30));
        })
    };
    let engine = start();
    for temperature in [0.0, 0.8] {
        for policy in [Policy::Exact, Policy::Lossless] {
            let mut ask = request((0..150).map(|i| i * 3 % 250), 60, 4);
            ask.sampling.temperature = temperature;
            let (plain, ..) = bits(&engine, ask.clone());
            let speculation = SpeculationChoice { policy: Some(policy), ..only(Source::DraftModel) };
            let (ids, _, _, report) = bits(&engine, Request { speculation, ..ask });
            assert_eq!(ids.len(), plain.len());
            if policy == Policy::Exact || temperature == 0.0 {
                assert_eq!(ids, plain);
            }
            // The drafter takes as long as the target, so it hardly ever pays; but its first choice is the target's.
            if temperature == 0.0 {
                let unproductive = report.histogram.first().copied().unwrap_or(0);
                assert_eq!(unproductive, 0, "{policy:?}: {report:?}");
            }
        }
    }
    let right = || {
        let classes = engine.stats().drafts.reliability[Source::DraftModel as usize];
        classes.iter().map(|of| of.right).sum::<u64>()
    };
    let start = std::time::Instant::now();
    while right() == 0 {
        assert!(
            start.elapsed().as_secs() < 20,
            "no draft token of the draft model was correct, verified or not"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
