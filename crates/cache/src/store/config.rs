//! The bounds of the database.

/// A day in milliseconds.
pub const DAY_MS: u64 = 86_400_000;

/// Bounds of the database.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Maximum bytes of stored responses; beyond it the least recently used are evicted.
    pub responses_bytes_max: u64,
    /// Maximum age of a stored response since its last use, in milliseconds.
    pub responses_age_ms_max: u64,
    /// Maximum bytes of the ledger's rows, estimated; beyond it the oldest are summed up per day, tenant and model.
    pub ledger_bytes_max: u64,
    /// Maximum age of a row of the ledger, in milliseconds; older ones are summed up.
    pub ledger_age_ms_max: u64,
    /// Capacity of the write queue.
    pub queue: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            responses_bytes_max: 256 << 20,
            responses_age_ms_max: 30 * DAY_MS,
            ledger_bytes_max: 128 << 20,
            ledger_age_ms_max: 400 * DAY_MS,
            queue: 1024,
        }
    }
}

impl StoreConfig {
    /// No bounds, for a command that reads a folder and must not evict anything.
    pub fn unbounded() -> Self {
        StoreConfig {
            responses_bytes_max: u64::MAX,
            responses_age_ms_max: u64::MAX,
            ledger_bytes_max: u64::MAX,
            ledger_age_ms_max: u64::MAX,
            ..StoreConfig::default()
        }
    }
}
