//! Drafters that find the answer's last tokens in a text: the client's prediction, the sequence's own text, the
//! tenant's memory.

use std::sync::Arc;

use foretoken_cache::{Cursor, DraftMemory, SuffixAutomaton};

use super::draft_tree::ROOT;
use super::drafter::{Context, Drafter, Proposals};
use super::mutex::Mutex;
use super::settings::Source;
use super::text_follower::TextFollower;

/// Shorter matches predict next to nothing.
const MATCH_MIN: usize = 2;
/// A second child is proposed if its share is at least this.
const SECOND_SHARE: f32 = 0.15;
/// Buckets of the memory's follower come after those of its automaton.
const ALIKE_BUCKETS: u8 = 40;
/// Prompts that share more than this are a class of their own.
const ALIKE_SHARE: f32 = 0.1;

/// OpenAI's `prediction`.
pub(crate) struct Prediction(TextFollower);

impl Prediction {
    pub(crate) fn new(tokens: Vec<u32>) -> Prediction {
        Prediction(TextFollower::new(tokens))
    }
}

impl Drafter for Prediction {
    fn source(&self) -> Source {
        Source::Prediction
    }

    fn propose(&mut self, _: Context<'_>, out: &mut Proposals<'_>) {
        self.0.propose(out, 0);
    }

    fn observe(&mut self, tokens: &[u32], _: usize) {
        tokens.iter().for_each(|&token| self.0.observe(token));
    }
}

/// The prompt and the answer so far.
pub(crate) struct OwnText {
    automaton: SuffixAutomaton,
    read: usize,
}

impl OwnText {
    pub(crate) fn new() -> OwnText {
        OwnText { automaton: SuffixAutomaton::default(), read: 0 }
    }
}

impl Drafter for OwnText {
    fn source(&self) -> Source {
        Source::OwnText
    }

    fn propose(&mut self, context: Context<'_>, out: &mut Proposals<'_>) {
        context.tokens[self.read..].iter().for_each(|&token| self.automaton.push(token));
        self.read = context.tokens.len();
        propose_from(&self.automaton, self.automaton.repeated(), out);
    }

    fn observe(&mut self, _: &[u32], _: usize) {}
}

/// The tenant's past prompts and answers.
pub(crate) struct Memory {
    memory: Arc<Mutex<DraftMemory>>,
    /// The memory that the cursor belongs to; a rebuilt one has another number.
    built: u64,
    cursor: Cursor,
    read: usize,
    /// The answer to a similar prompt.
    alike: Option<(TextFollower, u8)>,
    asked: bool,
}

impl Memory {
    pub(crate) fn new(memory: Arc<Mutex<DraftMemory>>) -> Memory {
        Memory { memory, built: 0, cursor: Cursor::default(), read: 0, alike: None, asked: false }
    }
}

/// Tokens that are read again when a memory was rebuilt.
const REREAD: usize = 64;

impl Drafter for Memory {
    fn source(&self) -> Source {
        Source::Memory
    }

    fn propose(&mut self, context: Context<'_>, out: &mut Proposals<'_>) {
        let mut memory = self.memory.lock();
        let tokens = context.tokens;
        if !std::mem::replace(&mut self.asked, true) {
            let (prompt, answer) = tokens.split_at(context.prompt);
            self.alike = memory.alike(prompt).map(|alike| {
                let mut follower = TextFollower::new(alike.answer);
                answer.iter().for_each(|&token| follower.observe(token));
                (follower, if alike.share < ALIKE_SHARE { ALIKE_BUCKETS } else { ALIKE_BUCKETS + 16 })
            });
            self.read = tokens.len().saturating_sub(REREAD);
        }
        if self.built != memory.built() {
            (self.built, self.cursor) = (memory.built(), Cursor::default());
            self.read = self.read.min(tokens.len().saturating_sub(REREAD));
        }
        for &token in &tokens[self.read..] {
            self.cursor = memory.automaton().advance(self.cursor, token);
        }
        self.read = tokens.len();
        if let Some((follower, buckets)) = &self.alike {
            follower.propose(out, *buckets);
        }
        propose_from(memory.automaton(), self.cursor, out);
    }

    fn observe(&mut self, tokens: &[u32], accepted: usize) {
        if let Some((follower, _)) = &mut self.alike {
            tokens.iter().for_each(|&token| follower.observe(token));
        }
        if accepted >= MATCH_MIN {
            self.memory.lock().used(self.cursor);
        }
    }
}

/// The most frequent continuations of a match, and at each step the second one if it is not rare.
fn propose_from(automaton: &SuffixAutomaton, cursor: Cursor, out: &mut Proposals<'_>) {
    let (mut cursor, mut parent) = (cursor, ROOT);
    while cursor.len() >= MATCH_MIN && out.room > 0 {
        let ([first, second], total) = automaton.continuations::<2>(cursor);
        let Some(first) = first else {
            // The text ends here; a shorter match may go on.
            cursor = automaton.shorten(cursor);
            continue;
        };
        let share = |count: u32| count as f32 / total as f32;
        let (bucket, prior) = class(cursor.len(), share(first.count));
        let node = out.add(parent, first.token, bucket, prior);
        if let Some(second) = second.filter(|second| share(second.count) >= SECOND_SHARE) {
            let (bucket, prior) = class(cursor.len(), share(second.count));
            out.add(parent, second.token, bucket, prior);
        }
        let Some(node) = node else { return };
        (parent, cursor) = (node, first.cursor);
    }
}

/// The bucket and a first estimate for a continuation of a match of `len` tokens that had `share` of all.
fn class(len: usize, share: f32) -> (u8, f32) {
    const PRIORS: [f32; 10] = [0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.92, 0.96, 0.98, 0.99];
    let of_len = match len {
        0..=2 => 0,
        3 => 1,
        4..=5 => 2,
        6..=8 => 3,
        9..=12 => 4,
        13..=20 => 5,
        21..=40 => 6,
        41..=80 => 7,
        81..=160 => 8,
        _ => 9,
    };
    let of_share = match share {
        ..0.35 => 0,
        ..0.65 => 1,
        ..0.95 => 2,
        _ => 3,
    };
    (of_len * 4 + of_share, PRIORS[usize::from(of_len)] * share)
}
