//! A tier's statistics: counters and a latency histogram, cheap enough for every block.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram's buckets, in seconds; one more bucket counts what is above.
pub const LATENCY_BOUNDS_S: [f64; 12] =
    [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 2.0];

/// A new observation's weight in the moving average is one over this.
const RECENT_WEIGHT: u64 = 8;

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A latency histogram.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; LATENCY_BOUNDS_S.len() + 1],
    sum_us: Counter,
    recent_us: AtomicU64,
}

/// A snapshot of a [`Latency`], like a Prometheus histogram but not cumulative.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LatencySnapshot {
    /// Observations up to each of [`LATENCY_BOUNDS_S`], then those above.
    pub buckets: Vec<u64>,
    /// Sum of all observations in seconds.
    pub sum_s: f64,
    /// Number of observations.
    pub count: u64,
    /// Exponential moving average of the observations in seconds, with weight 1/8 for a new one.
    /// 0 where it is not kept, as in [`AgeSnapshot`].
    pub recent_s: f64,
}

impl Latency {
    /// Counts one observation.
    pub fn observe(&self, took: Duration) {
        let bucket = LATENCY_BOUNDS_S.partition_point(|&bound| bound < took.as_secs_f64());
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let first = self.sum_us.get() == 0;
        self.buckets[bucket].add(1);
        self.sum_us.add(us);
        let before = self.recent_us.load(Ordering::Relaxed);
        // With two threads observing at once, one update of the average may be lost.
        let recent = if first { us } else { before - before / RECENT_WEIGHT + us / RECENT_WEIGHT };
        self.recent_us.store(recent, Ordering::Relaxed);
    }

    /// A snapshot of all buckets.
    pub fn snapshot(&self) -> LatencySnapshot {
        let buckets: Vec<u64> = self.buckets.iter().map(Counter::get).collect();
        let count = buckets.iter().sum();
        let seconds = |us: u64| us as f64 / 1e6;
        let recent_s = seconds(self.recent_us.load(Ordering::Relaxed));
        LatencySnapshot { buckets, sum_s: seconds(self.sum_us.get()), count, recent_s }
    }
}

/// Upper bounds of the buckets of [`AgeSnapshot`], in seconds.
pub const AGE_BOUNDS_S: [f64; 12] =
    [1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14_400.0, 86_400.0, 604_800.0];

#[derive(Debug, Clone, Copy, Default)]
struct AgeCounts {
    buckets: [u64; AGE_BOUNDS_S.len() + 1],
    sum_s: f64,
}

impl AgeCounts {
    fn observe(&mut self, age: Duration) {
        let age_s = age.as_secs_f64();
        self.buckets[AGE_BOUNDS_S.partition_point(|&bound| bound < age_s)] += 1;
        self.sum_s += age_s;
    }

    fn snapshot(&self) -> LatencySnapshot {
        LatencySnapshot {
            buckets: self.buckets.to_vec(),
            sum_s: self.sum_s,
            count: self.buckets.iter().sum(),
            // No decision depends on it.
            recent_s: 0.0,
        }
    }
}

/// Lifetimes and idle times of blocks in memory. Not thread-safe.
#[derive(Debug, Default)]
pub struct Ages {
    lifetime: AgeCounts,
    idle: AgeCounts,
    reuse_gap: AgeCounts,
}

/// A snapshot of [`Ages`], with buckets by [`AGE_BOUNDS_S`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgeSnapshot {
    /// Of evicted blocks: since they were added.
    pub lifetime: LatencySnapshot,
    /// Of evicted blocks: since they were last used.
    pub idle: LatencySnapshot,
    /// Of blocks that were used again: since the use before.
    pub reuse_gap: LatencySnapshot,
}

impl Ages {
    /// Records an eviction, with the time since the block was added and since its last use.
    pub fn evicted(&mut self, lifetime: Duration, idle: Duration) {
        self.lifetime.observe(lifetime);
        self.idle.observe(idle);
    }

    /// Records a reuse, with the time since the use before.
    pub fn reused(&mut self, gap: Duration) {
        self.reuse_gap.observe(gap);
    }

    /// A snapshot of all buckets.
    pub fn snapshot(&self) -> AgeSnapshot {
        AgeSnapshot {
            lifetime: self.lifetime.snapshot(),
            idle: self.idle.snapshot(),
            reuse_gap: self.reuse_gap.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_in_the_bucket_whose_bound_it_does_not_pass() {
        let latency = Latency::default();
        for took in [Duration::from_micros(10), Duration::from_micros(11), Duration::from_secs(3)] {
            latency.observe(took);
        }
        let shot = latency.snapshot();
        assert_eq!((shot.buckets[0], shot.buckets[1], shot.buckets[12], shot.count), (1, 1, 1, 3));
        assert!((shot.sum_s - 3.000_021).abs() < 1e-9);
    }

    #[test]
    fn what_is_recent_forgets_what_was() {
        let latency = Latency::default();
        latency.observe(Duration::from_secs(2));
        assert_eq!(latency.snapshot().recent_s, 2.0);
        (0..50).for_each(|_| latency.observe(Duration::from_millis(1)));
        assert!(latency.snapshot().recent_s < 0.01, "{}", latency.snapshot().recent_s);
    }
}
