//! Which experts a row of a mixture is sent to, and with what weight.
//!
//! It is for the step between a router's logits and [`crate::matmul_experts`]; it does not compute the logits and knows
//! no layer. The choice is canonical arithmetic: a function of one row's logits, with ties broken by the lower index,
//! and the chosen experts in falling order of their scores.
//!
//! Sources: Switch and Mixtral (softmax, top-k), DeepSeek-V2 (arXiv 2405.04434, section 2.1.2: group-limited top-k),
//! DeepSeek-V3 (arXiv 2412.19437, section 2.1.2: sigmoid, load-balancing bias in the selection only), gpt-oss (softmax
//! over the chosen logits).

use crate::compute::Compute;
use crate::math;
use crate::share::Shared;

/// How a logit becomes a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each by itself.
    Sigmoid,
    /// The logits select; softmax over those chosen gives the weights.
    SoftmaxOfChosen,
}

/// How good a group of experts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert (DeepSeek-V2).
    Best,
    /// The sum of its best two (DeepSeek-V3).
    BestTwo,
}

/// Limits the choice to the experts of the best groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Groups of equal size, consecutive experts each.
    pub count: usize,
    /// How many of them may be chosen from.
    pub used: usize,
    /// How they are compared.
    pub score: GroupScore,
}

/// The rules of one router.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Experts to choose from.
    pub experts: usize,
    /// Experts per row.
    pub used: usize,
    /// From logits to scores.
    pub gating: Gating,
    /// Group-limited choice.
    pub groups: Option<Groups>,
    /// Added to the scores for the selection, not for the weights; one per expert.
    pub bias: Option<Vec<f32>>,
    /// Divide the weights by their sum.
    pub normalise: bool,
    /// Multiplies the weights at the end.
    pub scale: f32,
}

/// One expert of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The expert's index.
    pub expert: u32,
    /// What its output is multiplied with.
    pub weight: f32,
}

/// The least sum that weights are divided by (the smallest normal f16, as llama.cpp has it).
const SUM_MIN: f32 = 6.103_515_6e-5;

impl Router {
    /// Chooses [`Router::used`] experts for each row of `logits`, `[rows][experts]`.
    ///
    /// # Panics
    /// If the rules contradict each other (more experts used than there are), or `logits` isn't whole rows.
    pub fn route(&self, c: &Compute, logits: &[f32], choices: &mut Vec<Choice>) {
        self.check();
        assert!(logits.len().is_multiple_of(self.experts), "logits of {} experts", self.experts);
        let rows = logits.len() / self.experts;
        choices.clear();
        choices.resize(rows * self.used, Choice::default());
        let shared = Shared::new(choices);
        c.pool().split(rows, logits.len() * self.used, &|rows| {
            let (mut scores, mut selection) = (vec![0.0; self.experts], vec![0.0; self.experts]);
            for row in rows {
                // SAFETY: rows don't overlap, and each is one worker's.
                let out = unsafe { shared.part(row * self.used, self.used) };
                let logits = &logits[row * self.experts..][..self.experts];
                self.route_row(c, logits, &mut scores, &mut selection, out);
            }
        });
    }

    fn check(&self) {
        assert!(0 < self.used && self.used <= self.experts, "{} of {} experts", self.used, self.experts);
        assert!(self.bias.as_ref().is_none_or(|bias| bias.len() == self.experts), "one bias per expert");
        if let Some(groups) = self.groups {
            assert!(self.experts.is_multiple_of(groups.count), "{} groups of equal size", groups.count);
            let reach = self.experts / groups.count * groups.used;
            assert!(groups.used <= groups.count && self.used <= reach, "{} experts from {reach}", self.used);
        }
    }

    fn route_row(
        &self,
        c: &Compute,
        logits: &[f32],
        scores: &mut [f32],
        selection: &mut [f32],
        out: &mut [Choice],
    ) {
        match self.gating {
            Gating::Softmax => math::softmax(c, logits, scores),
            Gating::Sigmoid => math::sigmoid(c, logits, scores),
            Gating::SoftmaxOfChosen => scores.copy_from_slice(logits),
        }
        selection.copy_from_slice(scores);
        if let Some(bias) = &self.bias {
            selection.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
        if let Some(groups) = self.groups {
            limit(groups, selection);
        }
        for choice in out.iter_mut() {
            let best = best(selection);
            *choice = Choice { expert: best as u32, weight: scores[best] };
            selection[best] = f32::NEG_INFINITY;
        }
        self.weigh(c, out);
    }

    fn weigh(&self, c: &Compute, choices: &mut [Choice]) {
        if self.gating == Gating::SoftmaxOfChosen {
            let logits: Vec<f32> = choices.iter().map(|choice| choice.weight).collect();
            let mut weights = vec![0.0; logits.len()];
            math::softmax(c, &logits, &mut weights);
            choices.iter_mut().zip(weights).for_each(|(choice, weight)| choice.weight = weight);
        }
        let sum = choices.iter().fold(0.0, |sum, choice| sum + choice.weight).max(SUM_MIN);
        for choice in choices {
            if self.normalise {
                choice.weight /= sum;
            }
            choice.weight *= self.scale;
        }
    }
}

/// The index of the largest value that isn't minus infinity, the first of equals. NaN counts as the smallest.
fn best(values: &[f32]) -> usize {
    let mut best = None;
    for (i, &value) in values.iter().enumerate() {
        if value > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((i, value));
        }
    }
    // Only NaN is left: the choice doesn't matter, but must be the same everywhere.
    best.map_or_else(|| values.iter().position(|value| value.is_nan()).unwrap_or(0), |(i, _)| i)
}

/// Sets the scores of all but the best groups to minus infinity.
fn limit(groups: Groups, selection: &mut [f32]) {
    let size = selection.len() / groups.count;
    let mut scores: Vec<f32> =
        selection.chunks_exact(size).map(|group| group_score(groups.score, group)).collect();
    let mut used = vec![false; groups.count];
    for _ in 0..groups.used {
        let best = best(&scores);
        (used[best], scores[best]) = (true, f32::NEG_INFINITY);
    }
    for (group, used) in selection.chunks_exact_mut(size).zip(used) {
        if !used {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

fn group_score(score: GroupScore, group: &[f32]) -> f32 {
    let first = best(group);
    match score {
        GroupScore::Best => group[first],
        GroupScore::BestTwo => {
            let others = group.iter().enumerate().filter(|&(i, _)| i != first).map(|(_, &value)| value);
            let second = others.fold(f32::NEG_INFINITY, f32::max);
            if second == f32::NEG_INFINITY { group[first] } else { group[first] + second }
        }
    }
}
