//! What the handles of an engine and its thread share: the inbox and a snapshot of counters, nothing else.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use foretoken_cache::{RecomputeCost, ScopeId};

use crate::api::EngineStats;
use crate::inbox::Inbox;
use crate::job::Job;

/// What handles and the engine's thread share.
pub(crate) struct Shared {
    pub(crate) inbox: Inbox<ScopeId, Job>,
    /// Requests accepted and not yet answered or cancelled.
    pub(crate) in_flight: AtomicUsize,
    /// Requests answered from the store.
    pub(crate) replayed: AtomicU64,
    stats: Mutex<Snapshot>,
}

/// The counters as of the last step.
#[derive(Clone, Copy, Default)]
pub(crate) struct Snapshot {
    pub(crate) stats: EngineStats,
    /// Moving average of how long a request takes once it runs, in seconds.
    pub(crate) request_s: f64,
    /// Measured cost of computing a prompt token.
    pub(crate) cost: RecomputeCost,
}

impl Shared {
    /// Nothing queued, nothing counted. `inbox` is the queue of requests.
    pub(crate) fn new(inbox: Inbox<ScopeId, Job>) -> Shared {
        Shared {
            inbox,
            in_flight: AtomicUsize::new(0),
            replayed: AtomicU64::new(0),
            stats: Mutex::new(Snapshot::default()),
        }
    }

    pub(crate) fn publish(&self, stats: EngineStats, request_s: f64, cost: RecomputeCost) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = Snapshot { stats, request_s, cost };
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
