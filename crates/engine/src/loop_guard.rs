//! Notices an answer that repeats the same few tokens without end, as small models do.
//!
//! Not for repetition that a caller wants: copied text, tables and lists change within a few hundred tokens. The
//! invariant: for each period it knows how many of the last tokens equal the ones a period before.

/// Longest cycle that is noticed, in tokens.
const PERIOD_MAX: usize = 256;

/// See the [module](self).
pub(crate) struct LoopGuard {
    /// Tokens that a cycle may take up.
    limit: u32,
    /// By period, from 1: the length of the repetition so far.
    repeated: Vec<u32>,
}

impl LoopGuard {
    /// A guard that lets an answer repeat a cycle for `limit` tokens.
    pub(crate) fn new(limit: u32) -> LoopGuard {
        LoopGuard { limit, repeated: vec![0; PERIOD_MAX] }
    }

    /// Observes the last of an answer's tokens. Returns the period if the answer has repeated it for longer than it may.
    pub(crate) fn observe(&mut self, answer: &[u32]) -> Option<usize> {
        let (&last, before) = answer.split_last()?;
        let mut looping = None;
        for (at, (repeated, &token)) in self.repeated.iter_mut().zip(before.iter().rev()).enumerate() {
            *repeated = if token == last { *repeated + 1 } else { 0 };
            if *repeated > self.limit {
                looping = looping.or(Some(at + 1));
            }
        }
        looping
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number of tokens after which the guard ends the answer, and the period.
    fn ends(answer: &[u32], limit: u32) -> Option<(usize, usize)> {
        let mut guard = LoopGuard::new(limit);
        (1..=answer.len()).find_map(|len| guard.observe(&answer[..len]).map(|period| (len, period)))
    }

    fn cycle(period: u32, len: usize) -> Vec<u32> {
        (0..period).cycle().take(len).collect()
    }

    #[test]
    fn a_cycle_ends_after_the_limit_and_its_first_time() {
        assert_eq!(ends(&cycle(1, 2000), 1000), Some((1002, 1)));
        assert_eq!(ends(&cycle(7, 2000), 1000), Some((1008, 7)));
        assert_eq!(ends(&cycle(256, 2000), 1000), Some((1257, 256)));
        assert_eq!(ends(&cycle(257, 3000), 1000), None);
    }

    #[test]
    fn a_changed_token_starts_anew() {
        let mut answer = cycle(5, 1800);
        answer[900] = 99;
        assert_eq!(ends(&answer, 1000), None);
    }

    proptest! {
        #[test]
        fn it_ends_what_a_plain_look_back_ends(answer in prop::collection::vec(0u32..2, 0..80), limit in 1u32..12) {
            let repeats = |len: usize, period: usize| {
                (limit as usize + 1 + period..=len).any(|end| {
                    end == len && (0..=limit as usize).all(|i| answer[end - 1 - i] == answer[end - 1 - i - period])
                })
            };
            let expected = (1..=answer.len()).find_map(|len| {
                (1..=PERIOD_MAX).find(|&period| repeats(len, period)).map(|period| (len, period))
            });
            prop_assert_eq!(ends(&answer, limit), expected);
        }
    }
}
