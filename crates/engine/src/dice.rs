//! Which noise each token of an answer is drawn with.
//!
//! A draw is keyed by what precedes it, the last token of the answer and how often that occurred before, not by its
//! place. So a question asked again with a change and the same seed can find its way back into the earlier answer after an
//! insertion or a deletion, where what drafts from that answer is right again. The invariant: no two draws of an answer have
//! the same key, so their noise is independent.

use std::collections::HashMap;

use crate::gumbel::Noise;

/// Precedes the first token of an answer.
const START: u32 = u32::MAX;

/// The dice of one sequence.
#[derive(Debug)]
pub(crate) struct Dice {
    seed: u64,
    last: u32,
    /// Draws after each token so far.
    drawn: HashMap<u32, u32>,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice { seed, last: START, drawn: HashMap::new() }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The noise of the next draw, if the answer goes on with the draft tokens `path`.
    pub(crate) fn noise(&self, path: &[u32]) -> Noise {
        let (&last, before) = match path {
            [before @ .., last] => (last, before),
            [] => return self.noise_after(self.last, 0),
        };
        let since = [&[self.last][..], before].concat();
        self.noise_after(last, since.iter().filter(|&&token| token == last).count() as u32)
    }

    /// The noise of the draw after a token that was drawn after `more` times since the last token of the answer.
    fn noise_after(&self, token: u32, more: u32) -> Noise {
        let times = self.drawn.get(&token).copied().unwrap_or(0) + more;
        Noise::new(self.seed, u64::from(token) << 32 | u64::from(times))
    }

    /// Records that `token` became part of the answer.
    pub(crate) fn accept(&mut self, token: u32) {
        *self.drawn.entry(self.last).or_insert(0) += 1;
        self.last = token;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(answer: &[u32]) -> Dice {
        let mut dice = Dice::new(7);
        answer.iter().for_each(|&token| dice.accept(token));
        dice
    }

    proptest! {
        #[test]
        fn draws_of_an_answer_differ_and_are_known_along_a_draft(
            answer in prop::collection::vec(0u32..4, 0..40),
            at in 0usize..40,
        ) {
            let noises: Vec<Noise> = (0..=answer.len()).map(|len| after(&answer[..len]).noise(&[])).collect();
            for (at, noise) in noises.iter().enumerate() {
                prop_assert!(!noises[at + 1..].contains(noise));
            }
            let (answer, path) = answer.split_at(at.min(answer.len()));
            prop_assert_eq!(Some(&after(answer).noise(path)), noises.last());
        }
    }

    #[test]
    fn an_insertion_leaves_the_draws_after_it_alone() {
        assert_eq!(after(&[1, 2, 3, 4]).noise(&[]), after(&[1, 8, 9, 2, 3, 4]).noise(&[]));
        assert_ne!(after(&[1, 2, 3, 4]).noise(&[]), after(&[1, 4, 9, 2, 3, 4]).noise(&[]));
    }
}
