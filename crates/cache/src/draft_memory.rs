//! The draft memory: a tenant's past prompts and responses as a source of drafts.
//!
//! Past prompts and responses are concatenated in a log of tokens, and a [`SuffixAutomaton`] over the log
//! finds where a text occurred and which tokens followed. A prompt that nearly matches an earlier one is found by the
//! rare passages they share, and gets the earlier response as its draft. Nothing in here is served as is: the model
//! verifies every draft token.
//!
//! Each memory belongs to one tenant's scope. The invariant: position `n` of the automaton is token `n - 1` of the log.

use crate::suffix_automaton::{Cursor, SuffixAutomaton};

/// Shorter matches say little about which text a prompt resembles.
const ALIKE_MIN: usize = 8;
/// Rare tokens that a prompt must share with an earlier one to count as similar.
const VOTES_MIN: f32 = 8.0;
/// Fraction of the budget that is kept when rebuilding, so that not every request rebuilds.
const KEPT: (usize, usize) = (3, 4);

struct Text {
    /// Offsets in the log of the text and of its response.
    start: usize,
    answer: usize,
    /// When it was last useful, on the memory's own logical clock.
    used: u64,
}

/// An earlier response that may fit a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Alike {
    /// The earlier response.
    pub answer: Vec<u32>,
    /// The fraction of the prompt's rare passages that it shares, `0..=1`.
    pub share: f32,
}

/// See the [module](self).
pub struct DraftMemory {
    automaton: SuffixAutomaton,
    log: Vec<u32>,
    texts: Vec<Text>,
    uses: u64,
    tokens_max: usize,
    built: u64,
}

impl DraftMemory {
    /// An empty memory for about `tokens_max` tokens.
    pub fn new(tokens_max: usize) -> Self {
        Self {
            automaton: SuffixAutomaton::default(),
            log: Vec::new(),
            texts: Vec::new(),
            uses: 0,
            tokens_max,
            built: 0,
        }
    }

    /// A generation number that changes when the memory is [rebuilt](Self::rebuilt), which invalidates cursors.
    pub fn built(&self) -> u64 {
        self.built
    }

    /// Tokens held.
    pub fn tokens(&self) -> usize {
        self.log.len()
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.automaton.bytes()
            + self.log.capacity() * size_of::<u32>()
            + self.texts.capacity() * size_of::<Text>()
    }

    /// The index over the log.
    pub fn automaton(&self) -> &SuffixAutomaton {
        &self.automaton
    }

    /// Adds a prompt and its response. A known beginning of the prompt is not stored again, and an exchange that
    /// is known as a whole only has its last use updated.
    pub fn remember(&mut self, prompt: &[u32], answer: &[u32]) {
        let known = self.known_prefix(prompt, answer);
        if known >= prompt.len() + answer.len() {
            return;
        }
        let (known, new) = prompt.split_at(known.min(prompt.len()));
        self.uses += 1;
        let start = self.log.len();
        self.texts.push(Text { start, answer: start + new.len(), used: self.uses });
        self.automaton.begin();
        known.iter().for_each(|&token| self.automaton.recall(token));
        for &token in new.iter().chain(answer) {
            self.automaton.push(token);
            if self.log.len() == self.log.capacity() {
                self.log.reserve_exact((self.log.len() / 32).max(1024));
            }
            self.log.push(token);
        }
    }

    /// Length of the longest prefix that occurs in the log.
    fn known_prefix(&self, prompt: &[u32], answer: &[u32]) -> usize {
        let mut cursor = Cursor::default();
        let all = prompt.iter().chain(answer);
        all.take_while(|&&token| {
            let len = cursor.len();
            cursor = self.automaton.advance(cursor, token);
            cursor.len() == len + 1
        })
        .count()
    }

    /// The earlier response whose prompt shares the most rare passages with this one, if any shares enough. A response
    /// that is part of the prompt, as in the next turn of a chat, does not count.
    pub fn alike(&mut self, prompt: &[u32]) -> Option<Alike> {
        let mut votes: Vec<(f32, usize)> = vec![(0.0, 0); self.texts.len()];
        let mut cursor = Cursor::default();
        for &token in prompt {
            cursor = self.automaton.advance(cursor, token);
            if cursor.len() < ALIKE_MIN {
                continue;
            }
            let end = self.automaton.latest_end(cursor);
            let text = self.text_at(end)?;
            if end > self.texts[text].answer {
                votes[text].1 += 1;
            } else {
                // What n texts share identifies none of them: squared, since a shared prompt is long.
                votes[text].0 += (self.automaton.count(cursor) as f32).powi(-2);
            }
        }
        let (best, &(rare, _)) = votes
            .iter()
            .enumerate()
            .filter(|(text, (_, answered))| 2 * answered < self.answer(*text).len())
            .max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
        if rare < VOTES_MIN {
            return None;
        }
        self.uses += 1;
        self.texts[best].used = self.uses;
        Some(Alike { answer: self.answer(best).to_vec(), share: (rare / prompt.len() as f32).min(1.0) })
    }

    /// Records that the text around a match was useful.
    pub fn used(&mut self, cursor: Cursor) {
        self.uses += 1;
        if let Some(text) = self.text_at(self.automaton.latest_end(cursor)) {
            self.texts[text].used = self.uses;
        }
    }

    /// Whether it is over its budget.
    pub fn is_full(&self) -> bool {
        self.log.len() > self.tokens_max
    }

    /// The new parts of the most useful texts, most useful first: the input of [`rebuilt`](Self::rebuilt).
    pub fn most_useful(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        let mut by_use: Vec<usize> = (0..self.texts.len()).collect();
        by_use.sort_unstable_by_key(|&text| std::cmp::Reverse(self.texts[text].used));
        let mut room = self.tokens_max / KEPT.1 * KEPT.0;
        let fits = |&text: &usize| {
            let len = self.end(text) - self.texts[text].start;
            let fits = len <= room;
            room = room.saturating_sub(len);
            fits
        };
        let mut kept: Vec<usize> = by_use.into_iter().take_while(fits).collect();
        kept.sort_unstable();
        let prompt = |text: usize| self.log[self.texts[text].start..self.texts[text].answer].to_vec();
        kept.into_iter().map(|text| (prompt(text), self.answer(text).to_vec())).collect()
    }

    /// Texts held.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Adds the texts of `other` from its `from`-th on.
    pub fn remember_from(&mut self, other: &DraftMemory, from: usize) {
        for text in from..other.texts.len() {
            let Text { start, answer, .. } = other.texts[text];
            self.remember(&other.log[start..answer], other.answer(text));
        }
    }

    /// A memory of these texts that replaces the one of generation `built`.
    pub fn rebuilt(tokens_max: usize, built: u64, texts: &[(Vec<u32>, Vec<u32>)]) -> Self {
        let mut memory = Self { built: built + 1, ..Self::new(tokens_max) };
        for (prompt, answer) in texts {
            memory.remember(prompt, answer);
        }
        memory
    }

    fn end(&self, text: usize) -> usize {
        self.texts.get(text + 1).map_or(self.log.len(), |next| next.start)
    }

    fn answer(&self, text: usize) -> &[u32] {
        &self.log[self.texts[text].answer..self.end(text)]
    }

    /// The text that contains position `end` of the automaton.
    fn text_at(&self, end: usize) -> Option<usize> {
        self.texts.partition_point(|text| text.start < end).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: u32, len: usize) -> Vec<u32> {
        (0..len as u32).map(|i| (seed.wrapping_mul(2_654_435_761) ^ i.wrapping_mul(40_503)) % 5000).collect()
    }

    #[test]
    fn the_answer_to_the_most_similar_prompt_is_the_draft() {
        let mut memory = DraftMemory::new(100_000);
        let system = tokens(1, 300);
        for question in 10..20 {
            let prompt = [system.clone(), tokens(question, 30)].concat();
            memory.remember(&prompt, &tokens(100 + question, 50));
        }
        let mut changed = tokens(14, 30);
        changed[20] = 1;
        let alike = memory.alike(&[system, changed].concat()).expect("there is one");
        assert_eq!(alike.answer, tokens(114, 50));
        assert_eq!(memory.alike(&tokens(50, 200)), None, "nothing in common");
    }

    #[test]
    fn an_answer_that_stands_in_the_prompt_is_no_draft() {
        let mut memory = DraftMemory::new(100_000);
        memory.remember(&tokens(1, 100), &tokens(2, 60));
        let next_turn = [tokens(1, 100), tokens(2, 60), tokens(3, 20)].concat();
        assert_eq!(memory.alike(&next_turn), None);
    }

    #[test]
    fn what_is_known_is_not_kept_twice() {
        let mut memory = DraftMemory::new(100_000);
        memory.remember(&tokens(1, 1000), &tokens(2, 60));
        let held = memory.tokens();
        memory.remember(&tokens(1, 1000), &tokens(2, 60));
        assert_eq!(memory.tokens(), held);
        memory.remember(&[tokens(1, 1000), tokens(2, 60), tokens(3, 20)].concat(), &tokens(4, 10));
        assert_eq!(memory.tokens(), held + 30);
    }

    #[test]
    fn the_least_useful_is_forgotten_first() {
        let mut memory = DraftMemory::new(1000);
        for text in 0..11 {
            memory.remember(&tokens(text, 60), &tokens(100 + text, 40));
        }
        assert!(memory.is_full());
        assert!(memory.alike(&tokens(0, 60)).is_some(), "the oldest is used once more");
        let mut smaller = DraftMemory::rebuilt(1000, 0, &memory.most_useful());
        assert!(!smaller.is_full() && smaller.tokens() > 600, "{}", smaller.tokens());
        assert!(smaller.alike(&tokens(0, 60)).is_some());
        assert_eq!(smaller.alike(&tokens(1, 60)), None);
        assert!(smaller.alike(&tokens(10, 60)).is_some());

        let known = memory.texts();
        memory.remember(&tokens(50, 60), &tokens(150, 40));
        smaller.remember_from(&memory, known);
        assert!(smaller.alike(&tokens(50, 60)).is_some(), "what came in the meantime is not lost");
    }
}
