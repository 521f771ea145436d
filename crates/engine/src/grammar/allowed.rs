//! The tokens that may come next. Plain data.

use toktrie::SimpleVob;

/// Bits of a word of a mask.
const WORD: usize = 32;

/// A set of tokens.
#[derive(Clone)]
pub(crate) enum Allowed {
    /// All but these few.
    AllBut(Vec<u32>),
    /// These.
    Only(SimpleVob),
    /// This one.
    One(u32),
}

impl Allowed {
    /// Makes the logits of all other tokens minus infinity, which no finite bias and no penalty lifts.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        match self {
            Allowed::AllBut(others) => {
                for &id in others {
                    if let Some(logit) = logits.get_mut(id as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            Allowed::One(id) => {
                let kept = logits.get(*id as usize).copied();
                logits.fill(f32::NEG_INFINITY);
                if let Some(kept) = kept {
                    logits[*id as usize] = kept;
                }
            }
            Allowed::Only(mask) => {
                let words = mask.as_slice();
                for (at, logits) in logits.chunks_mut(WORD).enumerate() {
                    match words.get(at).copied().unwrap_or(0) {
                        u32::MAX => {}
                        0 => logits.fill(f32::NEG_INFINITY),
                        word => {
                            for (bit, logit) in logits.iter_mut().enumerate() {
                                if word >> bit & 1 == 0 {
                                    *logit = f32::NEG_INFINITY;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(allowed: &Allowed, len: usize) -> Vec<usize> {
        let mut logits = vec![1.0; len];
        allowed.apply(&mut logits);
        (0..len).filter(|&id| logits[id] == 1.0).collect()
    }

    #[test]
    fn exactly_the_others_become_impossible() {
        let mut mask = SimpleVob::alloc(70);
        for id in [0, 31, 32, 69] {
            mask.allow_token(id);
        }
        let only = Allowed::Only(mask);
        assert_eq!(left(&only, 70), [0, 31, 32, 69]);
        assert_eq!(left(&only, 200), [0, 31, 32, 69], "tokens beyond the vocabulary are never allowed");
        assert_eq!(left(&Allowed::One(33), 70), [33]);
        assert!(left(&Allowed::One(99), 70).is_empty());
        assert_eq!(left(&Allowed::AllBut(vec![1, 9]), 4), [0, 2, 3]);
    }

    #[test]
    fn whole_words_are_as_single_bits() {
        let mut mask = SimpleVob::alloc(100);
        (32..64).for_each(|id| mask.allow_token(id));
        assert_eq!(left(&Allowed::Only(mask), 100), (32..64).collect::<Vec<_>>());
    }
}
