//! Constrained answers as callers see them: the same bytes with and without speculation and in a batch, valid whenever
//! they are finished, under every policy, and forced tokens drafted.

mod common;

use std::sync::{Arc, LazyLock};

use foretoken_cache::SystemClock;
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_engine::{
    Answer, Constraint, Engine, FinishReason, Policy, Reasoning, Request, Sampling, Source, Sources,
    Speculation, SpeculationChoice, Summary, Thresholds,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use common::{Fixture, collect, request};

/// Engines that draft where a request says so, and one that never does.
static ENGINES: LazyLock<[Engine; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| {
        Fixture::load().start(|config| {
            config.speculation = Speculation { enabled: false, ..Speculation::default() };
        })
    })
});

fn on() -> SpeculationChoice {
    SpeculationChoice { enabled: Some(true), ..SpeculationChoice::default() }
}

fn only(source: Source) -> SpeculationChoice {
    SpeculationChoice { sources: Some(Sources::from_iter([source])), ..on() }
}

/// A schema of which a model that writes noise comes to an end.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "identifier": {"type": "integer", "minimum": 10, "maximum": 999},
            "kind": {"enum": ["first", "second", 3, null]},
            "tree": {"$ref": "#/$defs/tree"},
            "matrix": {
                "type": "array", "minItems": 1, "maxItems": 2,
                "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            },
            "name": {"type": "string", "maxLength": 12},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
        },
        "required": ["identifier", "kind", "tree", "matrix", "name", "code"],
        "additionalProperties": false,
        "$defs": {"tree": {
            "type": "object",
            "properties": {
                "leaf": {"type": "boolean"},
                "branches": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1},
            },
            "required": ["leaf", "branches"],
            "additionalProperties": false,
        }},
    })
}

type Case = (Constraint, fn(&str) -> bool);

/// Constraints, and whether a finished text keeps them, as others see it.
fn cases() -> Vec<Case> {
    vec![
        (Constraint::JsonObject, |text| {
            serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
        }),
        (Constraint::JsonSchema(schema()), |text| {
            let validator = jsonschema::validator_for(&schema()).expect("a valid schema");
            serde_json::from_str(text).is_ok_and(|value| validator.is_valid(&value))
        }),
        (Constraint::Regex("[a-f]{3,9}(-[0-9]+){2}x".into()), |text| {
            let pattern = json!({"pattern": "^[a-f]{3,9}(-[0-9]+){2}x$"});
            jsonschema::validator_for(&pattern).expect("a valid pattern").is_valid(&json!(text))
        }),
        (
            Constraint::Choice(["positive", "positively", "negative", "néant\n"].map(Into::into).into()),
            |text| ["positive", "positively", "negative", "néant\n"].contains(&text),
        ),
        (Constraint::Gbnf("root ::= \"(\" root? \")\" | [0-9]{1,4}".into()), |text| {
            let inner = text.trim_matches(['(', ')']);
            let depth = text.len() - inner.len();
            text.starts_with(&"(".repeat(depth / 2))
                && depth % 2 == 0
                && inner.bytes().all(|b| b.is_ascii_digit())
        }),
    ]
}

fn ask(engine: &Engine, constraint: &Constraint, sampling: Sampling, max_tokens: usize) -> Request {
    let grammar = engine.compile(constraint).expect("a constraint that can be enforced");
    Request {
        sampling,
        grammar: Some(grammar),
        ignore_eos: false,
        ..request((0..70).map(|i| i * 3 % 250), max_tokens, 0)
    }
}

fn sampling(temperature: f32, seed: u64) -> Sampling {
    Sampling { temperature, seed: Some(seed), ..Sampling::default() }
}

fn submit(engine: &Engine, request: Request) -> Answer {
    engine.submit(request).expect("a tiny engine takes it")
}

fn answer(engine: &Engine, request: Request) -> (Vec<u32>, String, Summary) {
    collect(submit(engine, request))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn exact_gives_the_same_bytes_with_and_without_drafts_alone_and_in_a_batch(
        temperature in prop_oneof![Just(0.0f32), Just(0.8), Just(1.5)],
        top_p in prop_oneof![Just(1.0f32), 0.3f32..1.0],
        seed: u64,
        always: bool,
        max_tokens in 1usize..300,
        garbage in prop::collection::vec(0u32..259, 0..60),
        edits in prop::collection::vec((0usize..100, 0u32..259), 0..6),
    ) {
        let [plain, drafting] = &*ENGINES;
        let cases = cases();
        let sampling = Sampling { top_p, ..sampling(temperature, seed) };
        let requests: Vec<Request> =
            cases.iter().map(|(constraint, _)| ask(plain, constraint, sampling.clone(), max_tokens)).collect();
        let expected: Vec<_> = requests.iter().map(|request| answer(plain, request.clone())).collect();
        // Twice: the second time from a memory of the first.
        for round in 0..2 {
            let answers: Vec<_> = requests.iter().zip(&expected).enumerate().map(|(at, (request, expected))| {
                // A draft that is right but for some tokens, or mostly forbidden.
                let mut prediction = if at % 2 == 0 { expected.0.clone() } else { garbage.clone() };
                for &(place, token) in &edits {
                    if let Some(predicted) = prediction.get_mut(place) {
                        *predicted = token;
                    }
                }
                let speculation = SpeculationChoice { always: Some(always), ..on() };
                submit(drafting, Request { prediction, speculation, ..request.clone() })
            }).collect();
            for ((answer, expected), (constraint, is_valid)) in answers.into_iter().zip(&expected).zip(&cases) {
                let (ids, text, summary) = collect(answer);
                prop_assert_eq!((&ids, &text), (&expected.0, &expected.1), "round {} {:?}", round, constraint);
                prop_assert_eq!(&summary.reason, &expected.2.reason);
                if summary.reason == FinishReason::Stop {
                    prop_assert!(is_valid(&text), "{:?}: {:?}", constraint, text);
                } else {
                    prop_assert_eq!(ids.len(), max_tokens, "only the limit ends it early");
                }
            }
        }
    }

    #[test]
    fn no_policy_lets_a_forbidden_token_through(
        policy in prop_oneof![
            Just(Policy::Lossless),
            Just(Policy::Agreement(Thresholds { epsilon: 0.0, delta: 0.0, tau: 0.0 })),
            Just(Policy::Agreement(Thresholds::default())),
        ],
        temperature in prop_oneof![Just(0.0f32), Just(0.8)],
        seed: u64,
        always: bool,
        prediction in prop::collection::vec(0u32..259, 0..200),
    ) {
        let [plain, drafting] = &*ENGINES;
        for (constraint, is_valid) in cases() {
            let request = ask(plain, &constraint, sampling(temperature, seed), 400);
            let speculation = SpeculationChoice { policy: Some(policy), always: Some(always), ..on() };
            let request = Request { speculation, prediction: prediction.clone(), ..request };
            let (ids, text, summary) = answer(drafting, request);
            match summary.reason {
                FinishReason::Stop => prop_assert!(is_valid(&text), "{:?}: {:?}", constraint, text),
                // A forbidden token is an error of the parser, and ends the answer before the limit.
                _ => prop_assert_eq!(ids.len(), 400, "{:?}", constraint),
            }
        }
    }
}

#[test]
fn forced_tokens_are_drafted_when_no_one_else_drafts_and_save_steps() {
    let [_, engine] = &*ENGINES;
    let constraint = Constraint::JsonSchema(schema());
    let run = |speculation| {
        let request = Request { speculation, ..ask(engine, &constraint, sampling(0.8, 5), 400) };
        answer(engine, request)
    };
    let (plain, text, _) = run(SpeculationChoice::default());
    let (ids, _, summary) = run(only(Source::Grammar));
    assert_eq!(ids, plain);
    let report = &summary.drafts;
    let of = report.sources[Source::ALL.iter().position(|of| *of == Source::Grammar).unwrap()];
    // The keys alone have more bytes, and each byte is a token of this model.
    assert!(of.accepted > 40 && of.accepted == report.accepted, "{text}: {report:?}");
    assert_eq!(of.proposed, of.accepted, "what is forced comes");
    assert!(report.steps + of.accepted <= ids.len(), "{report:?}");
    let (_, _, summary) = run(SpeculationChoice { sources: Some(Sources::NONE), ..on() });
    assert_eq!(summary.drafts.drafted, 0, "unless it is switched off");
}

#[test]
fn no_bias_lifts_a_forbidden_token() {
    let [engine, _] = &*ENGINES;
    let constraint = Constraint::Choice(vec!["abc".into(), "xyz".into()]);
    for (temperature, bias) in [(0.0, 1e30), (1.0, 1e30), (1.0, f32::MAX)] {
        let sampling =
            Sampling { logit_bias: vec![(u32::from(b'Q'), bias), (7, bias)], ..sampling(temperature, 3) };
        let (_, text, summary) = answer(engine, ask(engine, &constraint, sampling, 20));
        assert!(["abc", "xyz"].contains(&text.as_str()), "{text:?}");
        assert_eq!(summary.reason, FinishReason::Stop);
    }
}

#[test]
fn an_answer_ends_with_its_grammar_also_when_ends_are_ignored() {
    let [engine, _] = &*ENGINES;
    let constraint = Constraint::Choice(vec!["abc".into()]);
    let request = ask(engine, &constraint, sampling(1.0, 3), 20);
    let (ids, text, summary) = answer(engine, Request { ignore_eos: true, ..request.clone() });
    assert_eq!((text.as_str(), ids.len(), &summary.reason), ("abc", 3, &FinishReason::Stop));
    let exactly = answer(engine, Request { max_tokens: Some(3), ..request.clone() });
    assert_eq!(exactly.2.reason, FinishReason::Stop, "complete at the limit is complete");
    let (_, text, summary) = answer(engine, Request { max_tokens: Some(2), ..request });
    assert_eq!((text.as_str(), &summary.reason), ("ab", &FinishReason::Length));
}

#[test]
fn log_probabilities_are_the_models_own() {
    let [engine, _] = &*ENGINES;
    let request = Request {
        logprobs: Some(3),
        ..ask(engine, &Constraint::Choice(vec!["abc".into()]), sampling(1.0, 3), 20)
    };
    let mut answer = submit(engine, request);
    let mut scored = 0;
    while let Some(foretoken_engine::Event::Tokens(tokens)) = answer.recv_blocking() {
        for logprob in tokens.into_iter().filter_map(|token| token.logprob) {
            assert!(logprob.chosen.logprob.is_finite() && logprob.chosen.logprob < -0.5, "{logprob:?}");
            assert!(logprob.top.iter().all(|of| of.logprob >= logprob.chosen.logprob), "{logprob:?}");
            scored += 1;
        }
    }
    assert_eq!(scored, 3);
}

#[test]
fn what_comes_before_the_closing_tag_is_free() {
    let [engine, _] = &*ENGINES;
    let mut request = ask(engine, &Constraint::Choice(vec!["abc".into()]), sampling(1.0, 3), 60);
    request.grammar = request.grammar.map(|grammar| grammar.after(Reasoning::Open));
    let (ids, text, summary) = answer(engine, request);
    assert_eq!((ids.len(), &summary.reason), (60, &FinishReason::Length), "it never closes: {text:?}");
    let mut free = ask(engine, &Constraint::Choice(vec!["abc".into()]), sampling(1.0, 3), 60);
    free.grammar = None;
    // But for the end, which must not come before an answer.
    free.sampling.logit_bias = vec![(259, -1e9)];
    assert_eq!(answer(engine, free).0, ids);
}

#[test]
fn stored_answers_are_those_of_their_constraint() {
    let store = Arc::new(Store::in_memory(StoreConfig::default(), Arc::new(SystemClock::new())));
    let engine = Fixture::load().start(|config| config.store = Some(Arc::clone(&store)));
    let run = |texts: &[&str]| {
        let constraint = Constraint::Choice(texts.iter().map(|text| (*text).to_owned()).collect());
        let result = answer(&engine, ask(&engine, &constraint, sampling(0.0, 1), 20));
        store.flush();
        result
    };
    let (_, one, _) = run(&["abc"]);
    let (_, other, summary) = run(&["xyz"]);
    assert_eq!((one.as_str(), other.as_str(), summary.replayed), ("abc", "xyz", false));
    let (_, again, summary) = run(&["abc"]);
    assert_eq!((again.as_str(), summary.replayed), ("abc", true));
    assert_eq!(summary.reason, FinishReason::Stop);
}

#[test]
fn a_pattern_that_takes_too_much_ends_its_answer_and_no_other() {
    let [engine, _] = &*ENGINES;
    // The states of its automaton double with every letter.
    let hostile = Constraint::Regex("[ab]*a[ab]{60}c".into());
    let mut request = ask(engine, &hostile, sampling(1.0, 9), 400);
    request.sampling.top_k = 0;
    let plain = answer(engine, request.clone());
    let drafted = answer(engine, Request { speculation: on(), ..request });
    assert_eq!(plain.0, drafted.0, "limits are met at the same token");
    assert_eq!(plain.2.reason, drafted.2.reason);
    assert!(matches!(plain.2.reason, FinishReason::Length | FinishReason::Stop), "{:?}", plain.2.reason);
    let (_, text, _) =
        answer(engine, ask(engine, &Constraint::Choice(vec!["abc".into()]), sampling(1.0, 3), 20));
    assert_eq!(text, "abc");
}
