//! How often guesses come true: by source, by the source's own classes of guesses (length of a match, how clear the
//! choice was), and by depth in the tree.
//!
//! Counts with a memory: each class starts from the drafter's own estimate and fades slowly, so that it follows what
//! the text is like now. What it estimates is conditional: the guess is right, given that everything before it was.

use super::settings::{RELIABILITY_CLASSES, Reliability, Source};

/// Classes that a source may tell apart.
pub(crate) const BUCKETS: usize = 64;
const DEPTHS: usize = 6;
/// Observations that the drafter's own estimate weighs as much as.
const PRIOR_WEIGHT: f32 = 8.0;
/// Observations after which old ones count half.
const MEMORY: f32 = 400.0;

#[derive(Clone, Copy, Default)]
struct Tally {
    right: f32,
    seen: f32,
}

/// See the [module](self).
pub(crate) struct Calibrator {
    tallies: Vec<Tally>,
}

impl Default for Calibrator {
    fn default() -> Self {
        Calibrator { tallies: vec![Tally::default(); Source::ALL.len() * BUCKETS * DEPTHS] }
    }
}

impl Calibrator {
    /// The probability that such a guess is right; `prior` is what the drafter thinks.
    pub(crate) fn estimate(&self, source: Source, bucket: u8, depth: usize, prior: f32) -> f32 {
        let Tally { right, seen } = self.tallies[place(source, bucket, depth)];
        ((right + PRIOR_WEIGHT * prior) / (seen + PRIOR_WEIGHT)).clamp(0.0, 1.0)
    }

    /// Records whether such a guess was right.
    pub(crate) fn observe(&mut self, source: Source, bucket: u8, depth: usize, right: bool) {
        let tally = &mut self.tallies[place(source, bucket, depth)];
        tally.seen += 1.0;
        tally.right += f32::from(u8::from(right));
        if tally.seen > MEMORY {
            *tally = Tally { right: tally.right / 2.0, seen: tally.seen / 2.0 };
        }
    }
}

/// How good estimates were, of all tenants together.
#[derive(Default)]
pub(crate) struct Record(pub(crate) [[Reliability; RELIABILITY_CLASSES]; Source::ALL.len()]);

impl Record {
    /// Records whether a guess that was estimated at `estimate` was right.
    pub(crate) fn judge(&mut self, source: Source, estimate: f32, right: bool) {
        let class = (estimate * RELIABILITY_CLASSES as f32) as usize;
        let of = &mut self.0[source.index()][class.min(RELIABILITY_CLASSES - 1)];
        of.seen += 1;
        of.right += u64::from(right);
    }
}

fn place(source: Source, bucket: u8, depth: usize) -> usize {
    let depth = match depth {
        0..=2 => depth.saturating_sub(1),
        3..=4 => 2,
        5..=8 => 3,
        9..=16 => 4,
        _ => 5,
    };
    (source.index() * BUCKETS + usize::from(bucket).min(BUCKETS - 1)) * DEPTHS + depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_move_from_the_prior_to_what_was_seen_and_follow_changes() {
        let mut calibrator = Calibrator::default();
        let now = |calibrator: &Calibrator| calibrator.estimate(Source::Memory, 3, 1, 0.5);
        assert_eq!(now(&calibrator), 0.5);
        (0..1000).for_each(|i| calibrator.observe(Source::Memory, 3, 1, i % 10 == 0));
        assert!((now(&calibrator) - 0.1).abs() < 0.03, "{}", now(&calibrator));
        (0..1000).for_each(|_| calibrator.observe(Source::Memory, 3, 1, true));
        assert!(now(&calibrator) > 0.75, "{}", now(&calibrator));
        assert_eq!(calibrator.estimate(Source::OwnText, 3, 1, 0.5), 0.5, "another source is not moved");
        assert_eq!(calibrator.estimate(Source::Memory, 3, 9, 0.5), 0.5, "nor another depth");
    }
}
