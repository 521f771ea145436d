//! A mixture of experts: a router, many small gated networks, and for some families one that every row visits.
//!
//! The invariant: a row's output depends on that row alone, however the rows of a step are gathered by expert. Each
//! touched expert's weights are read once per step; where not all of them fit in memory at once, one part of the experts
//! after the other.

use foretoken_kernels::ops::{self, Glu};
use foretoken_kernels::router::{Choice, Router};
use foretoken_kernels::{Activations, Compute, MatmulJob, PackedMatrix, math, matmul, matmul_experts};

use super::branch::Branch;
use super::expert_weights::{ExpertWeights, Part};
use super::linear::Linear;
use super::{FeedForward, Place};
use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;

/// What a family says of a layer's mixture.
#[derive(Clone)]
pub(crate) struct Experts {
    /// The router's rules; its selection bias is read from the file where it has one.
    pub(crate) router: Router,
    /// Numbers between an expert's two projections.
    pub(crate) width: usize,
    pub(crate) glu: Glu,
    pub(crate) shared: Option<SharedExpert>,
}

/// The dense network beside the experts.
#[derive(Clone, Copy)]
pub(crate) struct SharedExpert {
    /// Numbers between its two projections.
    pub(crate) width: usize,
    /// Whether its output is multiplied with the sigmoid of a product (Qwen 2 MoE).
    pub(crate) gated: bool,
}

impl From<Experts> for FeedForward {
    fn from(experts: Experts) -> FeedForward {
        FeedForward::Experts(experts)
    }
}

struct SharedLayer {
    width: usize,
    gate: Linear,
    up: Linear,
    down: Linear,
    router: Option<Linear>,
}

pub(super) struct ExpertsLayer {
    spec: Experts,
    columns: usize,
    router: Linear,
    weights: ExpertWeights,
    shared: Option<SharedLayer>,
}

/// What a step read of mixtures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertsRead {
    /// Experts, over all layers.
    pub experts: usize,
    /// Bytes of their weights.
    pub bytes: usize,
}

/// Buffers, reused across layers and steps.
#[derive(Default)]
pub(crate) struct ExpertsScratch {
    logits: Vec<f32>,
    choices: Vec<Choice>,
    plan: Plan,
    /// The slots of the experts at hand.
    slots: Vec<u32>,
    gathered: Activations,
    hidden: Activations,
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
    read: ExpertsRead,
}

impl ExpertsScratch {
    /// Buffers for experts of quantised weights, or also of floats.
    pub(crate) fn new(floats: bool) -> ExpertsScratch {
        let activations = || if floats { Activations::with_floats() } else { Activations::new() };
        ExpertsScratch { gathered: activations(), hidden: activations(), ..ExpertsScratch::default() }
    }

    pub(crate) fn begin_step(&mut self) {
        self.read = ExpertsRead::default();
    }

    pub(crate) fn read(&self) -> ExpertsRead {
        self.read
    }
}

/// The rows of a step, gathered by expert.
#[derive(Default)]
struct Plan {
    /// Touched experts in rising order; segment `i` of the gathered rows is expert `i`'s.
    experts: Vec<u32>,
    /// Rows of each segment.
    counts: Vec<usize>,
    /// The row of the step that each gathered row was.
    rows: Vec<u32>,
    /// Where the gathered row of each row's `k`th choice is.
    pairs: Vec<u32>,
}

impl Plan {
    /// Gathers by counting: within an expert, rows keep their order.
    fn gather(&mut self, experts: usize, used: usize, choices: &[Choice]) {
        let mut starts = vec![0usize; experts + 1];
        choices.iter().for_each(|choice| starts[choice.expert as usize + 1] += 1);
        self.experts.clear();
        self.counts.clear();
        for (expert, &count) in starts[1..].iter().enumerate().filter(|(_, count)| **count > 0) {
            self.experts.push(expert as u32);
            self.counts.push(count);
        }
        for expert in 0..experts {
            starts[expert + 1] += starts[expert];
        }
        self.rows.resize(choices.len(), 0);
        self.pairs.resize(choices.len(), 0);
        for (pair, choice) in choices.iter().enumerate() {
            let place = &mut starts[choice.expert as usize];
            self.rows[*place] = (pair / used) as u32;
            self.pairs[pair] = *place as u32;
            *place += 1;
        }
    }
}

impl ExpertsLayer {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: usize,
        spec: &Experts,
    ) -> Result<ExpertsLayer, ModelError> {
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let (count, columns, width) = (spec.router.experts, config.width, spec.width);
        let mut spec = spec.clone();
        spec.router.bias = loader.optional_vector(&name("exp_probs_b.bias"), count)?;
        Ok(ExpertsLayer {
            columns,
            router: Linear::load(loader, &name("ffn_gate_inp"), count, columns)?,
            weights: ExpertWeights::load(loader, layer, (columns, width), (count, spec.router.used))?,
            shared: match spec.shared {
                Some(shared) => Some(SharedLayer::load(loader, config, layer, shared)?),
                None => None,
            },
            spec,
        })
    }

    pub(super) fn forward(&self, place: Place<'_>, branch: &Branch, s: &mut Scratch) {
        let c = place.compute;
        branch.enter(c, &s.residual, &mut s.activations);
        s.branch.clear();
        s.branch.resize(s.residual.len(), 0.0);
        self.add_experts(c, &s.activations, &mut s.experts, &mut s.branch);
        if let Some(shared) = &self.shared {
            shared.add(c, self.spec.glu, &s.activations, &mut s.experts, &mut s.branch);
        }
        branch.leave(c, &s.branch, &mut s.residual);
    }

    /// `out += Σ weight · expert(x)`, over the experts of each row.
    fn add_experts(&self, c: &Compute, x: &Activations, s: &mut ExpertsScratch, out: &mut [f32]) {
        let (router, width) = (&self.spec.router, self.spec.width);
        s.logits.resize(x.rows() * router.experts, 0.0);
        matmul(c, x, &mut [self.router.job(&mut s.logits, false)]);
        router.route(c, &s.logits, &mut s.choices);
        s.plan.gather(router.experts, router.used, &s.choices);
        s.read.experts += s.plan.experts.len();
        s.read.bytes += s.plan.experts.len() * self.weights.expert_bytes();
        let pairs = s.choices.len();
        s.gate.resize(pairs * width, 0.0);
        s.up.resize(pairs * width, 0.0);
        s.out.resize(pairs * self.columns, 0.0);
        let mut first = 0;
        let touched = s.plan.experts.chunks(self.weights.slots_max());
        for (experts, counts) in touched.zip(s.plan.counts.chunks(self.weights.slots_max())) {
            let rows = first..first + counts.iter().sum::<usize>();
            let resident = self.weights.fetch(c, experts, &mut s.slots);
            s.gathered.reset_segments(counts.iter().copied(), self.columns);
            s.gathered.gather(c, x, &s.plan.rows[rows.clone()]);
            let between = rows.start * width..rows.end * width;
            let (gate, up) = (&mut s.gate[between.clone()], &mut s.up[between]);
            let mut jobs = [resident.job(Part::Gate, &mut *gate), resident.job(Part::Up, &mut *up)];
            matmul_experts(c, &s.gathered, &s.slots, &mut jobs);
            s.hidden.reset_segments(counts.iter().copied(), width);
            ops::glu_activations(c, self.spec.glu, gate, up, &mut s.hidden);
            let out = &mut s.out[rows.start * self.columns..rows.end * self.columns];
            matmul_experts(c, &s.hidden, &s.slots, &mut [resident.job(Part::Down, out)]);
            first = rows.end;
        }
        ops::add_weighted(c, out, self.columns, &s.out, &s.plan.pairs, &s.choices);
    }

    /// All packed weights, except for experts.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let shared = self.shared.iter().flat_map(SharedLayer::linears);
        shared.chain([&self.router]).map(|linear| &linear.weight)
    }

    pub(super) fn is_float(&self) -> bool {
        self.weights.is_float()
    }

    /// Bytes of the experts that a row is sent to.
    pub(super) fn visited_bytes(&self) -> usize {
        self.weights.expert_bytes() * self.spec.router.used
    }
}

impl SharedLayer {
    fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: usize,
        spec: SharedExpert,
    ) -> Result<SharedLayer, ModelError> {
        let linear = |suffix, rows, cols| Linear::load(loader, &format!("blk.{layer}.{suffix}"), rows, cols);
        let (columns, width) = (config.width, spec.width);
        Ok(SharedLayer {
            width,
            gate: linear("ffn_gate_shexp", width, columns)?,
            up: linear("ffn_up_shexp", width, columns)?,
            down: linear("ffn_down_shexp", columns, width)?,
            router: match spec.gated {
                true => Some(linear("ffn_gate_inp_shexp", 1, columns)?),
                false => None,
            },
        })
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.gate, &self.up, &self.down].into_iter().chain(&self.router)
    }

    /// `out += shared(x)`, multiplied with the sigmoid of its router's product if it has one.
    fn add(&self, c: &Compute, glu: Glu, x: &Activations, s: &mut ExpertsScratch, out: &mut [f32]) {
        let rows = x.rows();
        s.gate.resize(rows * self.width, 0.0);
        s.up.resize(rows * self.width, 0.0);
        let mut jobs: Vec<MatmulJob<'_>> =
            vec![self.gate.job(&mut s.gate, false), self.up.job(&mut s.up, false)];
        s.logits.resize(rows, 0.0);
        if let Some(router) = &self.router {
            jobs.push(router.job(&mut s.logits, false));
        }
        matmul(c, x, &mut jobs);
        s.hidden.reset(rows, self.width);
        ops::glu_activations(c, glu, &s.gate, &s.up, &mut s.hidden);
        if self.router.is_none() {
            return matmul(c, &s.hidden, &mut [self.down.job(out, true)]);
        }
        s.out.resize(out.len(), 0.0);
        matmul(c, &s.hidden, &mut [self.down.job(&mut s.out, false)]);
        let mut weights = vec![0.0; rows];
        math::sigmoid(c, &s.logits, &mut weights);
        s.choices.clear();
        s.choices.extend(weights.into_iter().map(|weight| Choice { expert: 0, weight }));
        s.plan.pairs.clear();
        s.plan.pairs.extend(0..rows as u32);
        ops::add_weighted(c, out, out.len() / rows, &s.out, &s.plan.pairs, &s.choices);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_by_expert_in_their_order() {
        let choices = [5, 2, 2, 0, 5, 2].map(|expert| Choice { expert, weight: 1.0 });
        let mut plan = Plan::default();
        plan.gather(8, 2, &choices);
        assert_eq!(plan.experts, [0, 2, 5]);
        assert_eq!(plan.counts, [1, 3, 2]);
        assert_eq!(plan.rows, [1, 0, 1, 2, 0, 2]);
        assert_eq!(plan.pairs, [4, 1, 2, 0, 5, 3]);
    }
}
