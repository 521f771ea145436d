//! For any request: text, log-probabilities, token counts and events describe the same tokens, whether the answer is
//! computed or replayed, wherever a stop text or the token limit cuts it, inside a character too.

mod common;

use std::sync::{Arc, LazyLock};

use common::{Fixture, request};
use foretoken_cache::SystemClock;
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_engine::{Answer, Engine, Event, FinishReason, Request, Summary};
use foretoken_model::tokenizer::TokenDecoder;
use proptest::prelude::*;

/// An engine with a response store, and one that computes everything and drafts nothing.
struct World {
    store: Arc<Store>,
    replaying: Engine,
    plain: Engine,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let store = Arc::new(Store::in_memory(StoreConfig::default(), Arc::new(SystemClock::new())));
    let fixture = Fixture::load();
    let replaying = fixture.start(|config| config.store = Some(Arc::clone(&store)));
    let plain = fixture.start(|config| config.speculation.enabled = false);
    World { store, replaying, plain }
});

/// An answer as its caller sees it.
#[derive(Debug)]
struct Seen {
    ids: Vec<u32>,
    /// The text of each event.
    pieces: Vec<String>,
    /// Bytes of the tokens that have log-probabilities.
    scored: Vec<Vec<u8>>,
    summary: Summary,
}

impl Seen {
    fn text(&self) -> String {
        self.pieces.concat()
    }
}

fn read(mut answer: Answer) -> Seen {
    let (mut ids, mut pieces, mut scored) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match answer.recv_blocking().expect("an answer ends with a summary") {
            Event::Tokens(tokens) => {
                pieces.push(tokens.iter().map(|token| token.text.as_str()).collect());
                for token in tokens {
                    ids.push(token.id);
                    scored.extend(token.logprob.map(|logprob| {
                        assert_eq!(logprob.chosen.id, token.id);
                        logprob.chosen.bytes
                    }));
                }
            }
            Event::Done(summary) => {
                pieces.push(summary.text.clone());
                return Seen { ids, pieces, scored, summary };
            }
        }
    }
}

fn ask(engine: &Engine, request: &Request) -> Seen {
    read(engine.submit(Request { progress: Arc::default(), ..request.clone() }).expect("an engine with room"))
}

/// The whole characters of `tokens`.
fn characters(tokens: &[Vec<u8>]) -> String {
    TokenDecoder::new(true).push_bytes(&tokens.concat())
}

/// What comes before the stop text that is complete first; of two that end together, before the longer.
fn until_stop<'a>(text: &'a str, stops: &[String]) -> Option<&'a str> {
    let found = |stop: &String| text.find(stop.as_str()).map(|start| (start + stop.len(), start));
    stops.iter().filter_map(found).min().map(|(_, start)| &text[..start])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn text_log_probabilities_counts_and_events_are_of_the_same_tokens(
        prompt in prop::collection::vec(0u32..60, 1..8),
        max_tokens in 1usize..48,
        seed: u64,
        show_control: bool,
        logprobs in 0usize..4,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 1usize..5), 0..3),
        foreign in prop::option::of("[a-zé]{2,3}"),
    ) {
        let bare = Request { show_control, ..request(prompt, max_tokens, seed) };
        let bare_seen = ask(&WORLD.plain, &bare);
        let whole = bare_seen.text();
        prop_assert_eq!(bare_seen.ids.len(), max_tokens);
        prop_assert!(bare_seen.scored.is_empty());

        // Texts of the answer itself, so that most requests stop.
        let chars: Vec<char> = whole.chars().collect();
        let stop = cuts.iter().filter(|_| !chars.is_empty()).map(|(at, len)| {
            let at = at.index(chars.len());
            chars[at..chars.len().min(at + len)].iter().collect()
        });
        let stop: Vec<String> = stop.chain(foreign).collect();
        let request = Request { stop, logprobs: Some(logprobs), ..bare };
        let seen = ask(&WORLD.replaying, &request);

        // Neither log-probabilities nor drafts nor stop texts change a token.
        prop_assert_eq!(&seen.ids[..], &bare_seen.ids[..seen.ids.len()]);
        prop_assert_eq!(seen.summary.usage.completion_tokens, seen.ids.len());
        let text = seen.text();
        let before_stop = until_stop(&whole, &request.stop);
        prop_assert_eq!(&text, before_stop.unwrap_or(&whole));
        let reason = if before_stop.is_some() { FinishReason::Stop } else { FinishReason::Length };
        prop_assert_eq!(&seen.summary.reason, &reason);

        // A character may be broken off by a token that is not in the text.
        let scored = String::from_utf8_lossy(&seen.scored.concat()).into_owned();
        match reason {
            FinishReason::Length => prop_assert_eq!(&scored, &text),
            // The last token may hold the beginning of the stop text too.
            _ => prop_assert!(scored.starts_with(&text), "{:?}", seen),
        }
        if let Some((_, before)) = seen.scored.split_last() {
            prop_assert!(characters(before).len() < text.len(), "the last scored token has no text: {:?}", seen);
        }

        // The answer is on its way to the store.
        WORLD.store.flush();
        let replayed = ask(&WORLD.replaying, &request);
        prop_assert!(replayed.summary.replayed);
        prop_assert_eq!((&replayed.ids, replayed.text(), &replayed.scored), (&seen.ids, text, &seen.scored));
        prop_assert_eq!(replayed.summary.usage.completion_tokens, seen.ids.len());
        prop_assert_eq!(&replayed.summary.reason, &reason);
    }
}
