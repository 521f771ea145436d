//! Acceptance after a hit is acceptance when cold: a hit brings the state of the head for multi-token prediction along,
//! so the same tokens are drafted and accepted in the same steps, wherever the blocks come from.
//!
//! Everything that is drafted is verified (`always`), so what happens depends on tokens alone and not on time. The tiny
//! model's head often agrees with it.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{Fixture, request};
use foretoken_cache::{SharedConfig, Store};
use foretoken_engine::{
    CacheUse, Engine, EngineConfig, Event, Request, Sampling, Source, Sources, SpeculationChoice,
};

const MODEL: &str = "heads/agreeing";

/// What happened in each step: its tokens, and which of them were drafted.
type Steps = Vec<Vec<(u32, Option<Source>)>>;

fn prompt(seed: u32) -> Vec<u32> {
    (0..200).map(|t| (seed * 37 + t * 7 + t / 90) % 250).collect()
}

fn ask(seed: u32, temperature: f32) -> Request {
    let speculation = SpeculationChoice {
        sources: Some(Sources::NONE.with(Source::Mtp)),
        max_draft: Some(6),
        always: Some(true),
        ..SpeculationChoice::default()
    };
    let sampling = Sampling { temperature, seed: Some(u64::from(seed)), ..Sampling::default() };
    Request { sampling, speculation, ..request(prompt(seed), 120, 0) }
}

fn plain(request: Request) -> Request {
    let speculation = SpeculationChoice { enabled: Some(false), ..SpeculationChoice::default() };
    Request { speculation, cache: CacheUse { read: false, write: false }, ..request }
}

/// The steps of an answer, and its hit tokens.
fn steps(engine: &Engine, request: Request) -> (Steps, usize) {
    let (mut answer, mut steps) = (engine.submit(request).unwrap(), Vec::new());
    loop {
        match answer.recv_blocking().unwrap() {
            Event::Tokens(tokens) => {
                steps.push(tokens.iter().map(|token| (token.id, token.source)).collect());
            }
            Event::Done(summary) => return (steps, summary.usage.cache_hit_tokens),
        }
    }
}

fn accepted(steps: &Steps) -> usize {
    steps.iter().flatten().filter(|(_, source)| source.is_some()).count()
}

fn ids(steps: &Steps) -> Vec<u32> {
    steps.iter().flatten().map(|&(id, _)| id).collect()
}

/// Cold in one engine, and then a hit in what `second` gives, of `hit` tokens at least.
fn assert_same_after_a_hit(change: impl Fn(&mut EngineConfig), same_engine: bool, hit: usize) {
    let fixture = Fixture::named(MODEL);
    for temperature in [0.0, 0.8] {
        let seed = if temperature > 0.0 { 2 } else { 1 };
        let first = fixture.start(&change);
        let (cold, none) = steps(&first, ask(seed, temperature));
        assert_eq!(none, 0, "{temperature}: the first is cold");
        assert_eq!(ids(&cold), ids(&steps(&first, plain(ask(seed, temperature))).0), "{temperature}: exact");
        let least = if temperature > 0.0 { 5 } else { 50 };
        assert!(accepted(&cold) >= least, "{temperature}: {} of 120 accepted", accepted(&cold));
        first.flush_cache();
        let second = if same_engine {
            first
        } else {
            drop(first);
            fixture.start(&change)
        };
        let (after, got) = steps(&second, ask(seed, temperature));
        assert_eq!(got, hit, "{temperature}: hit tokens");
        assert_eq!(after, cold, "{temperature}: steps after the hit");
    }
}

#[test]
fn from_memory() {
    assert_same_after_a_hit(|_| {}, true, 198);
}

#[test]
fn from_disk_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    assert_same_after_a_hit(|config| config.disk = Some((dir.path().into(), 1 << 30)), false, 192);
}

#[test]
fn from_a_shared_store_on_another_machine() {
    let dir = tempfile::tempdir().unwrap();
    let store = || SharedConfig::new(Store::Folder(dir.path().into()));
    assert_same_after_a_hit(|config| config.shared = Some(store()), false, 192);
}
