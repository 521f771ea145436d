//! Speculation over all sequences of an engine: the drafters of a request, what a step verifies, what is learnt.
//!
//! Lives on the engine's thread. The invariant: draft tokens never change what else a step computes;
//! they take free blocks only and never preempt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foretoken_cache::store::Store;
use foretoken_cache::{DraftFiles, ScopeId};
use foretoken_kernels::{Compute, math};
use foretoken_model::Model;
use foretoken_model::step::Scratch;

use super::calibrator::Record;
use super::cost_curve::CostCurve;
use super::draft_model::{DraftModel, DraftModelDrafter};
use super::drafter::Drafter;
use super::head::Head;
use super::mutex::Mutex;
use super::settings::{RELIABILITY_CLASSES, Reliability, Source, Speculation};
use super::speculator::Speculator;
use super::successors::Successors;
use super::tenants::Tenants;
use super::text_drafters::{Memory, OwnText, Prediction};
use crate::api::Request;

/// Successors are learnt from tokens at most this many nats below the most probable.
const LEARN_WITHIN: f32 = 2.5;

/// A curve that does not fit is measured again this often at most.
const MEASURE_EVERY: Duration = Duration::from_secs(600);

/// Configuration of [`Drafts`].
pub(crate) struct DraftsConfig {
    pub(crate) default: Speculation,
    /// Rows that a step may have.
    pub(crate) step_tokens: usize,
    /// Where cost curves are kept.
    pub(crate) files: Option<Arc<DraftFiles>>,
    pub(crate) tenants: Arc<Mutex<Tenants>>,
    /// The draft model.
    pub(crate) draft_model: Option<Arc<DraftModel>>,
}

/// Predicted cost of a step.
#[derive(Clone, Copy)]
pub(crate) struct ExpectedCost {
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
    pub(crate) base_ms: f64,
    /// For its draft rows.
    pub(crate) draft_ms: f64,
    /// What the head for multi-token prediction took, measured.
    pub(crate) head_ms: f64,
}

/// See the [module](self).
pub(crate) struct Drafts {
    default: Speculation,
    /// Rows that a step may have.
    step_tokens: usize,
    record: Record,
    costs: CostCurve,
    /// Whether `costs` was measured here and not assumed.
    measured: bool,
    measured_at: Option<Instant>,
    files: Option<Arc<DraftFiles>>,
    tenants: Arc<Mutex<Tenants>>,
    draft_model: Option<Arc<DraftModel>>,
    head: Head,
    /// Steps planned so far, and sequences that decode in the last one.
    steps: u64,
    batch: usize,
    /// Speculating sequences so far.
    speculators: u64,
    near: Vec<(f32, u32)>,
}

impl Drafts {
    /// Loads drafter state, and the cost curve if it was measured before. Reads files: before the first step only.
    pub(crate) fn new(config: DraftsConfig, model: &Model, store: Option<&Store>) -> Drafts {
        let DraftsConfig { default, step_tokens, files, tenants, draft_model } = config;
        if let Some(store) = store {
            tenants.lock().load(store);
        }
        let known = files.as_deref().and_then(|files| CostCurve::load(model, files));
        Drafts {
            default,
            step_tokens,
            record: Record::default(),
            measured: known.is_some(),
            measured_at: None,
            costs: known.unwrap_or_else(CostCurve::assumed),
            files,
            tenants,
            draft_model,
            head: Head::default(),
            steps: 0,
            batch: 1,
            speculators: 0,
            near: Vec::new(),
        }
    }

    /// Speculation for a new sequence, if enabled.
    pub(crate) fn speculator(
        &mut self,
        scope: ScopeId,
        request: &Request,
        randomness: (u64, f32),
    ) -> Option<Speculator> {
        let settings = request.speculation.over(self.default);
        if !settings.enabled || settings.max_draft == 0 {
            return None;
        }
        let tenant = self.tenants.lock().of(scope);
        let mut drafters: Vec<Box<dyn Drafter>> = Vec::new();
        let wants = |source| settings.sources.contains(source);
        if wants(Source::Prediction) && !request.prediction.is_empty() {
            drafters.push(Box::new(Prediction::new(request.prediction.clone())));
        }
        if wants(Source::OwnText) {
            drafters.push(Box::new(OwnText::new()));
        }
        // Without permission to read the caches nothing may be drafted from them either.
        if request.cache.read && wants(Source::Memory) {
            drafters.push(Box::new(Memory::new(Arc::clone(&tenant.memory))));
        }
        if request.cache.read && wants(Source::Successors) {
            drafters.push(Box::new(Successors::new(Arc::clone(&tenant.successors))));
        }
        if let Some(draft_model) = self.draft_model.as_ref().filter(|_| wants(Source::DraftModel)) {
            drafters.push(Box::new(DraftModelDrafter::new(
                Arc::clone(draft_model),
                &request.tenant,
                request.cache,
            )));
        }
        self.speculators += 1;
        Some(Speculator::new(settings, drafters, tenant, randomness, (self.speculators, request.cache.write)))
    }

    /// Begins a step of `batch` decoding sequences.
    pub(crate) fn begin_step(&mut self, batch: usize) {
        self.steps += 1;
        self.batch = batch;
    }

    /// The cost curve in use.
    pub(crate) fn costs(&self) -> &CostCurve {
        &self.costs
    }

    /// The cost curve in use, and the head for multi-token prediction.
    pub(crate) fn costs_and_head(&mut self) -> (&CostCurve, &mut Head) {
        (&self.costs, &mut self.head)
    }

    /// Rows that a step may have.
    pub(crate) fn step_tokens(&self) -> usize {
        self.step_tokens
    }

    /// Measures the cost curve, unless it fits or `interrupted` returns true.
    pub(crate) fn measure(&mut self, model: &Model, scratch: &mut Scratch, interrupted: impl Fn() -> bool) {
        let lately = self.measured_at.is_some_and(|at| at.elapsed() < MEASURE_EVERY);
        let fits = self.measured && (lately || !self.costs.is_off());
        if fits || !self.default.enabled {
            return;
        }
        if let Some(costs) = CostCurve::measure(model, scratch, self.files.as_deref(), interrupted) {
            (self.costs, self.measured, self.measured_at) = (costs, true, Some(Instant::now()));
        }
    }

    /// Updates the cost curve with the duration of a step, drafting and sampling included.
    pub(crate) fn observe_step(&mut self, expected: ExpectedCost, ms: f64) {
        let ExpectedCost { rows, tokens, base_ms, draft_ms, head_ms } = expected;
        self.costs.observe((rows, tokens), (base_ms, draft_ms), ms - head_ms);
    }

    /// Reliability of the estimates.
    pub(crate) fn reliability(&self) -> [[Reliability; RELIABILITY_CLASSES]; Source::ALL.len()] {
        self.record.0
    }

    pub(crate) fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Learns successors of the last of `tokens` from its unmodified logits.
    pub(crate) fn learn(
        &mut self,
        compute: &Compute,
        speculator: &mut Speculator,
        tokens: &[u32],
        logits: &[f32],
    ) {
        // In a large batch a token is cheap, and learning from each would be noticeable. So half as
        // many are learnt from as if one sequence ran alone.
        let period = if self.batch > 1 { 2 * self.batch } else { 1 };
        let turn = (self.steps + speculator.turn()).is_multiple_of(period as u64);
        if !turn || !speculator.learns || !speculator.settings.sources.contains(Source::Successors) {
            return;
        }
        let start = Instant::now();
        self.near.clear();
        math::near_max(compute, logits, LEARN_WITHIN, &mut self.near);
        let top = self.near.iter().map(|(logit, _)| *logit).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for (logit, _) in &mut self.near {
            *logit = (*logit - top).exp();
            total += *logit;
        }
        self.near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let mut next = [(0, 0.0); foretoken_cache::successor_table::SUCCESSORS];
        let used = next.len().min(self.near.len());
        for (next, &(p, id)) in next.iter_mut().zip(&self.near) {
            *next = (id, p / total);
        }
        if let [.., last] = *tokens {
            let before = tokens.len().checked_sub(2).map(|at| tokens[at]);
            speculator.tenant.successors.lock().learn(before, last, &next[..used]);
        }
        speculator.spent_on(Source::Successors, start.elapsed().as_secs_f64() * 1e3);
    }

    /// Adds a finished prompt and answer to the draft memory.
    pub(crate) fn remember(&mut self, speculator: &Speculator, prompt: &[u32], answer: &[u32]) {
        self.tenants.lock().remember(&speculator.tenant, prompt, answer);
    }

    /// Saves drafter state; with `all`, every change.
    pub(crate) fn save(&self, all: bool) {
        self.tenants.lock().save(all);
    }
}
