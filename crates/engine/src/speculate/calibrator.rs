//! Acceptance rates of draft tokens: by source, by the source's own classes of draft tokens (length of a match, how
//! clear the choice was), and by depth in the tree.
//!
//! Decaying counts: each class starts from the drafter's own estimate, each depth of it from the estimate of
//! the class at all depths, and old counts decay, so that estimates follow the current text. What is estimated is
//! conditional: the draft token is accepted, given that everything before it was.

use std::ops::Range;

use super::settings::{RELIABILITY_CLASSES, Reliability, Source};

/// Classes (buckets) per source.
pub(crate) const BUCKETS: usize = 72;
/// Levels of an estimate that classes of coupled draft tokens have.
pub(crate) const LEVELS: u8 = 16;
/// Depth classes, followed by one tally over all depths.
const DEPTHS: usize = 6;
const ANY_DEPTH: usize = DEPTHS;
const PLACES: usize = DEPTHS + 1;
/// Weight of a prior, in observations: the drafter's estimate for a class, the class's estimate for a depth.
const PRIOR_WEIGHT: f32 = 8.0;
/// Observations after which old ones are halved.
const MEMORY: f32 = 400.0;

#[derive(Clone, Copy, Default)]
struct Tally {
    right: f32,
    seen: f32,
}

impl Tally {
    /// The acceptance rate, starting from `prior`.
    fn estimate(self, prior: f32) -> f32 {
        (self.right + PRIOR_WEIGHT * prior) / (self.seen + PRIOR_WEIGHT)
    }

    fn observe(&mut self, right: bool) {
        self.seen += 1.0;
        self.right += f32::from(u8::from(right));
        if self.seen > MEMORY {
            *self = Tally { right: self.right / 2.0, seen: self.seen / 2.0 };
        }
    }
}

/// See the [module](self).
pub(crate) struct Calibrator {
    tallies: Vec<Tally>,
}

impl Default for Calibrator {
    fn default() -> Self {
        Calibrator { tallies: vec![Tally::default(); Source::ALL.len() * BUCKETS * PLACES] }
    }
}

impl Calibrator {
    /// The probability that such a draft token is accepted; `prior` is the drafter's own estimate.
    pub(crate) fn estimate(&self, source: Source, bucket: u8, depth: usize, prior: f32) -> f32 {
        let of = &self.tallies[places(source, bucket)];
        of[class(depth)].estimate(of[ANY_DEPTH].estimate(prior)).clamp(0.0, 1.0)
    }

    /// Records whether such a draft token was correct.
    pub(crate) fn observe(&mut self, source: Source, bucket: u8, depth: usize, right: bool) {
        let of = &mut self.tallies[places(source, bucket)];
        of[class(depth)].observe(right);
        of[ANY_DEPTH].observe(right);
    }
}

/// Reliability of the estimates, over all tenants.
#[derive(Default)]
pub(crate) struct Record(pub(crate) [[Reliability; RELIABILITY_CLASSES]; Source::ALL.len()]);

impl Record {
    /// Records whether a draft token of estimated probability `estimate` was correct.
    pub(crate) fn judge(&mut self, source: Source, estimate: f32, right: bool) {
        let class = (estimate * RELIABILITY_CLASSES as f32) as usize;
        let of = &mut self.0[source.index()][class.min(RELIABILITY_CLASSES - 1)];
        of.seen += 1;
        of.right += u64::from(right);
    }
}

fn places(source: Source, bucket: u8) -> Range<usize> {
    let start = (source.index() * BUCKETS + usize::from(bucket).min(BUCKETS - 1)) * PLACES;
    start..start + PLACES
}

fn class(depth: usize) -> usize {
    match depth {
        0..=2 => depth.saturating_sub(1),
        3..=4 => 2,
        5..=8 => 3,
        9..=16 => 4,
        _ => 5,
    }
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
        assert_eq!(calibrator.estimate(Source::Memory, 4, 1, 0.5), 0.5, "nor another class");
    }

    #[test]
    fn a_depth_that_was_never_seen_begins_from_the_others_and_ends_at_its_own() {
        let mut calibrator = Calibrator::default();
        (0..300).for_each(|_| calibrator.observe(Source::Memory, 3, 1, true));
        let deep = |calibrator: &Calibrator| calibrator.estimate(Source::Memory, 3, 9, 0.5);
        assert!(deep(&calibrator) > 0.95, "{}", deep(&calibrator));
        (0..300).for_each(|_| calibrator.observe(Source::Memory, 3, 9, false));
        assert!(deep(&calibrator) < 0.05, "{}", deep(&calibrator));
    }
}
