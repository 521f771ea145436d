//! Text, log-probabilities, token counts and events describe the same tokens, computed or replayed.

mod common;

use std::ops::Range;
use std::sync::Arc;

use common::{Fixture, request};
use foretoken_cache::SystemClock;
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_engine::{Answer, Engine, Event, FinishReason, Request, Summary};
use foretoken_model::tokenizer::TokenDecoder;

/// An answer as its caller sees it.
#[derive(Debug)]
struct Seen {
    ids: Vec<u32>,
    text: String,
    /// Bytes of the tokens that have log-probabilities.
    scored: Vec<Vec<u8>>,
    /// Where those tokens have text.
    spans: Vec<Range<usize>>,
    summary: Summary,
}

fn read(mut answer: Answer) -> Seen {
    let (mut ids, mut text, mut scored, mut spans) = (Vec::new(), String::new(), Vec::new(), Vec::new());
    loop {
        match answer.recv_blocking().expect("an answer ends with a summary") {
            Event::Tokens(tokens) => {
                for token in tokens {
                    ids.push(token.id);
                    text.push_str(&token.text);
                    scored.extend(token.logprob.map(|logprob| {
                        assert_eq!(logprob.chosen.id, token.id);
                        logprob.chosen.bytes
                    }));
                    spans.extend(token.span);
                }
            }
            Event::Done(summary) => {
                text.push_str(&summary.text);
                return Seen { ids, text, scored, spans, summary };
            }
        }
    }
}

/// The whole characters of `bytes`.
fn characters(tokens: &[Vec<u8>]) -> String {
    TokenDecoder::new(true).push_bytes(&tokens.concat())
}

/// Checks an answer by itself.
fn check(seen: &Seen, stops: &[String]) {
    assert_eq!(seen.summary.usage.completion_tokens, seen.ids.len(), "{seen:?}");
    // A character may be broken off by a token that is not in the text.
    let whole = String::from_utf8_lossy(&seen.scored.concat()).into_owned();
    match seen.summary.reason {
        FinishReason::Length => assert_eq!(whole, seen.text, "{seen:?}"),
        // The last token may hold the beginning of the stop text too.
        _ => assert!(whole.starts_with(&seen.text), "{seen:?}"),
    }
    if let Some((_, before)) = seen.scored.split_last() {
        assert!(characters(before).len() < seen.text.len(), "the last scored token has no text: {seen:?}");
    }
    assert_eq!(seen.spans.len(), seen.scored.len(), "a token has a span or no log-probability: {seen:?}");
    let mut certain = 0;
    for (span, bytes) in seen.spans.iter().zip(&seen.scored) {
        let next = seen.text.ceil_char_boundary(certain);
        assert!(span.start <= next && certain <= span.end && span.start < seen.text.len(), "{seen:?}");
        // Whole characters of the token are those of the text.
        if let (Ok(text), Some(part)) = (std::str::from_utf8(bytes), seen.text.get(span.clone())) {
            assert_eq!(text, part, "{seen:?}");
        }
        certain = span.end;
    }
    let stopped_by = seen.summary.stopped_by.as_ref();
    assert_eq!(stopped_by, stops.iter().find(|_| seen.summary.reason == FinishReason::Stop), "{seen:?}");
    assert!(!stops.iter().any(|stop| seen.text.contains(stop.as_str())), "{seen:?}");
}

fn ask(engine: &Engine, request: &Request) -> Seen {
    read(engine.submit(Request { progress: Arc::default(), ..request.clone() }).expect("an engine with room"))
}

#[test]
fn text_and_log_probabilities_are_of_the_same_tokens() {
    let store = Arc::new(Store::in_memory(StoreConfig::default(), Arc::new(SystemClock::new())));
    let engine = Fixture::load().start(|config| config.store = Some(Arc::clone(&store)));
    let (mut unscored, mut stopped) = (0, 0);
    for seed in 0..60_u64 {
        let max_tokens = 1 + seed as usize % 40;
        let plain = Request { logprobs: Some(0), ..request([1, 2, seed as u32 % 50], max_tokens, seed) };
        let first = ask(&engine, &plain);
        assert!(!first.summary.replayed);
        check(&first, &[]);
        assert_eq!((first.ids.len(), &first.summary.reason), (max_tokens, &FinishReason::Length));

        let chars: Vec<char> = first.text.chars().collect();
        let from = chars.len() / 2;
        let stops: Vec<String> =
            (1..4).filter_map(|len| Some(chars.get(from..from + len)?.iter().collect())).collect();
        for stop in stops {
            let request = Request { stop: vec![stop], ..plain.clone() };
            let computed = ask(&engine, &request);
            check(&computed, &request.stop);
            assert_eq!(computed.summary.reason, FinishReason::Stop);
            assert!(first.text.starts_with(&computed.text));
            // The answer is on its way to the store.
            store.flush();
            let replayed = ask(&engine, &request);
            assert!(replayed.summary.replayed);
            assert_eq!(
                (&replayed.ids, &replayed.text, &replayed.scored, &replayed.spans, &replayed.summary.reason),
                (&computed.ids, &computed.text, &computed.scored, &computed.spans, &computed.summary.reason),
            );
            stopped += 1;
            unscored += usize::from(computed.scored.len() < computed.ids.len());
        }
    }
    assert!(stopped > 50 && unscored > 10, "the cases that matter occur: {stopped} {unscored}");
}
