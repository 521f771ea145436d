//! The head for multi-token prediction as a drafter: it drafts, alone and in a crowd, and never changes an answer.
//! That its state in blocks is the same however they were computed is in `block_bytes`.
//!
//! The tiny model's layers do little, so that its head, which sees the same tokens, often agrees with it.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{Fixture, collect, request};
use foretoken_engine::{
    CacheUse, DraftReport, Engine, Policy, Request, Sampling, Source, Sources, Speculation, SpeculationChoice,
};

const MODEL: &str = "heads/agreeing";

/// An engine where only the head drafts.
fn start() -> Engine {
    let sources = Sources::NONE.with(Source::Mtp);
    Fixture::named(MODEL)
        .start(|config| config.speculation = Speculation { sources, ..Speculation::default() })
}

/// Neither reads nor writes caches, so that everything is computed.
fn ask(seed: u32, temperature: f32, speculate: bool) -> Request {
    let prompt = (0..100).map(|t| (seed * 37 + t * 7 + t / 90) % 250);
    let sampling = Sampling { temperature, seed: Some(u64::from(seed)), ..Sampling::default() };
    Request {
        sampling,
        cache: CacheUse { read: false, write: false },
        speculation: SpeculationChoice { enabled: Some(speculate), ..SpeculationChoice::default() },
        ..request(prompt, 150, 0)
    }
}

fn answer(engine: &Engine, request: Request) -> (Vec<u32>, DraftReport) {
    let (ids, _, summary) = collect(engine.submit(request).unwrap());
    (ids, *summary.drafts)
}

#[test]
fn what_the_head_drafts_is_often_accepted_and_changes_no_token() {
    let engine = start();
    for temperature in [0.0, 0.8] {
        let (expected, none) = answer(&engine, ask(1, temperature, false));
        assert_eq!(none.drafted, 0);
        let (got, report) = answer(&engine, ask(1, temperature, true));
        assert_eq!(got, expected, "at temperature {temperature}");
        let of_head = report.sources[Source::ALL.iter().position(|of| *of == Source::Mtp).unwrap()];
        assert_eq!((of_head.proposed, of_head.accepted), (report.drafted, report.accepted), "{temperature}");
        assert!(temperature > 0.0 || report.accepted > 50, "{report:?}");
    }
}

#[test]
fn a_crowd_gets_the_answers_of_each_alone() {
    let engine = start();
    let requests = || (0..6).map(|seed| ask(seed, if seed % 2 == 0 { 0.0 } else { 0.8 }, true));
    let alone: Vec<_> = requests().map(|request| answer(&engine, request).0).collect();
    let together: Vec<_> = requests().map(|request| engine.submit(request).unwrap()).collect();
    let together: Vec<_> = together.into_iter().map(|answer| collect(answer).0).collect();
    assert_eq!(together, alone);
}

#[test]
fn rejection_sampling_accepts_what_the_head_draws() {
    let engine = start();
    let mut request = ask(3, 0.8, true);
    request.speculation.policy = Some(Policy::Lossless);
    let (ids, report) = answer(&engine, request);
    assert_eq!(ids.len(), 150);
    assert!(report.accepted > 0, "{report:?}");
}

#[test]
fn a_prompt_of_one_token_has_no_hidden_row_before_it() {
    let engine = start();
    let one = |speculate| Request { prompt: vec![7], ..ask(1, 0.0, speculate) };
    assert_eq!(answer(&engine, one(true)).0, answer(&engine, one(false)).0);
}
