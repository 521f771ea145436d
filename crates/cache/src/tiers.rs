//! The facade over all tiers: memory, then disk, then the shared store.
//!
//! The engine's thread looks a prompt up and immediately gets what is in memory, with what lower tiers may add.
//! It may have that restored while it computes for other sequences, or compute at once. It inserts what it computes;
//! blocks are then written to the lower tiers in the background. No call here blocks on a disk or a network, except
//! [`clear`](ContextCache::clear), [`flush`](ContextCache::flush) and
//! [`wait_restore`](ContextCache::wait_restore).
//!
//! The invariant: whatever happens in the lower tiers, a returned block has the bytes that computing it would give.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::BLOCK_TOKENS;
use crate::block_layout::{BlockLayout, Capacity, Part};
use crate::clock::Clock;
use crate::disk::{DiskStats, DiskTier};
use crate::keys::{Scope, ScopeId};
use crate::pool::{BlockPool, OpenBlock, OpenWindowed, PoolCounts, SealedBlock};
use crate::recompute_cost::RecomputeCost;
use crate::restore::{Below, Rates, RestoreJob, run};
use crate::shared::{SharedStats, SharedTier};
use crate::stats::{AgeSnapshot, Counter, LatencySnapshot};
use crate::tree::{CachedPrefix, Closest, Inserted, IntegrityError, Match, PrefixTree, TreeCounts};

mod lower;
mod pin_budget;

pub use pin_budget::{PinBudget, PinLimit};

/// Restores that may queue behind the one in progress.
const RESTORES_MAX: usize = 64;
/// Assumed seconds per block until one was read. Low, so that one is read and measured.
const BLOCK_S_ASSUMED: f64 = 2e-3;

/// The size of the cache in memory.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// The size of a block.
    pub layout: BlockLayout,
    /// Capacity in blocks, those of running sequences included.
    pub ram: Capacity,
    /// May advise the system to use huge pages for the blocks' memory.
    pub advise: fn(&mut [u8]),
    /// The cost that blocks are ranked by until a measured one is set.
    pub cost: RecomputeCost,
}

/// The part of a prompt that is cached.
#[derive(Debug, Default)]
pub struct Hit {
    /// The part in memory. Holding it keeps it there.
    pub ram: Match,
    /// Blocks that lower tiers may add after the full blocks of `ram`.
    pub below: Below,
}

/// A snapshot of all counters.
#[derive(Debug, Clone, Default)]
pub struct CacheStats {
    /// Lookups.
    pub queries: u64,
    /// Tokens looked up.
    pub query_tokens: u64,
    /// Tokens found in memory.
    pub ram_hit_tokens: u64,
    /// Tokens in full blocks that memory did not have, looked up on disk.
    pub disk_query_tokens: u64,
    /// Tokens restored from disk.
    pub disk_hit_tokens: u64,
    /// Tokens looked up in the shared store: what neither memory nor the disk had.
    pub shared_query_tokens: u64,
    /// Tokens restored from the shared store.
    pub shared_hit_tokens: u64,
    /// Blocks added to memory.
    pub inserted: u64,
    /// Blocks evicted from memory to make room.
    pub evicted: u64,
    /// Windowed parts evicted from memory to make room, without their blocks.
    pub evicted_windowed: u64,
    /// Blocks removed by [`clear`](ContextCache::clear).
    pub cleared: u64,
    /// Blocks that are pinned.
    pub pinned: usize,
    /// Age of the oldest block in memory.
    pub oldest: Option<Duration>,
    /// Lifetimes and reuse of blocks in memory.
    pub ages: AgeSnapshot,
    /// Times that no slot could be freed because all were in use.
    pub out_of_slots: u64,
    /// Restores not started because computing was faster.
    pub restores_not_worth: u64,
    /// Restores not started for lack of slots or queue capacity.
    pub restores_refused: u64,
    /// The prefix tree.
    pub tree: TreeCounts,
    /// The slots for lasting parts; `None` only in a default value.
    pub pool: Option<PoolCounts>,
    /// Bytes of the blocks in the tree.
    pub ram_bytes: u64,
    /// Bytes of all slots.
    pub ram_bytes_max: u64,
    /// The disk tier, if there is one.
    pub disk: Option<DiskStats>,
    /// The shared tier, if there is one.
    pub shared: Option<SharedStats>,
}

#[derive(Default)]
struct Counters {
    queries: Counter,
    query_tokens: Counter,
    ram_hit_tokens: Counter,
    disk_query_tokens: Counter,
    disk_hit_tokens: Counter,
    shared_query_tokens: Counter,
    shared_hit_tokens: Counter,
    inserted: Counter,
    evicted: Counter,
    evicted_windowed: Counter,
    cleared: Counter,
    out_of_slots: Counter,
    restores_not_worth: Counter,
    restores_refused: Counter,
}

/// See the [module](self). May be used from any thread.
pub struct ContextCache {
    pool: BlockPool,
    tree: Mutex<PrefixTree>,
    disk: Option<Arc<DiskTier>>,
    shared: Option<Arc<SharedTier>>,
    clock: Arc<dyn Clock>,
    counters: Counters,
    restores: Option<SyncSender<RestoreJob>>,
    restorer: Option<JoinHandle<()>>,
}

impl ContextCache {
    /// A cache over these tiers.
    ///
    /// # Errors
    /// If the restoring thread cannot be started.
    pub fn new(
        config: CacheConfig,
        disk: Option<DiskTier>,
        shared: Option<SharedTier>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let (disk, shared) = (disk.map(Arc::new), shared.map(Arc::new));
        let (restores, jobs) = sync_channel(RESTORES_MAX);
        let below = (disk.clone(), shared.clone());
        let restorer = std::thread::Builder::new()
            .name("cache-restorer".into())
            .spawn(move || run(&jobs, below.0.as_deref(), below.1.as_deref()))?;
        Ok(Self {
            pool: BlockPool::advised(config.layout, config.ram, config.advise),
            tree: Mutex::new(PrefixTree::new(config.layout, config.cost)),
            disk,
            shared,
            clock,
            counters: Counters::default(),
            restores: Some(restores),
            restorer: Some(restorer),
        })
    }

    /// The size of a block.
    pub fn layout(&self) -> BlockLayout {
        self.pool.layout()
    }

    /// A block to fill. Evicts if needed; `None` if every block in memory is held or pinned, or every windowed part.
    pub fn open(&self) -> Option<OpenBlock> {
        self.open_evicting(|pool| pool.try_open())
    }

    fn open_lasting(&self) -> Option<OpenBlock> {
        self.open_evicting(|pool| pool.open_lasting().ok_or(Part::Lasting))
    }

    fn open_windowed(&self) -> Option<OpenWindowed> {
        self.open_evicting(|pool| pool.open_windowed().ok_or(Part::Windowed))
    }

    fn open_evicting<T>(&self, open: impl Fn(&BlockPool) -> Result<T, Part>) -> Option<T> {
        // A slot that was freed here may be taken by another thread before this one opens it.
        loop {
            let full = match open(&self.pool) {
                Ok(open) => return Some(open),
                Err(full) => full,
            };
            let now = self.clock.elapsed();
            let (evicted, counter) = match full {
                Part::Lasting => (self.tree().evict(1, now), &self.counters.evicted),
                Part::Windowed => (self.tree().evict_windowed(1, now), &self.counters.evicted_windowed),
            };
            counter.add(evicted as u64);
            if evicted == 0 {
                self.counters.out_of_slots.add(1);
                return None;
            }
        }
    }

    /// Upper bound of the blocks that [`open`](Self::open) could return: free ones and those that the tree may evict.
    /// An overestimate, since a block in the tree may be held, and windowed parts may run out.
    pub fn available_max(&self) -> usize {
        self.pool.counts().free + self.tree().counts().blocks
    }

    /// Windowed parts that running sequences may have between them: all that are not pinned. `None` without windows.
    pub fn windowed_max(&self) -> Option<usize> {
        let pinned = || self.tree().windowed_pinned(None, self.clock.elapsed()).0;
        let windows = self.layout().windowed > 0;
        windows.then(|| self.pool.windowed_counts().capacity.saturating_sub(pinned()))
    }

    /// Looks a prompt up. Changes recency only; contacts no network.
    pub fn lookup(&self, scope: &Scope, tokens: &[u32]) -> Hit {
        let hit = self.find(scope, tokens);
        let counters = &self.counters;
        counters.queries.add(1);
        counters.query_tokens.add(tokens.len() as u64);
        counters.ram_hit_tokens.add(hit.ram.tokens() as u64);
        let left = (tokens.len() / BLOCK_TOKENS).saturating_sub(hit.ram.blocks.len()) * BLOCK_TOKENS;
        if self.disk.is_some() {
            counters.disk_query_tokens.add(left as u64);
        }
        if self.shared.as_ref().is_some_and(|shared| shared.is_available()) {
            counters.shared_query_tokens.add((left - hit.below.disk_tokens().min(left)) as u64);
        }
        hit
    }

    /// As [`lookup`](Self::lookup), for a prompt that was looked up before it waited: counts only what memory has
    /// beyond the `had` tokens that were counted then.
    pub fn lookup_again(&self, scope: &Scope, tokens: &[u32], had: usize) -> Hit {
        let hit = self.find(scope, tokens);
        self.counters.ram_hit_tokens.add(hit.ram.tokens().saturating_sub(had) as u64);
        hit
    }

    /// Inserts a computed block and queues its lasting part for the lower tiers. Returns the one physical copy
    /// to continue with: another one if these tokens are cached here already.
    pub fn insert(&self, block: SealedBlock) -> SealedBlock {
        let (block, added) = self.remember(block);
        if added {
            // Each tier counts what it drops.
            if let Some(disk) = &self.disk {
                let _outcome = disk.write(&block);
            }
            if let Some(shared) = &self.shared {
                let _outcome = shared.write(&block);
            }
        }
        block
    }

    fn remember(&self, block: SealedBlock) -> (SealedBlock, bool) {
        let inserted = self.tree().insert(block.clone());
        match inserted {
            Inserted::Added => {
                self.counters.inserted.add(1);
                (block, true)
            }
            Inserted::Known(known) => (known, false),
            Inserted::Orphan(block) => (block, false),
        }
    }

    /// Recent seconds to read a block, beside the seconds to compute one.
    pub fn rates(&self, recompute: RecomputeCost) -> Rates {
        let seconds = |latency: LatencySnapshot| {
            if latency.count == 0 { BLOCK_S_ASSUMED } else { latency.recent_s }
        };
        let disk = self.disk.as_ref().map(|disk| disk.read_latency());
        let shared = self.shared.as_ref().map(|shared| shared.stats().read_latency);
        Rates {
            disk_block_s: seconds(disk.unwrap_or_default()),
            shared_block_s: seconds(shared.unwrap_or_default()),
            recompute,
        }
    }

    /// The prefix in memory that agrees longest with a prompt, and the tokens that follow it. Changes nothing.
    pub fn closest(&self, scope: &Scope, tokens: &[u32]) -> Closest {
        self.tree().closest(scope, tokens)
    }

    /// Pins what memory has of a prefix for `ttl`, on disk too; returns how many blocks.
    ///
    /// # Errors
    /// More blocks would be pinned than the budget allows; nothing was changed.
    pub fn pin(
        &self,
        scope: &Scope,
        tokens: &[u32],
        ttl: Duration,
        budget: impl Into<PinBudget>,
    ) -> Result<usize, PinLimit> {
        let now = self.clock.elapsed();
        let mut tree = self.tree();
        let (all, own) = (tree.pinned(Some((scope, tokens)), now), tree.pinned_by(scope, tokens, now));
        let budget = budget.into();
        budget.check((all.1 - all.0, own.1 - own.0), (all.0, own.0))?;
        let windowed = tree.windowed_pinned(Some((scope, tokens)), now);
        budget.check_windowed(windowed.1 - windowed.0, windowed.0)?;
        let blocks = tree.pin(scope, tokens, now.saturating_add(ttl));
        self.keep_pinned(&tree);
        Ok(blocks)
    }

    /// Checks whether a prefix could be pinned if all of it were in memory.
    ///
    /// # Errors
    /// More blocks would be pinned than the budget allows.
    pub fn check_pin(
        &self,
        scope: &Scope,
        tokens: &[u32],
        budget: impl Into<PinBudget>,
    ) -> Result<(), PinLimit> {
        let now = self.clock.elapsed();
        let tree = self.tree();
        let (all, own) = (tree.pinned(Some((scope, tokens)), now), tree.pinned_by(scope, tokens, now));
        let agreed = tree.closest(scope, tokens).agreed;
        let missing = tokens.len().saturating_sub(agreed).div_ceil(BLOCK_TOKENS);
        // What is missing of a shared prefix is not the tenant's own.
        let own_missing =
            tokens.len().saturating_sub(agreed.max(scope.own_root().tokens_before())).div_ceil(BLOCK_TOKENS);
        let budget = budget.into();
        budget.check((all.1 - all.0 + missing, own.1 - own.0 + own_missing), (all.0, own.0))?;
        let windowed = tree.windowed_pinned(Some((scope, tokens)), now);
        let most = match self.layout().windowed {
            0 => 0,
            _ => (self.layout().windowed_blocks() + 2).min(tokens.len().div_ceil(BLOCK_TOKENS)),
        };
        budget.check_windowed(if missing > 0 { most } else { windowed.1 - windowed.0 }, windowed.0)
    }

    /// Removes the pin of a prefix; returns how many blocks it covered, 0 if the prefix was not pinned.
    pub fn unpin(&self, scope: &Scope, tokens: &[u32]) -> usize {
        let mut tree = self.tree();
        let blocks = tree.unpin(scope, tokens);
        self.keep_pinned(&tree);
        blocks
    }

    /// Capacity of memory in blocks.
    pub fn capacity(&self) -> usize {
        self.pool.counts().capacity
    }

    /// Capacity of memory in windowed parts of blocks.
    pub fn windowed_capacity(&self) -> usize {
        self.pool.windowed_counts().capacity
    }

    pub(crate) fn survey(&self, scope: &Scope, tokens: &[u32]) -> (Vec<bool>, usize) {
        self.tree().survey(scope, tokens)
    }

    /// Blocks that are pinned now.
    pub fn pinned(&self) -> usize {
        self.tree().pinned(None, self.clock.elapsed()).0
    }

    /// The prefixes in memory, in no order.
    pub fn prefixes(&self) -> Vec<CachedPrefix> {
        self.tree().prefixes(self.clock.elapsed())
    }

    fn keep_pinned(&self, tree: &PrefixTree) {
        if let Some(disk) = &self.disk {
            disk.keep(&tree.pinned_keys(self.clock.elapsed()));
        }
    }

    /// Removes everything, or one scope, from memory and disk; returns how many blocks from each. Running
    /// sequences keep what they hold. The shared store belongs to other machines too and is left unchanged. Blocks on the
    /// disk.
    pub fn clear(&self, scope: Option<ScopeId>) -> (usize, u64) {
        let mut tree = self.tree();
        let ram = tree.reset(scope);
        self.keep_pinned(&tree);
        drop(tree);
        self.counters.cleared.add(ram as u64);
        let disk = self.disk.as_ref().map_or(0, |disk| disk.clear(scope));
        (ram, disk)
    }

    /// Ranks blocks inserted from now on by a newly measured cost.
    pub fn set_cost(&self, cost: RecomputeCost) {
        self.tree().set_cost(cost);
    }

    /// Checks the tree. Takes time linear in it; for tests and an idle engine.
    ///
    /// # Errors
    /// Names the first violation, which means a bug in this crate.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.tree().check_integrity()
    }

    /// Blocks until the lower tiers have written or dropped what is queued now.
    pub fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.flush();
        }
        if let Some(shared) = &self.shared {
            shared.flush();
        }
    }

    /// Whether a shared store is configured, reachable or not.
    pub(crate) fn has_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The disk tier, to verify it.
    pub fn disk(&self) -> Option<&DiskTier> {
        self.disk.as_deref()
    }

    /// A snapshot of all counters.
    pub fn stats(&self) -> CacheStats {
        let counters = &self.counters;
        let (tree, now) = (self.tree(), self.clock.elapsed());
        let (pinned, oldest, ages, counts) =
            (tree.pinned(None, now).0, tree.oldest(now), tree.ages(), tree.counts());
        drop(tree);
        let (layout, pool, windowed) = (self.layout(), self.pool.counts(), self.pool.windowed_counts());
        let bytes = |blocks: usize, windowed: usize| {
            blocks as u64 * layout.lasting as u64 + windowed as u64 * layout.windowed as u64
        };
        CacheStats {
            ram_bytes: bytes(counts.blocks, counts.windowed),
            ram_bytes_max: bytes(pool.capacity, windowed.capacity),
            evicted_windowed: counters.evicted_windowed.get(),
            cleared: counters.cleared.get(),
            disk_query_tokens: counters.disk_query_tokens.get(),
            shared_query_tokens: counters.shared_query_tokens.get(),
            pinned,
            oldest,
            ages,
            queries: counters.queries.get(),
            query_tokens: counters.query_tokens.get(),
            ram_hit_tokens: counters.ram_hit_tokens.get(),
            disk_hit_tokens: counters.disk_hit_tokens.get(),
            shared_hit_tokens: counters.shared_hit_tokens.get(),
            inserted: counters.inserted.get(),
            evicted: counters.evicted.get(),
            out_of_slots: counters.out_of_slots.get(),
            restores_not_worth: counters.restores_not_worth.get(),
            restores_refused: counters.restores_refused.get(),
            tree: counts,
            pool: Some(pool),
            disk: self.disk.as_ref().map(|disk| disk.stats()),
            shared: self.shared.as_ref().map(|shared| shared.stats()),
        }
    }

    fn tree(&self) -> MutexGuard<'_, PrefixTree> {
        // A panic inside the tree is a bug that its integrity check finds; it must not take the server down.
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        tree.set_time(self.clock.elapsed());
        tree
    }
}

impl Drop for ContextCache {
    fn drop(&mut self) {
        drop(self.restores.take());
        if let Some(restorer) = self.restorer.take() {
            // A panic there was reported by the panic hook; here it changes nothing.
            restorer.join().ok();
        }
    }
}
