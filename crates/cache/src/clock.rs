//! Time, passed in: one reading that never goes back and one that people set.
//!
//! Everything that waits or expires uses [`Clock::elapsed`]. Only file times use [`Clock::wall`], and code
//! that does must stay right when it jumps, in either direction.

use std::time::{Duration, Instant, SystemTime};

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Time since some fixed start. Never goes back.
    fn elapsed(&self) -> Duration;

    /// The time of day as the machine has it set. May jump either way.
    fn wall(&self) -> SystemTime;
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
