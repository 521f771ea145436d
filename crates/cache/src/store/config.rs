//! The bounds of the database.

/// Bounds of the database.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Maximum bytes of stored responses; beyond it the least recently used are evicted.
    pub responses_bytes_max: u64,
    /// Maximum age of a stored response since its last use, in milliseconds.
    pub responses_age_ms_max: u64,
    /// Capacity of the write queue.
    pub queue: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { responses_bytes_max: 256 << 20, responses_age_ms_max: 30 * 86_400_000, queue: 1024 }
    }
}
