//! Interface to the cache: statistics, pins, clearing.
//!
//! A trait, so that this crate's tests run without a model. The invariant: no implementation blocks for long except
//! in [`entries`](CacheControl::entries), [`verify`](CacheControl::verify) and [`clear`](CacheControl::clear),
//! which are called on the blocking pool.

use std::time::Duration;

use foretoken_cache::{CachedPrefix, DiskEntry, VerifyReport};
use foretoken_engine::{CacheInfo, Engine, Forgotten, PinRefused};

/// Cache administration.
pub trait CacheControl: Send + Sync {
    /// Statistics of all tiers.
    fn info(&self) -> CacheInfo;

    /// The prefixes in memory and the files on disk.
    fn entries(&self) -> (Vec<CachedPrefix>, Vec<DiskEntry>);

    /// Checks every file on disk; `None` without a disk tier.
    fn verify(&self) -> Option<VerifyReport>;

    /// Whether a prompt could be pinned if all of it were in memory.
    ///
    /// # Errors
    /// The pin limit would be exceeded.
    fn can_pin(&self, tenant: &str, prompt: &[u32]) -> Result<(), PinRefused>;

    /// Pins the cached prefix of a prompt in memory; returns its length in tokens.
    ///
    /// # Errors
    /// There is no room.
    fn pin(&self, tenant: &str, prompt: &[u32], ttl: Duration) -> Result<usize, PinRefused>;

    /// Removes a pin; returns the number of blocks it covered.
    fn unpin(&self, tenant: &str, prompt: &[u32]) -> usize;

    /// Clears a tenant, or all tenants, in every tier but the shared store.
    fn clear(&self, tenant: Option<&str>) -> Forgotten;
}

impl CacheControl for Engine {
    fn info(&self) -> CacheInfo {
        self.cache_info()
    }

    fn entries(&self) -> (Vec<CachedPrefix>, Vec<DiskEntry>) {
        self.cache_entries()
    }

    fn verify(&self) -> Option<VerifyReport> {
        self.verify_cache()
    }

    fn can_pin(&self, tenant: &str, prompt: &[u32]) -> Result<(), PinRefused> {
        Engine::can_pin(self, tenant, prompt)
    }

    fn pin(&self, tenant: &str, prompt: &[u32], ttl: Duration) -> Result<usize, PinRefused> {
        Engine::pin(self, tenant, prompt, ttl)
    }

    fn unpin(&self, tenant: &str, prompt: &[u32]) -> usize {
        Engine::unpin(self, tenant, prompt)
    }

    fn clear(&self, tenant: Option<&str>) -> Forgotten {
        Engine::clear(self, tenant)
    }
}
