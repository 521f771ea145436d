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
use foretoken_kernels::{Compute, math};
use foretoken_model::Model;
use foretoken_model::step::{Scratch, SeqStep, WantLogits};

use super::coupling::{Coupled, Coupling};
use super::draft_tree::ROOT;
use super::drafter::{Context, Drafter, Draws, Proposals};
use super::mutex::Mutex;
use super::settings::Source;
use crate::api::CacheUse;
use crate::block_table::BlockTable;
use crate::random::uniform_of;

/// Tokens per prefill step.
pub(crate) const DRAFT_STEP_TOKENS: usize = 512;
/// Draft tokens per step, at most.
const AHEAD_MAX: usize = 16;
/// Steps without a draft before another attempt.
const RETRY: u32 = 32;
/// Weight of the newest sample in the moving averages of step cost and of `first_token_p`.
const WEIGHT: f64 = 0.1;
/// A second child is proposed from this probability on.
const SECOND_MIN: f32 = 0.15;
/// Draws are from tokens at most this many nats below the most probable.
const DRAW_WITHIN: f32 = 6.0;
/// The same for coupled draft tokens, whose noise lifts less probable ones.
const COUPLED_WITHIN: f32 = 8.0;
/// The first bucket of coupled draft tokens.
const COUPLED: u8 = 32;
/// Which of the independent uniform numbers of a position is the draw's; the successor table has another.
const DRAW: u64 = 3;
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
            let node = match coupled {
                Some(coupling) => propose_coupled(compute, &logits, parent, coupling, out),
                None => propose_next(&likely(compute, &logits, drawn), parent, position, drawn, out),
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

/// Adds the coupled draw after `parent` and the next best candidate by a drafter's logits; returns the node to continue
/// from.
pub(super) fn propose_coupled(
    compute: &Compute,
    logits: &[f32],
    parent: u32,
    coupling: Coupling<'_>,
    out: &mut Proposals<'_>,
) -> Option<u32> {
    let mut near = Vec::new();
    math::near_max(compute, logits, coupling.within(COUPLED_WITHIN), &mut near);
    let ranked = coupling.rank(&out.tree.tokens_to(parent), &mut near, f32::NEG_INFINITY);
    let &[first, ref others @ ..] = &ranked[..] else { return None };
    let mut add = |next: Coupled| out.add(parent, next.token, COUPLED + next.level(), next.estimate);
    let node = add(first);
    if let Some(&second) = others.first().filter(|second| second.estimate >= SECOND_MIN) {
        add(second);
    }
    node
}

/// The tokens that a drafter may propose by its logits, the most probable first: the top two, or where draft tokens must
/// be drawn, the distribution to draw from.
pub(super) fn likely(compute: &Compute, logits: &[f32], draws: Option<Draws>) -> Vec<(u32, f32)> {
    let mut near = Vec::new();
    let within = DRAW_WITHIN * draws.map_or(1.0, |draws| draws.temperature);
    math::near_max(compute, logits, within, &mut near);
    let normaliser = math::log_sum_exp(compute, logits);
    near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let Some(Draws { temperature, .. }) = draws else {
        return near.into_iter().take(2).map(|(logit, id)| (id, (logit - normaliser).exp())).collect();
    };
    let top = near.first().map_or(0.0, |(logit, _)| *logit);
    let mut drawn: Vec<(u32, f32)> =
        near.into_iter().map(|(logit, id)| (id, ((logit - top) / temperature).exp())).collect();
    let total: f32 = drawn.iter().map(|(_, p)| p).sum();
    drawn.iter_mut().for_each(|(_, p)| *p /= total);
    drawn
}

/// Adds draft tokens after `parent`; returns the node to continue from.
pub(super) fn propose_next(
    likely: &[(u32, f32)],
    parent: u32,
    position: u64,
    draws: Option<Draws>,
    out: &mut Proposals<'_>,
) -> Option<u32> {
    let &[(first, p), ref others @ ..] = likely else { return None };
    let Some(Draws { seed, .. }) = draws else {
        let node = out.add(parent, first, class(p), p);
        if let Some(&(second, p)) = others.first().filter(|(_, p)| *p >= SECOND_MIN) {
            out.add(parent, second, class(p), p);
        }
        return node;
    };
    // Tokens that another drafter has proposed are not drawn again.
    let mut free: Vec<(u32, f32)> =
        likely.iter().copied().filter(|(token, _)| out.tree.child(parent, *token).is_none()).collect();
    let total: f32 = free.iter().map(|(_, p)| p).sum();
    if total <= 0.0 {
        return None;
    }
    free.iter_mut().for_each(|(_, p)| *p /= total);
    let u = uniform_of(seed, position, DRAW) as f32;
    let mut sum = 0.0;
    let drawn = free.iter().find(|(_, p)| {
        sum += p;
        sum > u
    });
    let &(token, _) = drawn.or(free.last())?;
    // The class must not tell which token was drawn, only what it was drawn from.
    out.add_drawn(parent, token, (class(free[0].1) + 16, 0.6), &free)
}

fn class(p: f32) -> u8 {
    (p * 16.0).clamp(0.0, 15.0) as u8
}
