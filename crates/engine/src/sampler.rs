//! From a row of logits to a token.
//!
//! The order is fixed: bias, penalties, temperature, `top_k`, `top_p`, `min_p`, then the largest logit plus noise.
//! Everything is a function of the logits, the request and the tokens so far; ties go to the smaller id. What the
//! sampler is *not* for: deciding when to stop.

use std::collections::HashMap;

use foretoken_kernels::{Compute, math};

use crate::api::{Sampling, TOP_LOGPROBS_MAX};
use crate::dice::Dice;
use crate::logit_blocks::{Floor, LogitBlocks};
use crate::random::fresh_seed;

/// Candidates that `top_p` sorts first; enough for all but very flat distributions.
const HEAD_CANDIDATES: usize = 256;
/// Lower temperatures than its inverse are greedy in all but name, and must not make logits infinite.
const INVERSE_TEMPERATURE_MAX: f32 = 1e6;

/// Sampling state of one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: Sampling,
    dice: Dice,
    /// Occurrences in the answer, for presence and frequency penalties.
    counts: HashMap<u32, u32>,
    /// Of the current row.
    blocks: LogitBlocks,
    /// The most likely tokens of the current row with their logits, as far as a cut-off needs them.
    head: Vec<(f32, u32)>,
    /// Probabilities of the current row.
    probs: Vec<f32>,
}

/// A distribution over the vocabulary.
pub(crate) struct Plain<'a> {
    probs: &'a [f32],
    /// In nats.
    pub(crate) entropy: f32,
    /// The largest probability.
    pub(crate) top: f32,
}

impl Plain<'_> {
    pub(crate) fn of(&self, token: u32) -> f32 {
        self.probs[token as usize]
    }
}

impl Sampler {
    /// A sampler for a request whose parameters were validated.
    pub(crate) fn new(params: Sampling) -> Sampler {
        let dice = Dice::new(params.seed.unwrap_or_else(fresh_seed));
        Sampler {
            params,
            dice,
            counts: HashMap::new(),
            blocks: LogitBlocks::default(),
            head: Vec::new(),
            probs: Vec::new(),
        }
    }

    /// Chooses the next token. `logits` are changed in place; `tokens` are the prompt and the answer so far.
    pub(crate) fn sample(&mut self, compute: &Compute, logits: &mut [f32], tokens: &[u32]) -> u32 {
        self.adjust(logits, tokens);
        if self.is_greedy() {
            return math::argmax(compute, logits) as u32;
        }
        let floor = self.cut(compute, logits);
        self.dice.noise(&[]).argmax(logits, &self.blocks, floor)
    }

    /// Whether the choice among some tokens is that among all of them, if that is one of the some: so without cut-offs,
    /// which depend on all.
    pub(crate) fn ignores_losers(&self) -> bool {
        let Sampling { top_k, top_p, min_p, .. } = self.params;
        self.is_greedy() || (top_k == 0 && top_p >= 1.0 && min_p == 0.0)
    }

    /// Chooses again from logits that [`sample`](Self::sample) has changed and in which some tokens were made impossible
    /// since. Only for a sampler without cut-offs.
    pub(crate) fn sample_again(&mut self, compute: &Compute, logits: &[f32]) -> u32 {
        debug_assert!(self.ignores_losers(), "cut-offs were made for other logits");
        if self.is_greedy() {
            return math::argmax(compute, logits) as u32;
        }
        self.blocks.read(logits);
        self.dice.noise(&[]).argmax(logits, &self.blocks, Floor::NONE)
    }

    /// Whether the most likely token is always taken.
    pub(crate) fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    /// What the noise of each token is made from.
    pub(crate) fn dice(&self) -> &Dice {
        &self.dice
    }

    /// The request's parameters.
    pub(crate) fn params(&self) -> &Sampling {
        &self.params
    }

    /// The distribution that [`sample`](Self::sample) draws from, one value per token, adding up to 1. The temperature
    /// must not be 0; `logits` are changed in place.
    pub(crate) fn distribution(&mut self, compute: &Compute, logits: &mut [f32], tokens: &[u32]) -> Vec<f32> {
        self.adjust(logits, tokens);
        let floor = self.cut(compute, logits);
        let mut probs = vec![0.0; logits.len()];
        math::softmax(compute, logits, &mut probs);
        if floor != Floor::NONE {
            let tokens = probs.iter_mut().zip(&*logits).zip(0..);
            tokens.filter(|&((_, &logit), id)| !floor.admits(logit, id)).for_each(|((p, _), _)| *p = 0.0);
            let total: f64 = probs.iter().map(|&p| f64::from(p)).sum();
            probs.iter_mut().for_each(|p| *p = (f64::from(*p) / total) as f32);
        }
        probs
    }

    /// The distribution before cut-offs, of logits that [`sample`](Self::sample) has adjusted: at the request's
    /// temperature, or at 1 if that is 0.
    pub(crate) fn plain_distribution(&mut self, compute: &Compute, logits: &[f32]) -> Plain<'_> {
        self.probs.resize(logits.len(), 0.0);
        math::softmax(compute, logits, &mut self.probs);
        let possible = self.probs.iter().zip(logits).filter(|(_, l)| **l > f32::NEG_INFINITY);
        let mean: f64 = possible.map(|(&p, &l)| f64::from(p) * f64::from(l)).sum();
        let top = self.probs.iter().copied().fold(0.0, f32::max);
        let entropy = (f64::from(math::log_sum_exp(compute, logits)) - mean) as f32;
        Plain { probs: &self.probs, entropy, top }
    }

    /// Records that `token` became part of the answer.
    pub(crate) fn accept(&mut self, token: u32) {
        *self.counts.entry(token).or_insert(0) += 1;
        self.dice.accept(token);
    }

    /// Adds the bias and the penalties.
    fn adjust(&self, logits: &mut [f32], tokens: &[u32]) {
        let params = &self.params;
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if params.repetition_penalty != 1.0 {
            let window = &tokens[tokens.len().saturating_sub(params.repetition_window)..];
            let mut seen = window.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                let logit = &mut logits[id as usize];
                *logit = penalised(*logit, params.repetition_penalty);
            }
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            for (&id, &count) in &self.counts {
                logits[id as usize] -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
    }

    /// What bias, penalties, temperature and cut-offs make of another model's distribution after `tokens`: of `candidates`,
    /// logits and tokens, which are sorted by it, and of `rest`, the logit of all other tokens together, which is returned.
    pub(crate) fn narrow(&self, tokens: &[u32], candidates: &mut Vec<(f32, u32)>, rest: f32) -> f32 {
        let params = &self.params;
        let window = &tokens[tokens.len().saturating_sub(params.repetition_window)..];
        for (logit, id) in candidates.iter_mut() {
            let bias = params.logit_bias.iter().filter(|(biased, _)| biased == id);
            bias.for_each(|(_, bias)| *logit += bias);
            if params.repetition_penalty != 1.0 && window.contains(id) {
                *logit = penalised(*logit, params.repetition_penalty);
            }
            if let Some(&count) = self.counts.get(id) {
                *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
        candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let Some(&(least, _)) = candidates.last() else { return rest };
        let inverse = self.inverse_temperature();
        candidates.iter_mut().for_each(|(logit, _)| *logit *= inverse);
        // As if each of the others were as likely as the least likely candidate.
        let rest = rest + least * inverse - least;
        let max = candidates[0].0;
        let complete = params.top_k > 0;
        if complete {
            candidates.truncate(params.top_k as usize);
        }
        let weights = || candidates.iter().map(|&(logit, _)| weight(logit, max));
        let total = (!complete).then(|| weights().sum::<f64>() + weight(rest, max));
        if let Some((logit, id)) = nucleus(candidates, max, total, params.top_p) {
            candidates.retain(|&(of, token)| Floor { logit, id }.admits(of, token));
        }
        candidates.retain(|&(logit, _)| logit >= max + libm::logf(params.min_p));
        rest
    }

    fn inverse_temperature(&self) -> f32 {
        (1.0 / self.params.temperature).min(INVERSE_TEMPERATURE_MAX)
    }

    /// Divides by the temperature, reads `blocks`, and returns the least likely token that `top_k`, `top_p` and `min_p`
    /// leave.
    fn cut(&mut self, compute: &Compute, logits: &mut [f32]) -> Floor {
        let inverse = self.inverse_temperature();
        logits.iter_mut().for_each(|logit| *logit *= inverse);
        self.blocks.read(logits);
        let Sampling { top_k, top_p, min_p, .. } = self.params;
        let vocab = logits.len();
        let k = if top_k == 0 { vocab } else { (top_k as usize).min(vocab) };
        let max = self.blocks.max();
        // Minus infinity if `min_p` is 0.
        let likely = Floor { logit: max + libm::logf(min_p), id: u32::MAX };
        if k == vocab && top_p >= 1.0 {
            return likely;
        }
        let mut candidates = if k < vocab { k } else { HEAD_CANDIDATES.min(vocab) };
        loop {
            self.blocks.most_likely(logits, candidates, &mut self.head);
            let complete = candidates >= k;
            let total = (!complete).then(|| weight(math::log_sum_exp(compute, logits), max));
            if let Some((logit, id)) = nucleus(&self.head, max, total, top_p) {
                return if logit >= likely.logit { Floor { logit, id } } else { likely };
            }
            candidates = (candidates * 8).min(k);
        }
    }
}

/// A logit under the repetition penalty.
fn penalised(logit: f32, penalty: f32) -> f32 {
    if logit > 0.0 { logit / penalty } else { logit * penalty }
}

/// `e^(logit - max)`.
fn weight(logit: f32, max: f32) -> f64 {
    libm::exp(f64::from(logit) - f64::from(max))
}

/// The last of the smallest number of tokens whose probability reaches `top_p`; `None` if `head`, the most likely tokens,
/// has too few. `max` is the largest logit, `total` the weight of all tokens, or `None` if `head` is all there is.
fn nucleus(head: &[(f32, u32)], max: f32, total: Option<f64>, top_p: f32) -> Option<(f32, u32)> {
    let last = head.last().copied().filter(|_| total.is_none());
    if top_p >= 1.0 {
        return last;
    }
    let total = total.unwrap_or_else(|| head.iter().map(|&(logit, _)| weight(logit, max)).sum());
    let goal = f64::from(top_p) * total;
    let mut sum = 0.0;
    let reaches = head.iter().find(|(logit, _)| {
        sum += weight(*logit, max);
        sum >= goal
    });
    reaches.copied().or(last)
}

/// Log-probabilities of the model's own distribution: of `chosen`, and the `top` most likely, best first.
/// Takes logits before any adjustment.
pub(crate) fn logprobs(compute: &Compute, logits: &[f32], chosen: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let normaliser = math::log_sum_exp(compute, logits);
    let mut best = Vec::new();
    if top > 0 {
        let mut blocks = LogitBlocks::default();
        blocks.read(logits);
        blocks.most_likely(logits, top.min(TOP_LOGPROBS_MAX), &mut best);
    }
    let top = best.into_iter().map(|(logit, id)| (id, logit - normaliser)).collect();
    (logits[chosen as usize] - normaliser, top)
}

#[cfg(test)]
mod tests {
    use foretoken_kernels::Isa;
    use proptest::prelude::*;

    use super::*;

    fn compute() -> Compute {
        Compute::new(Isa::detect(), 1).unwrap()
    }

    /// An answer of `draws` tokens, all drawn from the same logits.
    fn answer(params: Sampling, logits: &[f32], draws: usize) -> Vec<u32> {
        let compute = compute();
        let mut sampler = Sampler::new(params);
        let next = |_| {
            let token = sampler.sample(&compute, &mut logits.to_vec(), &[]);
            sampler.accept(token);
            token
        };
        (0..draws).map(next).collect()
    }

    /// How often each token comes in an answer.
    fn histogram(params: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for token in answer(Sampling { seed: Some(11), ..params }, logits, draws) {
            counts[token as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_zero_takes_the_first_of_equal_maxima() {
        let params = Sampling { temperature: 0.0, ..Sampling::default() };
        let token = Sampler::new(params).sample(&compute(), &mut [1.0, 3.0, 3.0, 2.0], &[]);
        assert_eq!(token, 1);
    }

    const LOGITS: [f32; 4] = [0.0, 1.0, 2.0, -1.0];

    /// Chi-square of counts of `LOGITS`' tokens against their softmax.
    fn chi_square(counts: &[usize]) -> f64 {
        let total: f64 = LOGITS.iter().map(|&l| f64::from(l).exp()).sum();
        let draws: usize = counts.iter().sum();
        let term = |(&l, &n): (&f32, &usize)| {
            let expected = f64::from(l).exp() / total * draws as f64;
            (n as f64 - expected).powi(2) / expected
        };
        LOGITS.iter().zip(counts).map(term).sum()
    }

    // 3 degrees of freedom: 16.3 is the 99.9 % quantile of chi-square.

    #[test]
    fn frequencies_follow_the_softmax() {
        let counts = histogram(Sampling::default(), &LOGITS, 20_000);
        assert!(chi_square(&counts) < 16.3, "{counts:?}");
    }

    #[test]
    fn frequencies_follow_the_softmax_over_seeds_at_every_place() {
        let mut counts = [[0; 4]; 3];
        for seed in 0..20_000 {
            let tokens = answer(Sampling { seed: Some(seed), ..Sampling::default() }, &LOGITS, 3);
            counts.iter_mut().zip(tokens).for_each(|(counts, token)| counts[token as usize] += 1);
        }
        for (place, counts) in counts.iter().enumerate() {
            assert!(chi_square(counts) < 16.3, "place {place}: {counts:?}");
        }
    }

    #[test]
    fn what_came_before_does_not_change_the_frequencies() {
        let tokens = answer(Sampling { seed: Some(3), ..Sampling::default() }, &LOGITS, 60_000);
        for distance in [1, 2, 3] {
            for before in 0..4 {
                let mut counts = [0; 4];
                for (_, &token) in tokens.iter().zip(&tokens[distance..]).filter(|(of, _)| **of == before) {
                    counts[token as usize] += 1;
                }
                // 12 tables: the largest is below 21.1 in 999 of 1,000 cases.
                assert!(chi_square(&counts) < 21.1, "{distance} after {before}: {counts:?}");
            }
        }
    }

    #[test]
    fn the_answers_of_two_seeds_are_independent() {
        let of = |seed| answer(Sampling { seed: Some(seed), ..Sampling::default() }, &LOGITS, 40_000);
        let (one, two) = (of(8), of(9));
        for token in 0..4 {
            let mut counts = [0; 4];
            for (_, &other) in one.iter().zip(&two).filter(|(of, _)| **of == token) {
                counts[other as usize] += 1;
            }
            assert!(chi_square(&counts) < 19.0, "beside {token}: {counts:?}");
        }
    }

    #[test]
    fn top_k_keeps_the_k_most_likely() {
        let counts = histogram(Sampling { top_k: 2, ..Sampling::default() }, &[0.0, 1.0, 2.0, -1.0], 2_000);
        assert!(counts[1] > 0 && counts[2] > 0 && counts[0] == 0 && counts[3] == 0, "{counts:?}");
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_p() {
        // Probabilities 0.5, 0.3, 0.2.
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let counts = histogram(Sampling { top_p: 0.6, ..Sampling::default() }, &logits, 2_000);
        assert!(counts[0] > 0 && counts[1] > 0 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn top_p_works_beyond_the_first_candidates() {
        let logits = vec![0.0; 3 * HEAD_CANDIDATES];
        let counts = histogram(Sampling { top_p: 0.9, ..Sampling::default() }, &logits, 20_000);
        let used = counts.iter().filter(|&&n| n > 0).count();
        let expected = (0.9 * logits.len() as f32).ceil() as usize;
        assert!(used > 2 * HEAD_CANDIDATES && used <= expected + 1, "{used} of {expected}");
    }

    #[test]
    fn min_p_drops_tokens_far_below_the_most_probable() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.04f32.ln()];
        let counts = histogram(Sampling { min_p: 0.1, ..Sampling::default() }, &logits, 2_000);
        assert!(counts[0] > 0 && counts[1] > 0 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn penalties_count_the_answer_and_repetition_looks_back() {
        let mut sampler = Sampler::new(Sampling {
            temperature: 0.0,
            presence_penalty: 0.5,
            frequency_penalty: 1.0,
            ..Sampling::default()
        });
        sampler.accept(0);
        sampler.accept(0);
        let mut logits = [3.0, 1.0, 0.0];
        sampler.sample(&compute(), &mut logits, &[0, 0]);
        assert_eq!(logits, [0.5, 1.0, 0.0]);

        let params = Sampling {
            temperature: 0.0,
            repetition_penalty: 2.0,
            repetition_window: 2,
            ..Sampling::default()
        };
        let mut logits = [4.0, 4.0, -4.0];
        Sampler::new(params).sample(&compute(), &mut logits, &[0, 1, 2]);
        assert_eq!(logits, [4.0, 2.0, -8.0]);
    }

    #[test]
    fn logprobs_are_normalised() {
        let logits = [1.0, 2.0, 3.0];
        let (chosen, top) = logprobs(&compute(), &logits, 0, 3);
        let sum: f32 = top.iter().map(|(_, lp)| lp.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(chosen, top[2].1);
    }

    proptest! {
        #[test]
        fn a_seed_and_the_answer_so_far_decide_the_token(
            logits in prop::collection::vec(-8.0f32..8.0, 2..400),
            seed in any::<u64>(),
            top_k in 0u32..50,
            top_p in 0.05f32..1.0,
            min_p in 0.0f32..0.5,
        ) {
            let compute = compute();
            let params = Sampling { seed: Some(seed), top_k, top_p, min_p, ..Sampling::default() };
            let a = Sampler::new(params.clone()).sample(&compute, &mut logits.clone(), &[1, 2, 3]);
            // Another sampler with another history of calls.
            let mut other = Sampler::new(params);
            other.sample(&compute, &mut logits.clone(), &[9]);
            let b = other.sample(&compute, &mut logits.clone(), &[1, 2, 3]);
            prop_assert_eq!(a, b);
        }
    }
}
