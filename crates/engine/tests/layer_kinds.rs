//! Cache, preemption, disk, shared store and speculation over one tiny model of each kind of layer: blocks are opaque to them, so what
//! a layer keeps in one must not show.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{CTX, Fixture, collect, request};
use foretoken_cache::{SharedConfig, Store};
use foretoken_engine::{CacheUse, Engine, Request, Speculation, SpeculationChoice};

/// Dense, windows, soft caps with a window of a whole block, windows of more than a block, on every layer, and with sinks,
/// layers without positions, latent attention, experts, a head for multi-token prediction.
const KINDS: [&str; 10] = [
    "qwen3",
    "gemma3",
    "gemma2-window",
    "gemma3-rope",
    "phi3",
    "gpt-oss",
    "smollm3",
    "deepseek3",
    "deepseek3-experts",
    "deepseek3-mtp",
];

/// A prompt of several blocks, longer than any of the windows.
fn prompt(seed: u32) -> Vec<u32> {
    (0..200).map(|t| (seed * 37 + t * 7 + t / 90) % 250).collect()
}

fn ids(engine: &Engine, request: Request) -> (Vec<u32>, usize) {
    let (ids, _, summary) = collect(engine.submit(request).unwrap());
    (ids, summary.usage.cache_hit_tokens)
}

fn uncached(seed: u32) -> Request {
    let cache = CacheUse { read: false, write: false };
    Request { cache, ..request(prompt(seed), 60, u64::from(seed)) }
}

#[test]
fn a_hit_in_memory_answers_as_recomputing_would() {
    for kind in KINDS {
        let engine = Fixture::named(kind).start(|_| {});
        let (expected, _) = ids(&engine, uncached(1));
        let ask = || request(prompt(1), 60, 1);
        assert_eq!(ids(&engine, ask()), (expected.clone(), 0), "{kind}: cold");
        // With a head for multi-token prediction the last token is computed again, for its hidden row.
        let hit = if kind.ends_with("-mtp") { 198 } else { 199 };
        assert_eq!(ids(&engine, ask()), (expected, hit), "{kind}: from memory");
    }
}

#[test]
fn a_hit_on_disk_after_a_restart_answers_as_recomputing_would() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::named(kind);
        let start = || fixture.start(|config| config.disk = Some((dir.path().into(), 1 << 30)));
        let before = start();
        let (expected, hit) = ids(&before, request(prompt(2), 60, 2));
        assert_eq!(hit, 0, "{kind}: cold");
        before.flush_cache();
        drop(before);
        assert_eq!(ids(&start(), request(prompt(2), 60, 2)), (expected, 192), "{kind}: from disk");
    }
}

#[test]
fn a_hit_in_a_shared_store_answers_as_recomputing_would() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::named(kind);
        let start = || {
            let store = SharedConfig::new(Store::Folder(dir.path().into()));
            fixture.start(|config| config.shared = Some(store))
        };
        let one = start();
        let (expected, hit) = ids(&one, request(prompt(2), 60, 2));
        assert_eq!(hit, 0, "{kind}: cold");
        one.flush_cache();
        assert_eq!(ids(&start(), request(prompt(2), 60, 2)), (expected, 192), "{kind}: another machine");
    }
}

#[test]
fn a_preempted_sequence_answers_as_if_it_had_not_been() {
    for kind in KINDS {
        let fixture = Fixture::named(kind);
        let blocks = CTX.div_ceil(64) + 1;
        let small = fixture.start(|config| config.kv_bytes = blocks * fixture.block_bytes());
        let roomy = fixture.start(|_| {});
        let ask = |i: u32| request(prompt(i), 150, u64::from(i));
        let expected: Vec<_> = (0..4).map(|i| ids(&roomy, ask(i)).0).collect();
        let answers: Vec<_> = (0..4).map(|i| small.submit(ask(i)).unwrap()).collect();
        let got: Vec<_> = answers.into_iter().map(|answer| collect(answer).0).collect();
        assert!(got == expected, "{kind}: a preempted sequence answers otherwise");
        // With windows on every layer, sequences wait for windowed parts instead.
        let preempts = kind != "phi3";
        assert!(
            !preempts || small.stats().preemptions_total > 0,
            "{kind}: the test must make blocks run out"
        );
    }
}

#[test]
fn exact_speculation_changes_no_token() {
    for kind in KINDS {
        let fixture = Fixture::named(kind);
        let quiet = Speculation { enabled: false, ..Speculation::default() };
        let engine = fixture.start(|config| config.speculation = quiet);
        let (expected, _) = ids(&engine, uncached(3));
        // Right but for every seventh token, so that drafts are accepted in parts.
        let wrong = |(at, &token): (usize, &u32)| if at % 7 == 6 { (token + 1) % 250 } else { token };
        let prediction: Vec<u32> = expected.iter().enumerate().map(wrong).collect();
        let on = SpeculationChoice { enabled: Some(true), ..SpeculationChoice::default() };
        let (got, _, summary) =
            collect(engine.submit(Request { prediction, speculation: on, ..uncached(3) }).unwrap());
        assert!(got == expected, "{kind}: drafts change the answer");
        assert!(summary.drafts.accepted > 0, "{kind}: {:?}", summary.drafts);
    }
}
