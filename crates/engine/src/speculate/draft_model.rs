//! A second, smaller model with the same vocabulary that drafts for the first.
//!
//! It processes the same tokens as the target and drafts ahead, one token at a time, while the draft is probable enough
//! to be worth its time. Its KV lives in blocks of its own, cached under the same secret, tenants and tokens as the
//! target's, so that a prompt that hits there hits here too.
//!
//! The invariant: slots below `committed` hold the KV of the sequence's tokens, later ones that of draft tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foretoken_cache::{BLOCK_TOKENS, ContextCache, Fingerprint, RecomputeCost, Scope, ServerSecret};
use foretoken_model::Model;
use foretoken_model::step::{Scratch, SeqStep, WantLogits};

use super::draft_logits::DraftLogits;
use super::draft_tree::ROOT;
use super::drafter::{Context, Drafter, Proposals};
use super::mutex::Mutex;
use super::settings::Source;
use crate::api::CacheUse;
use crate::block_table::BlockTable;

/// Tokens per prefill step.
pub(crate) const DRAFT_STEP_TOKENS: usize = 512;
/// Draft tokens per step, at most.
const AHEAD_MAX: usize = 16;
/// Steps without a draft before another attempt.
const RETRY: u32 = 32;
/// Weight of the newest sample in the moving averages of step cost and of `first_token_p`.
const WEIGHT: f64 = 0.1;
/// How long blocks may take to come from disk.
const RESTORE_MAX: Duration = Duration::from_millis(200);

/// The model and what its sequences share.
pub(crate) struct DraftModel {
    model: Arc<Model>,
    cache: ContextCache,
    secret: ServerSecret,
    fingerprint: Fingerprint,
    scratch: Mutex<Scratch>,
    /// Milliseconds that it needs for a token.
    step_ms: Mutex<f64>,
}

impl DraftModel {
    pub(crate) fn new(
        model: Arc<Model>,
        cache: ContextCache,
        secret: ServerSecret,
        fingerprint: Fingerprint,
    ) -> DraftModel {
        DraftModel {
            scratch: Mutex::new(model.scratch()),
            model,
            cache,
            secret,
            fingerprint,
            step_ms: Mutex::new(0.0),
        }
    }

    /// Forgets a tenant's blocks, or everyone's. Waits for the disk.
    pub(crate) fn clear(&self, tenant: Option<&str>) {
        self.cache.clear(tenant.map(|tenant| self.secret.scope(tenant, self.fingerprint).id()));
    }

    /// Waits until what is cached now is on disk, or was dropped.
    pub(crate) fn flush(&self) {
        self.cache.flush();
    }
}

/// See the [module](self).
pub(crate) struct DraftModelDrafter {
    draft_model: Arc<DraftModel>,
    scope: Scope,
    cache_use: CacheUse,
    table: BlockTable,
    committed: usize,
    attached: bool,
    /// Draft tokens whose KV follows the committed one.
    ahead: Vec<u32>,
    /// Moving average of the estimated probability of a step's first draft token.
    first_token_p: f64,
    idle: u32,
}

impl DraftModelDrafter {
    pub(crate) fn new(draft_model: Arc<DraftModel>, tenant: &str, cache_use: CacheUse) -> DraftModelDrafter {
        DraftModelDrafter {
            scope: draft_model.secret.scope(tenant, draft_model.fingerprint),
            draft_model,
            cache_use,
            table: BlockTable::default(),
            committed: 0,
            attached: false,
            ahead: Vec::new(),
            first_token_p: 1.0,
            idle: 0,
        }
    }

    /// Begins from what is cached of the tokens.
    fn attach(&mut self, tokens: &[u32]) {
        if !self.cache_use.read {
            return;
        }
        let cache = &self.draft_model.cache;
        let known = &tokens[..tokens.len() - 1];
        let mut found = cache.lookup(&self.scope, known);
        if let Some(mut restore) = cache.begin_restore(found.below, &cache.rates(RecomputeCost::default())) {
            let start = Instant::now();
            while start.elapsed() < RESTORE_MAX && !cache.wait_restore(&mut restore, RESTORE_MAX).done {}
            found = cache.lookup(&self.scope, known);
        }
        (self.table, self.committed) = BlockTable::from_match(cache, found.ram);
    }

    /// Computes `tokens` after the committed ones and gives the last one's logits to `read`. `None` if there is no
    /// memory for them.
    fn feed<T>(&mut self, at: usize, tokens: &[u32], read: impl FnOnce(&[f32]) -> T) -> Option<T> {
        if !self.table.reserve(&self.draft_model.cache, at + tokens.len()) {
            return None;
        }
        let mut scratch = self.draft_model.scratch.lock();
        let mut kv = self.table.view(&self.draft_model.model.kv_layout());
        let step = SeqStep {
            tokens,
            parents: None,
            committed: at,
            hidden: None,
            kv: &mut kv,
            logits: WantLogits::Last,
        };
        Some(read(self.draft_model.model.forward(&mut scratch, &mut [step]).row(0)))
    }

    /// Keeps the KV of accepted draft tokens, prefills new tokens up to the last one, and returns the last one's
    /// logits.
    fn catch_up(&mut self, tokens: &[u32]) -> Option<Vec<f32>> {
        if !std::mem::replace(&mut self.attached, true) {
            self.attach(tokens);
        }
        let new = tokens.get(self.committed..tokens.len() - 1)?;
        self.committed += new.iter().zip(&self.ahead).take_while(|(a, b)| a == b).count();
        self.ahead.clear();
        let mut logits = None;
        while self.committed < tokens.len() {
            let rows = (tokens.len() - self.committed).min(DRAFT_STEP_TOKENS);
            let chunk = &tokens[self.committed..self.committed + rows];
            logits = Some(self.feed(self.committed, chunk, <[f32]>::to_vec)?);
            self.committed += rows;
            let (cache, share) = (&self.draft_model.cache, self.cache_use.write);
            self.table.seal_full(cache, &self.scope, tokens, self.committed, share);
            if share && self.committed == tokens.len() && rows >= BLOCK_TOKENS {
                // The end of a prompt, where later requests may resume.
                self.table.write_windowed(cache, self.table.sealed());
            }
            self.table.drop_windowed(cache, self.committed, &[]);
        }
        logits
    }

    /// Whether another draft token pays after one that is accepted with probability `path`.
    fn pays(&self, path: f64, step_ms: f64) -> bool {
        path * step_ms > *self.draft_model.step_ms.lock()
    }
}

impl Drafter for DraftModelDrafter {
    fn source(&self) -> Source {
        Source::DraftModel
    }

    fn propose(&mut self, context: Context<'_>, out: &mut Proposals<'_>) {
        let Context { tokens, drawn, coupled, step_ms, .. } = context;
        if !self.pays(self.first_token_p, step_ms) && self.idle < RETRY {
            self.idle += 1;
            return;
        }
        self.idle = 0;
        let Some(mut logits) = self.catch_up(tokens) else { return };
        let mut parent = ROOT;
        let mut ahead = Vec::new();
        loop {
            let position = (tokens.len() + ahead.len()) as u64;
            let compute = self.draft_model.model.compute();
            let next = DraftLogits { compute, logits: &logits, tokens: None };
            let node = match coupled {
                Some(coupling) => next.propose_coupled(parent, coupling, out),
                None => next.propose(parent, position, drawn, out),
            };
            let Some(node) = node else { break };
            let path = f64::from(out.tree.path(node));
            if parent == ROOT {
                self.first_token_p += WEIGHT * (path - self.first_token_p);
            }
            let token = out.tree.nodes()[node as usize].token;
            if ahead.len() + 1 >= AHEAD_MAX || !self.pays(path, step_ms) {
                break;
            }
            let start = Instant::now();
            let at = self.committed + ahead.len();
            let Some(next) = self.feed(at, &[token], <[f32]>::to_vec) else { break };
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let mut mean = self.draft_model.step_ms.lock();
            *mean += if *mean == 0.0 { ms } else { WEIGHT * (ms - *mean) };
            ahead.push(token);
            (parent, logits) = (node, next);
        }
        self.ahead = ahead;
    }

    fn observe(&mut self, _: &[u32], _: usize) {}
}
