//! A cache that records the calls it gets.

use std::sync::Mutex;
use std::time::Duration;

use foretoken_cache::{CacheStats, CachedPrefix, DiskEntry, Fault, ScopeId, VerifyReport};
use foretoken_engine::{CacheInfo, Forgotten, PinRefused};
use foretoken_server::CacheControl;

/// Longer prompts cannot be pinned.
pub(crate) const PINNED_MAX: usize = 100;

#[derive(Default)]
pub(crate) struct FakeCache {
    /// Calls in order.
    pub(crate) orders: Mutex<Vec<String>>,
}

impl FakeCache {
    fn note(&self, order: String) {
        self.orders.lock().unwrap().push(order);
    }

    pub(crate) fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.orders.lock().unwrap())
    }
}

impl CacheControl for FakeCache {
    fn info(&self) -> CacheInfo {
        let stats =
            CacheStats { query_tokens: 400, ram_hit_tokens: 100, evicted: 7, ..CacheStats::default() };
        CacheInfo { stats, responses: (2, 30), prefix_tokens: (200, 50), ..CacheInfo::default() }
    }

    fn entries(&self) -> (Vec<CachedPrefix>, Vec<DiskEntry>) {
        let prefix = |tokens, unused_s| CachedPrefix {
            scope: ScopeId::from_bytes([1; 32]),
            key: None,
            tokens,
            unused: Duration::from_secs(unused_s),
            pinned: (tokens == 70).then_some(Duration::from_secs(5)),
        };
        (vec![prefix(70, 9), prefix(130, 3)], Vec::new())
    }

    fn verify(&self) -> Option<VerifyReport> {
        let bad = vec![("/a/folder/ab/name".into(), Fault::Corrupt)];
        Some(VerifyReport { good: 3, good_bytes: 30, bad, ..VerifyReport::default() })
    }

    fn can_pin(&self, _: &str, prompt: &[u32]) -> Result<(), PinRefused> {
        match prompt.len() > PINNED_MAX {
            true => Err(PinRefused {
                wanted: prompt.len(),
                left: 64,
                max: PINNED_MAX,
                whose: "one tenant",
                ctx: 4096,
            }),
            false => Ok(()),
        }
    }

    fn pin(&self, tenant: &str, prompt: &[u32], ttl: Duration) -> Result<usize, PinRefused> {
        self.note(format!("pin {tenant} {} {}", prompt.len(), ttl.as_secs()));
        Ok(prompt.len())
    }

    fn unpin(&self, tenant: &str, prompt: &[u32]) -> usize {
        self.note(format!("unpin {tenant} {}", prompt.len()));
        1
    }

    fn clear(&self, tenant: Option<&str>) -> Forgotten {
        self.note(format!("clear {}", tenant.unwrap_or("everyone")));
        Forgotten { ram_blocks: 2, disk_blocks: 3 }
    }
}
