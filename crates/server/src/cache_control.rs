//! The seam to what is cached: figures, pins and forgetting.
//!
//! A trait, so that this crate's tests run without a model. The invariant: nothing behind it may block for long
//! except [`entries`](CacheControl::entries), [`verify`](CacheControl::verify) and [`clear`](CacheControl::clear),
//! which are called on the blocking pool.

use std::time::Duration;

use foretoken_cache::{CachedPrefix, DiskEntry, VerifyReport};
use foretoken_engine::{CacheInfo, Engine, Forgotten, PinRefused};

/// Orders about what is cached.
pub trait CacheControl: Send + Sync {
    /// Figures of all tiers.
    fn info(&self) -> CacheInfo;

    /// The prefixes in memory and the files on disk.
    fn entries(&self) -> (Vec<CachedPrefix>, Vec<DiskEntry>);

    /// Checks every file on disk; `None` without a disk tier.
    fn verify(&self) -> Option<VerifyReport>;

    /// Whether a prompt could be pinned if all of it were in memory.
    ///
    /// # Errors
    /// It could not, and why.
    fn can_pin(&self, tenant: &str, prompt: &[u32]) -> Result<(), PinRefused>;

    /// Keeps what memory has of a prompt; says how many tokens.
    ///
    /// # Errors
    /// There is no room.
    fn pin(&self, tenant: &str, prompt: &[u32], ttl: Duration) -> Result<usize, PinRefused>;

    /// Takes a pin off; says how many blocks it went over.
    fn unpin(&self, tenant: &str, prompt: &[u32]) -> usize;

    /// Forgets a tenant, or everyone, but for the shared store.
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
