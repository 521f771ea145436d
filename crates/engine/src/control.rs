//! Cache administration: statistics, pinning, clearing.
//!
//! Nothing here blocks the engine's thread; clearing waits for the disk and the database. The
//! invariant: one whole context always fits in memory beside what is pinned.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use foretoken_cache::store::Store;
use foretoken_cache::{
    BLOCK_TOKENS, CacheStats, CachedPrefix, DiskEntry, DraftFilesStats, PinBudget, PinLimit, ScopeId,
    VerifyReport,
};

use crate::api::{CacheUse, Request, SpeculationChoice};
use crate::block_table::blocks_for;
use crate::capacity::windowed_min;
use crate::engine::Engine;

/// Cache statistics.
#[derive(Clone, Debug, Default)]
pub struct CacheInfo {
    /// All tiers.
    pub stats: CacheStats,
    /// For a model with windows: blocks in memory with their windowed part, and how many may have it.
    pub windowed: Option<(usize, usize)>,
    /// Blocks that may be pinned in all.
    pub pinned_max: usize,
    /// Answers that can be replayed or drafted from, and their bytes.
    pub responses: (u64, u64),
    /// The drafters' files, if there is a folder for them.
    pub drafts: Option<DraftFilesStats>,
    /// The database's counters.
    pub database: DatabaseInfo,
    /// Prompt tokens of finished requests, and those of them that any tier supplied.
    pub prefix_tokens: (u64, u64),
}

/// Counters of the database of responses and ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Bytes of stored responses.
    pub responses_bytes: u64,
    /// Responses evicted by the byte budget.
    pub evicted_bytes: u64,
    /// Responses that expired.
    pub evicted_age: u64,
    /// Estimated bytes of the ledger's rows.
    pub ledger_bytes: u64,
    /// Rows of the ledger that were summed up.
    pub ledger_summed: u64,
    /// Writes dropped because the queue was full.
    pub dropped_queue_full: u64,
    /// Failed writes.
    pub write_errors: u64,
}

impl DatabaseInfo {
    fn of(store: &Store) -> DatabaseInfo {
        let counters = store.counters();
        DatabaseInfo {
            responses_bytes: counters.responses_bytes.load(Relaxed),
            evicted_bytes: counters.evicted_bytes.load(Relaxed),
            evicted_age: counters.evicted_age.load(Relaxed),
            ledger_bytes: counters.ledger_bytes.load(Relaxed),
            ledger_summed: counters.ledger_summed.load(Relaxed),
            dropped_queue_full: counters.dropped_queue_full.load(Relaxed),
            write_errors: counters.write_errors.load(Relaxed),
        }
    }
}

/// What [`Engine::clear`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Blocks in memory.
    pub ram_blocks: usize,
    /// Files on disk.
    pub disk_blocks: u64,
}

/// A refused pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} tokens are too many to pin: {left} tokens of the {max} that {whose} may pin are left. One whole context of \
     {ctx} tokens must fit in memory beside what is pinned; unpin something, or start the server with a larger \
     --cache-ram, a smaller --ctx or a larger --pin-share"
)]
pub struct PinRefused {
    /// Tokens in whole blocks that would have been pinned on top.
    pub wanted: usize,
    /// Tokens that may still be pinned.
    pub left: usize,
    /// Tokens that may be pinned, by the tenant or in all.
    pub max: usize,
    /// Whose limit it is, in words.
    pub whose: &'static str,
    /// Tokens of a context.
    pub ctx: usize,
}

impl Engine {
    /// Prefills the prompt. The single generated token is discarded: it is neither
    /// kept nor drafted from.
    pub fn prewarming(prompt: Vec<u32>, tenant: String) -> Request {
        Request {
            prompt,
            tenant,
            max_tokens: Some(1),
            cache: CacheUse::default(),
            speculation: SpeculationChoice { enabled: Some(false), ..SpeculationChoice::default() },
            forgettable: true,
            ..Request::default()
        }
    }

    /// Whether a prompt could be pinned if all of it were in memory. Call it before prefilling the prompt.
    ///
    /// # Errors
    /// More would be pinned than leaves room for a context.
    pub fn can_pin(&self, tenant: &str, prompt: &[u32]) -> Result<(), PinRefused> {
        let scope = self.scope(tenant, prompt);
        self.cache().check_pin(&scope, prompt, self.pin_budget()).map_err(|limit| self.refused(limit))
    }

    /// Pins the cached prefix of a prompt for `ttl`: in memory, and on disk within half its budget. Returns
    /// the number of pinned tokens. Pins end with the process.
    ///
    /// # Errors
    /// More would be pinned than leaves room for a context.
    pub fn pin(&self, tenant: &str, prompt: &[u32], ttl: Duration) -> Result<usize, PinRefused> {
        let scope = self.scope(tenant, prompt);
        let agreed = self.cache().closest(&scope, prompt).agreed;
        self.cache()
            .pin(&scope, &prompt[..agreed], ttl, self.pin_budget())
            .map(|_| agreed)
            .map_err(|limit| self.refused(limit))
    }

    /// Unpins a prompt. Returns the number of its blocks in memory.
    pub fn unpin(&self, tenant: &str, prompt: &[u32]) -> usize {
        self.cache().unpin(&self.scope(tenant, prompt), prompt)
    }

    /// Clears a tenant's entries, or everyone's: blocks in memory and on disk, answers, drafts. Blocks in the shared
    /// store belong to other machines too and stay, under keys that only this tenant can look up. Running sequences
    /// continue and insert their blocks when they end. Waits for the disk.
    pub fn clear(&self, tenant: Option<&str>) -> Forgotten {
        let scope = tenant.map(|tenant| self.scope_id(tenant));
        self.forget(tenant);
        let (ram_blocks, disk_blocks) = self.cache().clear(scope);
        if let Some(draft_model) = self.draft_model() {
            draft_model.clear(tenant);
        }
        Forgotten { ram_blocks, disk_blocks }
    }

    /// Cache statistics. Takes time linear in the blocks.
    pub fn cache_info(&self) -> CacheInfo {
        let (stats, cache) = (self.stats(), self.cache().stats());
        let windows = self.cache().layout().windowed > 0;
        CacheInfo {
            windowed: windows.then(|| (cache.tree.windowed, self.cache().windowed_capacity())),
            stats: cache,
            pinned_max: self.pinned_max(),
            responses: self.store().map_or((0, 0), |store| store.response_totals()),
            drafts: self.draft_files_stats(),
            database: self.store().map_or_else(DatabaseInfo::default, DatabaseInfo::of),
            prefix_tokens: (stats.prefix_queries_total, stats.prefix_hits_total),
        }
    }

    /// The prefixes in memory and the files on disk, in no order. Reads the header of every file.
    pub fn cache_entries(&self) -> (Vec<CachedPrefix>, Vec<DiskEntry>) {
        let mut files = Vec::new();
        if let Some(disk) = self.cache().disk() {
            disk.entries(|entry| files.push(entry));
        }
        (self.cache().prefixes(), files)
    }

    /// Reads and checks every file of the disk tier and moves bad ones to quarantine; `None` without a disk tier.
    pub fn verify_cache(&self) -> Option<VerifyReport> {
        self.cache().disk().map(|disk| disk.verify())
    }

    /// The public name of a tenant's entries.
    pub fn scope_id(&self, tenant: &str) -> ScopeId {
        self.scope(tenant, &[]).id()
    }

    /// Blocks that may be pinned in all, and by one tenant.
    fn pin_budget(&self) -> PinBudget {
        let all = self.pinned_max();
        let context = windowed_min(&self.cache().layout(), self.ctx(), self.step_tokens());
        PinBudget {
            all,
            tenant: all * usize::from(self.pin_share()) / 100,
            windowed: self.cache().windowed_capacity().saturating_sub(context),
        }
    }

    /// Blocks that may be pinned in all.
    fn pinned_max(&self) -> usize {
        self.cache().capacity().saturating_sub(blocks_for(self.ctx()))
    }

    fn refused(&self, limit: PinLimit) -> PinRefused {
        PinRefused {
            wanted: limit.wanted * BLOCK_TOKENS,
            left: limit.left * BLOCK_TOKENS,
            max: if limit.share { self.pin_budget().tenant } else { self.pinned_max() } * BLOCK_TOKENS,
            whose: if limit.share { "one tenant" } else { "all tenants together" },
            ctx: self.ctx(),
        }
    }
}
