//! The step loop: admit, plan, forward, sample, emit, retire.
//!
//! It runs on its own thread and owns every sequence. The invariant that holds it together: between two
//! steps each running sequence has at least one token whose KV is missing, and its last token is the only
//! one that was never fed to the model.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use foretoken_cache::store::Store;
use foretoken_cache::{ContextCache, RecomputeCost, ScopeId};
use foretoken_kernels::kv::KvLayout;
use foretoken_model::Model;
use foretoken_model::step::{Logits, Scratch, SeqStep, WantLogits};
use foretoken_model::tokenizer::Tokenizer;

use crate::api::{EngineStats, FinishReason};
use crate::draft_planning::plan_drafts;
use crate::fairness::Fairness;
use crate::job::Job;
use crate::scheduler::{Admission, Limits, Scheduler};
use crate::sequence::{Computed, FirstRow, Sequence};
use crate::shared::Shared;
use crate::speculate::drafts::{Drafts, DraftsConfig};
use crate::work::Work;

/// Weight of the newest request in the moving average of request times.
const REQUEST_TIME_WEIGHT: f64 = 0.1;
/// Steps of fewer rows say little about the speed of prefill.
const PREFILL_ROWS_MIN: usize = 64;
/// Weight of the newest step in the measured cost of a token.
const COST_WEIGHT: f64 = 0.2;
/// Idle time after which the engine measures the cost curve.
const PAUSE: Duration = Duration::from_millis(50);
/// Idle time after which the engine checks the prefix tree.
const IDLE: Duration = Duration::from_secs(1);
/// How long to wait for a restore before handling other events.
const RESTORE_WAIT: Duration = Duration::from_millis(2);

/// The engine's thread.
pub(crate) struct StepLoop {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    cache: Arc<ContextCache>,
    layout: KvLayout,
    scratch: Scratch,
    scheduler: Scheduler,
    drafts: Drafts,
    shared: Arc<Shared>,
    stats: EngineStats,
    request_s: f64,
    fairness: Fairness<ScopeId>,
    /// Blocks that fit in memory.
    blocks: usize,
    /// Steps done when the prefix tree was last checked.
    checked_at: u64,
}

/// A sequence that finished in a step.
struct Ended {
    index: usize,
    reason: FinishReason,
}

/// Parts of a step loop.
pub(crate) struct Parts {
    pub(crate) model: Arc<Model>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) cache: Arc<ContextCache>,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    pub(crate) drafts: DraftsConfig,
    /// Blocks that fit in memory.
    pub(crate) blocks: usize,
}

impl StepLoop {
    /// Called on the engine's own thread, because it takes a while.
    pub(crate) fn new(parts: Parts) -> StepLoop {
        let Parts { model, tokenizer, cache, store, shared, limits, drafts, blocks } = parts;
        StepLoop {
            drafts: Drafts::new(drafts, &model, store.as_deref()),
            layout: model.kv_layout(),
            scratch: model.scratch(),
            model,
            tokenizer,
            cache,
            fairness: Fairness::new(limits.running_max, limits.per_tenant_max),
            blocks,
            checked_at: 0,
            scheduler: Scheduler::new(limits),
            shared,
            stats: EngineStats::default(),
            request_s: 0.0,
        }
    }

    /// Steps until the inbox is closed and every request is answered.
    pub(crate) fn run(mut self) {
        loop {
            self.drop_abandoned();
            let blocked = self.admit();
            if self.scheduler.running.is_empty() {
                self.publish();
                if blocked {
                    // Blocks held by a cancelled restore or a writer are released without further action.
                    std::thread::sleep(RESTORE_WAIT);
                    continue;
                }
                self.drafts.save(false);
                if self.shared.inbox.is_quiet_for(PAUSE) {
                    let busy = || self.shared.inbox.len() > 0 || self.shared.inbox.is_closed();
                    self.drafts.measure(&self.model, &mut self.scratch, busy);
                }
                self.check_when_idle();
                if !self.shared.inbox.wait() {
                    break;
                }
                continue;
            }
            self.scheduler.wake(&self.cache);
            let mut work = self.scheduler.plan(&self.cache, &self.fairness);
            if work.is_empty() {
                self.wait_for_blocks();
                continue;
            }
            let start = Instant::now();
            let model = (&*self.model, &mut self.scratch);
            let running = &mut self.scheduler.running;
            let expected = plan_drafts(&mut self.drafts, model, &self.cache, running, &mut work);
            let ended = self.step(&work);
            self.drafts.observe_step(expected, start.elapsed().as_secs_f64() * 1e3);
            self.retire(ended);
            self.publish();
        }
        self.drafts.save(true);
    }

    /// Checks the integrity of the prefix tree once after steps that may have changed it.
    fn check_when_idle(&mut self) {
        if self.checked_at == self.stats.steps_total || !self.shared.inbox.is_quiet_for(IDLE) {
            return;
        }
        self.checked_at = self.stats.steps_total;
        if let Err(error) = self.cache.check_integrity() {
            tracing::error!("{error}; please report it, and restart the server");
            debug_assert!(false, "{error}");
        }
    }

    /// Frees sequences whose client disconnected.
    fn drop_abandoned(&mut self) {
        let Scheduler { running, preempted, .. } = &mut self.scheduler;
        let before = running.len() + preempted.len();
        running.retain(|seq| !seq.is_abandoned());
        preempted.retain(|seq| !seq.is_abandoned());
        let gone = before - running.len() - preempted.len();
        let gone = gone + self.shared.inbox.remove_if(|job| job.events.is_closed());
        self.stats.finished_abort_total += gone as u64;
        self.shared.in_flight.fetch_sub(gone, Relaxed);
    }

    /// Starts waiting requests by turns. True if one is left that has to wait for room.
    fn admit(&mut self) -> bool {
        let StepLoop { scheduler, cache, shared, drafts, stats, fairness, layout, .. } = self;
        let begin = |job: Job, arrived| {
            stats.prompt_tokens_total += job.request.prompt.len() as u64;
            stats.prefix_queries_total += job.request.prompt.len() as u64;
            Sequence::new(job, arrived, layout, drafts)
        };
        fairness.admit(&mut Admission { scheduler, cache, inbox: &shared.inbox, begin })
    }

    /// Computes the planned rows and gives each sequence without pending tokens its next tokens.
    fn step(&mut self, work: &[Work]) -> Vec<Ended> {
        let mut seqs: Vec<(usize, usize, &mut Sequence)> = Vec::with_capacity(work.len());
        let mut planned = work.iter().peekable();
        for (index, seq) in self.scheduler.running.iter_mut().enumerate() {
            if let Some(work) = planned.next_if(|work| work.index == index) {
                seq.record_progress(work.rows);
                seqs.push((index, work.rows, seq));
            }
        }
        let start = Instant::now();
        let logits = forward(&self.model, &self.layout, &mut self.scratch, &mut seqs);
        let took = start.elapsed();
        let rows: usize = work.iter().map(|work| work.rows).sum();
        if rows >= PREFILL_ROWS_MIN {
            let token_s = took.as_secs_f64() / rows as f64;
            let cost = &mut self.scheduler.cost;
            *cost = RecomputeCost { token_s: cost.token_s + COST_WEIGHT * (token_s - cost.token_s), ..*cost };
        }
        self.stats.steps_total += 1;
        let mut computed = Computed {
            model: &self.model,
            tokenizer: &self.tokenizer,
            cache: &self.cache,
            drafts: &mut self.drafts,
            logits,
            cost: self.scheduler.cost,
        };
        let mut first = FirstRow { step: 0, logits: 0 };
        let mut ended = Vec::new();
        for (index, rows, seq) in seqs {
            let wanted = seq.wanted_logits(rows);
            let (before, pending) = (seq.answer_len(), seq.pending());
            let reason = seq.advance(&mut computed, rows, first);
            let generated = seq.answer_len() - before;
            self.fairness.charge(seq.owner, if pending > 1 { rows.min(pending) } else { 0 }, generated);
            self.stats.generation_tokens_total += generated as u64;
            ended.extend(reason.map(|reason| Ended { index, reason }));
            first.step += rows;
            first.logits += match wanted {
                WantLogits::None => 0,
                WantLogits::Last => 1,
                WantLogits::All => rows,
            };
        }
        ended
    }

    /// Waits until blocks arrive from a slower tier.
    fn wait_for_blocks(&mut self) {
        let waiting = self.scheduler.running.iter_mut().find_map(|seq| seq.restore.as_mut());
        match waiting {
            Some(restore) => drop(self.cache.wait_restore(restore, RESTORE_WAIT)),
            None => std::thread::yield_now(),
        }
    }

    /// Sends the summaries of finished sequences and releases their blocks.
    fn retire(&mut self, ended: Vec<Ended>) {
        self.shared.in_flight.fetch_sub(ended.len(), Relaxed);
        for Ended { index, reason } in ended.into_iter().rev() {
            let seq = self.scheduler.running.remove(index);
            let counter = match reason {
                FinishReason::Stop => &mut self.stats.finished_stop_total,
                FinishReason::Length => &mut self.stats.finished_length_total,
                FinishReason::Error(_) => &mut self.stats.finished_error_total,
            };
            *counter += 1;
            let seconds = seq.started().elapsed().as_secs_f64();
            self.request_s += REQUEST_TIME_WEIGHT * (seconds - self.request_s);
            self.stats.prefix_hits_total += seq.cache_hit() as u64;
            self.stats.grammar += seq.grammar_times();
            let (report, saved_ms) = seq.drafted();
            self.stats.drafts.add(&report, saved_ms);
            seq.finish(&self.cache, &mut self.drafts, reason);
        }
    }

    fn publish(&mut self) {
        self.stats.running = self.scheduler.running.len();
        self.stats.waiting = self.scheduler.preempted.len();
        self.stats.preemptions_total = self.scheduler.preemptions;
        let held: usize = self.scheduler.running.iter().map(|seq| seq.table.blocks()).sum();
        self.stats.kv_usage = (held as f64 / self.blocks as f64).min(1.0);
        self.stats.drafts.reliability = self.drafts.reliability();
        self.shared.publish(self.stats, self.request_s, self.scheduler.cost);
    }
}

/// One ragged forward pass over the planned rows.
fn forward<'s>(
    model: &Model,
    layout: &KvLayout,
    scratch: &'s mut Scratch,
    seqs: &mut [(usize, usize, &mut Sequence)],
) -> &'s mut Logits {
    let mut rows_of: Vec<_> = seqs
        .iter_mut()
        .map(|(_, rows, seq)| {
            let (mut tokens, mut parents) = (Vec::new(), Vec::new());
            seq.rows(*rows, &mut tokens, &mut parents);
            let (wanted, committed) = (seq.wanted_logits(*rows), seq.committed);
            let Sequence { table, hidden, .. } = &mut **seq;
            (tokens, parents, wanted, committed, hidden.as_slice(), table.view(layout))
        })
        .collect();
    let mut steps: Vec<_> = rows_of
        .iter_mut()
        .map(|(tokens, parents, logits, committed, hidden, kv)| SeqStep {
            tokens,
            parents: (!parents.is_empty()).then_some(parents.as_slice()),
            committed: *committed,
            hidden: (!hidden.is_empty()).then_some(hidden),
            kv,
            logits: *logits,
        })
        .collect();
    model.forward(scratch, &mut steps)
}

/// However the loop ends, no client waits for an answer that cannot come.
pub(crate) struct CloseOnDrop(pub(crate) Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.inbox.close();
        self.0.inbox.clear();
        self.0.in_flight.store(0, Relaxed);
    }
}
