//! What the sequences of one tenant share: draft memory, successor table, credit. Never more than one tenant's.
//!
//! The step loop locks tenants and tables, so nothing here touches a file while holding a lock: reading and writing
//! tables is queued to [`DraftFiles`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use foretoken_cache::store::Store;
use foretoken_cache::{DraftFiles, DraftMemory, ScopeId, SuccessorTable};

use super::calibrator::Calibrator;
use super::mutex::Mutex;

/// Tenants whose drafter state is in memory; beyond it the least recently used is evicted.
const TENANTS_MAX: usize = 64;
/// Maximum contexts of a tenant's successor table: 1.75 MiB.
const CONTEXTS: usize = 1 << 16;
/// What is learnt between two writes of a table.
const LEARNT_PER_SAVE: u64 = 4096;
/// Saved compute that may be waiting to be spent, in milliseconds.
const CREDIT_MS_MAX: f64 = 60_000.0;

/// See the [module](self).
pub(crate) struct Tenant {
    scope: ScopeId,
    pub(crate) memory: Arc<Mutex<DraftMemory>>,
    pub(crate) successors: Arc<Mutex<SuccessorTable>>,
    /// Acceptance rates of this tenant only: shared ones would leak, through how much is drafted, what others' texts
    /// are like.
    pub(crate) calibrator: Mutex<Calibrator>,
    /// Whether a thread is rebuilding the memory.
    rebuilding: Arc<AtomicBool>,
    credit_ms: Mutex<f64>,
    saved_at: Mutex<u64>,
    /// Whether the stored table was queued to be read.
    loading: AtomicBool,
}

impl Tenant {
    fn new(scope: ScopeId, memory: DraftMemory) -> Tenant {
        Tenant {
            scope,
            memory: Arc::new(Mutex::new(memory)),
            successors: Arc::new(Mutex::new(SuccessorTable::new(CONTEXTS))),
            calibrator: Mutex::default(),
            rebuilding: Arc::default(),
            credit_ms: Mutex::new(0.0),
            saved_at: Mutex::new(0),
            loading: AtomicBool::new(false),
        }
    }

    /// Milliseconds of compute that hits saved and that were not spent yet.
    pub(crate) fn credit_ms(&self) -> f64 {
        *self.credit_ms.lock()
    }

    pub(crate) fn earn(&self, ms: f64) {
        let mut credit = self.credit_ms.lock();
        *credit = (*credit + ms).min(CREDIT_MS_MAX);
    }

    pub(crate) fn spend(&self, ms: f64) {
        let mut credit = self.credit_ms.lock();
        *credit = (*credit - ms).max(0.0);
    }

    /// Adds a prompt and its answer. A full memory is rebuilt from its most useful texts on a thread of its own.
    pub(crate) fn remember(&self, prompt: &[u32], answer: &[u32], tokens_max: usize) {
        let mut memory = self.memory.lock();
        memory.remember(prompt, answer);
        if !memory.is_full() || self.rebuilding.swap(true, Relaxed) {
            return;
        }
        let (texts, built, known) = (memory.most_useful(), memory.built(), memory.texts());
        drop(memory);
        let (target, rebuilding) = (Arc::clone(&self.memory), Arc::clone(&self.rebuilding));
        let rebuild = move || {
            let mut smaller = DraftMemory::rebuilt(tokens_max, built, &texts);
            let mut memory = target.lock();
            smaller.remember_from(&memory, known);
            let larger = std::mem::replace(&mut *memory, smaller);
            drop(memory);
            // Freeing so much memory takes a while; no lock may be held meanwhile.
            drop(larger);
            rebuilding.store(false, Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("draft-memory".into()).spawn(rebuild) {
            // The next answer tries again.
            self.rebuilding.store(false, Relaxed);
            tracing::debug!("cannot start a thread to shorten the draft memory: {error}");
        }
    }

    /// Queues the table to be written if it learnt `least` distributions since the last time. Never blocks.
    fn save(&self, files: &DraftFiles, least: u64) {
        let learnt = self.successors.lock().learnt();
        let mut saved_at = self.saved_at.lock();
        if learnt < *saved_at + least || !self.load(files) {
            return;
        }
        let table = Arc::clone(&self.successors);
        if files.save(self.scope, move || table.lock().clone()) {
            *saved_at = learnt;
        }
    }

    /// Queues the stored table to be read, once; false if the queue is full. Jobs are done in order, so a table that is
    /// written later holds what was stored before.
    fn load(&self, files: &DraftFiles) -> bool {
        if self.loading.swap(true, Relaxed) {
            return true;
        }
        let table = Arc::clone(&self.successors);
        let queued = files.load(self.scope, move |stored| {
            let Some(mut stored) = stored else { return };
            let mut table = table.lock();
            stored.absorb(&table);
            *table = stored;
        });
        self.loading.store(queued, Relaxed);
        queued
    }
}

/// The recently used tenants.
pub(crate) struct Tenants {
    by_scope: HashMap<ScopeId, (u64, Arc<Tenant>)>,
    uses: u64,
    /// Tokens that all memories together may hold.
    memory_tokens: usize,
    files: Option<Arc<DraftFiles>>,
}

impl Tenants {
    /// No tenant yet.
    pub(crate) fn new(files: Option<Arc<DraftFiles>>, memory_tokens: usize) -> Tenants {
        Tenants { by_scope: HashMap::new(), uses: 0, memory_tokens, files }
    }

    /// Reads past answers from the store, the latest first, as many as fit.
    pub(crate) fn load(&mut self, store: &Store) {
        let mut room = self.memory_tokens;
        let mut latest_first = Vec::new();
        store.each_response_newest(|scope, response| {
            let len = response.prompt.len() + response.tokens.len();
            let fits = len <= room;
            room = room.saturating_sub(len);
            if fits {
                latest_first.push((scope, response));
            }
            fits
        });
        for (scope, response) in latest_first.into_iter().rev() {
            self.of(scope).memory.lock().remember(&response.prompt, &response.tokens);
        }
    }

    /// The tenant of a scope.
    pub(crate) fn of(&mut self, scope: ScopeId) -> Arc<Tenant> {
        self.uses += 1;
        if let Some((used, tenant)) = self.by_scope.get_mut(&scope) {
            *used = self.uses;
            return Arc::clone(tenant);
        }
        self.make_room();
        let tenant = Arc::new(Tenant::new(scope, DraftMemory::new(self.memory_tokens)));
        if let Some(files) = &self.files {
            tenant.load(files);
        }
        self.by_scope.insert(scope, (self.uses, Arc::clone(&tenant)));
        tenant
    }

    /// Adds a prompt and its answer to a tenant's memory; if all memories together are too large, the least recently
    /// used tenant is evicted.
    pub(crate) fn remember(&mut self, tenant: &Tenant, prompt: &[u32], answer: &[u32]) {
        if self.memory_tokens == 0 {
            return;
        }
        tenant.remember(prompt, answer, self.memory_tokens);
        let held = |tenants: &Tenants| -> usize {
            tenants.by_scope.values().map(|(_, tenant)| tenant.memory.lock().tokens()).sum()
        };
        // One that is evicted may hold less than was added.
        while self.by_scope.len() > 1 && held(self) > self.memory_tokens + self.memory_tokens / 2 {
            self.evict_oldest();
        }
    }

    /// Removes the drafter state of a scope, or of all, from memory. Returns the files, where it must be cleared next;
    /// that blocks, so not while this is locked.
    pub(crate) fn forget(&mut self, scope: Option<ScopeId>) -> Option<Arc<DraftFiles>> {
        self.by_scope.retain(|&id, _| scope.is_some_and(|scope| scope != id));
        self.files.clone()
    }

    /// Queues the tables to be written that learnt much since they were written; with `all`, those that learnt anything.
    pub(crate) fn save(&self, all: bool) {
        if let Some(files) = &self.files {
            let least = if all { 1 } else { LEARNT_PER_SAVE };
            self.by_scope.values().for_each(|(_, tenant)| tenant.save(files, least));
        }
    }

    fn make_room(&mut self) {
        if self.by_scope.len() >= TENANTS_MAX {
            self.evict_oldest();
        }
    }

    fn evict_oldest(&mut self) {
        let oldest = self.by_scope.iter().min_by_key(|(_, (used, _))| *used).map(|(scope, _)| *scope);
        if let Some((_, tenant)) = oldest.and_then(|scope| self.by_scope.remove(&scope))
            && let Some(files) = &self.files
        {
            tenant.save(files, 1);
        }
    }
}
