//! The largest logit of every 64 tokens, with which most of a large vocabulary is ruled out unseen.
//!
//! Not for arithmetic: comparisons only, so nothing depends on the instruction set.

/// Tokens of a block.
pub(crate) const BLOCK: usize = 1 << BLOCK_BITS;
pub(crate) const BLOCK_BITS: u32 = 6;
const LANES: usize = 16;

/// Admits the tokens that are not below a place in the order of [`LogitBlocks::most_likely`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    pub(crate) logit: f32,
    /// The largest id that is admitted at that very logit.
    pub(crate) id: u32,
}

impl Floor {
    /// Admits every token.
    pub(crate) const NONE: Floor = Floor { logit: f32::NEG_INFINITY, id: u32::MAX };

    pub(crate) fn admits(self, logit: f32, token: u32) -> bool {
        logit > self.logit || (logit == self.logit && token <= self.id)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct LogitBlocks(Vec<f32>);

impl LogitBlocks {
    /// Reads a row of logits.
    pub(crate) fn read(&mut self, logits: &[f32]) {
        self.0.clear();
        self.0.extend(logits.chunks(BLOCK).map(max_of));
    }

    /// The largest logit of each block.
    pub(crate) fn maxima(&self) -> &[f32] {
        &self.0
    }

    /// The block with the largest logit, the first of equals.
    pub(crate) fn largest(&self) -> usize {
        let max = self.max();
        self.0.iter().position(|&of_block| of_block == max).unwrap_or(0)
    }

    /// The largest logit.
    pub(crate) fn max(&self) -> f32 {
        max_of(&self.0)
    }

    /// The `k` most likely tokens, most likely first, ties to the smaller id. The blocks are those of `logits`.
    pub(crate) fn most_likely(&self, logits: &[f32], k: usize, out: &mut Vec<(f32, u32)>) {
        let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        out.clear();
        // As many blocks have a logit this large, so the k-th largest logit is no smaller.
        let bound = self.kth(k);
        for (at, _) in self.0.iter().enumerate().filter(|(_, max)| **max >= bound) {
            let ids = (at * BLOCK) as u32..;
            let part = logits[at * BLOCK..].iter().take(BLOCK).copied().zip(ids);
            out.extend(part.filter(|(logit, _)| *logit >= bound));
        }
        if k < out.len() {
            out.select_nth_unstable_by(k - 1, better);
            out.truncate(k);
        }
        out.sort_unstable_by(better);
    }

    fn kth(&self, k: usize) -> f32 {
        let mut maxima = self.0.clone();
        match k.checked_sub(1) {
            Some(at) if at < maxima.len() => *maxima.select_nth_unstable_by(at, |a, b| b.total_cmp(a)).1,
            _ => f32::NEG_INFINITY,
        }
    }
}

fn max_of(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for part in whole {
        lanes.iter_mut().zip(part).for_each(|(lane, &logit)| *lane = larger(*lane, logit));
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_most_likely_tokens_are_those_of_a_sort(
            logits in prop::collection::vec(prop_oneof![4 => -5.0f32..5.0, 1 => Just(1.0f32)], 1..2000),
            k in 1usize..300,
        ) {
            let mut sorted: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            sorted.truncate(k);
            let (mut blocks, mut out) = (LogitBlocks::default(), Vec::new());
            blocks.read(&logits);
            blocks.most_likely(&logits, k, &mut out);
            prop_assert_eq!(&out, &sorted);
            prop_assert_eq!(blocks.max(), sorted[0].0);
            prop_assert_eq!(blocks.largest(), sorted[0].1 as usize / BLOCK);
            // The floor at the last of them admits these and no others.
            let last = sorted[sorted.len() - 1];
            let floor = Floor { logit: last.0, id: last.1 };
            let admitted = logits.iter().zip(0..).filter(|&(&logit, id)| floor.admits(logit, id)).count();
            prop_assert_eq!(admitted, sorted.len());
        }
    }
}
