//! Time as a dependency: a monotonic reading and the wall clock.
//!
//! Everything that waits or expires uses [`Clock::elapsed`]. Only file times use [`Clock::wall`], and code
//! that does must stay correct when it jumps in either direction.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: Send + Sync {
    /// Time since a fixed start. Monotonic.
    fn elapsed(&self) -> Duration;

    /// Wall-clock time. May jump in either direction.
    fn wall(&self) -> SystemTime;
}

/// Milliseconds since 1970 on the wall clock; an earlier time reads as 0.
pub(crate) fn wall_ms(clock: &dyn Clock) -> u64 {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose [`elapsed`](Clock::elapsed) starts at zero now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that only moves when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<(Duration, SystemTime)>,
}

impl ManualClock {
    /// Starts at zero elapsed, at the given wall-clock time.
    pub fn new(wall: SystemTime) -> Self {
        Self { now: Mutex::new((Duration::ZERO, wall)) }
    }

    /// Advances both readings.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (now.0 + by, now.1 + by);
    }

    /// Sets the wall clock, possibly backwards, without advancing elapsed time.
    pub fn set_wall(&self, wall: SystemTime) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).1 = wall;
    }
}

impl Clock for ManualClock {
    fn elapsed(&self) -> Duration {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn wall(&self) -> SystemTime {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
