//! What happened to the database, counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters since the store was opened.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Lookups of a response.
    pub queries: AtomicU64,
    /// Lookups that found one.
    pub hits: AtomicU64,
    /// Responses written.
    pub stored: AtomicU64,
    /// Writes dropped because the queue was full.
    pub dropped_queue_full: AtomicU64,
    /// Failed writes.
    pub write_errors: AtomicU64,
    /// Failed reads.
    pub read_errors: AtomicU64,
    /// Rows whose checksum did not match; each was a miss and was deleted.
    pub damaged_rows: AtomicU64,
    /// Damaged database files that were set aside.
    pub set_aside: AtomicU64,
    /// Responses evicted by the byte budget.
    pub evicted_bytes: AtomicU64,
    /// Responses that expired.
    pub evicted_age: AtomicU64,
    /// Rows of the ledger that were summed up because of their age or of the byte budget.
    pub ledger_summed: AtomicU64,
    /// Bytes of stored responses now.
    pub responses_bytes: AtomicU64,
    /// Bytes of the ledger's rows now, estimated.
    pub ledger_bytes: AtomicU64,
    complained: AtomicBool,
}

impl StoreCounters {
    /// Counts a fault and logs only the first: a full disk would otherwise fill the log too.
    pub(super) fn fault(&self, counter: &AtomicU64, what: &str, error: &dyn std::fmt::Display) {
        counter.fetch_add(1, Relaxed);
        if !self.complained.swap(true, Relaxed) {
            tracing::warn!("{what}: {error}; further faults of the database are only counted");
        }
    }
}
