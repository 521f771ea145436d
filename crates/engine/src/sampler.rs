//! From a row of logits to a token.
//!
//! The order is fixed: bias, penalties, temperature, `top_k`, `top_p`, `min_p`, then one draw with the
//! uniform number of that position. Everything is a function of the logits, the request and the tokens so
//! far; ties go to the smaller id. What the sampler is *not* for: deciding when to stop.

use std::collections::HashMap;

use foretoken_kernels::{Compute, math};

use crate::api::{Sampling, TOP_LOGPROBS_MAX};
use crate::random::{fresh_seed, uniform};

/// Candidates that `top_p` sorts first; enough for all but very flat distributions.
const HEAD_CANDIDATES: usize = 256;

/// Sampling state of one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: Sampling,
    seed: u64,
    /// Occurrences in the answer, for presence and frequency penalties.
    counts: HashMap<u32, u32>,
    /// Probabilities of the current row.
    probs: Vec<f32>,
    /// `(probability, id)` of the tokens that a cut-off kept, most likely first.
    kept: Vec<(f32, u32)>,
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
        let seed = params.seed.unwrap_or_else(fresh_seed);
        Sampler { params, seed, counts: HashMap::new(), probs: Vec::new(), kept: Vec::new() }
    }

    /// Chooses the token at position `tokens.len()`. `logits` are changed in place; `tokens` are the prompt and
    /// the answer so far.
    pub(crate) fn sample(&mut self, compute: &Compute, logits: &mut [f32], tokens: &[u32]) -> u32 {
        self.adjust(logits, tokens);
        if self.params.temperature == 0.0 {
            return math::argmax(compute, logits) as u32;
        }
        self.soften(compute, logits);
        let u = uniform(self.seed, tokens.len() as u64);
        match self.cut() {
            None => draw(self.probs.iter().enumerate().map(|(id, &p)| (p, id as u32)), 1.0, u),
            Some(kept_total) => draw(self.kept.iter().copied(), kept_total, u),
        }
    }

    /// Whether the most likely token is always taken.
    pub(crate) fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    /// The seed of the uniform numbers.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The distribution that [`sample`](Self::sample) draws from, one value per token, adding up to 1. The temperature
    /// must not be 0; `logits` are changed in place.
    pub(crate) fn distribution(&mut self, compute: &Compute, logits: &mut [f32], tokens: &[u32]) -> Vec<f32> {
        self.adjust(logits, tokens);
        self.soften(compute, logits);
        let Some(total) = self.cut() else { return self.probs.clone() };
        let mut cut = vec![0.0; self.probs.len()];
        for &(p, id) in &self.kept {
            cut[id as usize] = (f64::from(p) / total) as f32;
        }
        cut
    }

    /// The distribution before cut-offs, of logits that [`sample`](Self::sample) has adjusted: at the request's
    /// temperature, or at 1 if that is 0.
    pub(crate) fn plain_distribution(&mut self, compute: &Compute, logits: &[f32]) -> Plain<'_> {
        self.probs.resize(logits.len(), 0.0);
        math::softmax(compute, logits, &mut self.probs);
        let mean: f64 = self.probs.iter().zip(logits).map(|(&p, &l)| f64::from(p) * f64::from(l)).sum();
        let top = self.probs.iter().copied().fold(0.0, f32::max);
        let entropy = (f64::from(math::log_sum_exp(compute, logits)) - mean) as f32;
        Plain { probs: &self.probs, entropy, top }
    }

    /// Records that `token` became part of the answer.
    pub(crate) fn accept(&mut self, token: u32) {
        *self.counts.entry(token).or_insert(0) += 1;
    }

    /// Divides by the temperature and fills `probs`.
    fn soften(&mut self, compute: &Compute, logits: &mut [f32]) {
        let inverse = 1.0 / self.params.temperature;
        logits.iter_mut().for_each(|logit| *logit *= inverse);
        self.probs.resize(logits.len(), 0.0);
        math::softmax(compute, logits, &mut self.probs);
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
                *logit = if *logit > 0.0 {
                    *logit / params.repetition_penalty
                } else {
                    *logit * params.repetition_penalty
                };
            }
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            for (&id, &count) in &self.counts {
                logits[id as usize] -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
    }

    /// Fills `kept` with what `top_k`, `top_p` and `min_p` leave and returns its total, or `None` if they
    /// cut nothing off.
    fn cut(&mut self) -> Option<f64> {
        let Sampling { top_k, top_p, min_p, .. } = self.params;
        let vocab = self.probs.len();
        let k = if top_k == 0 { vocab } else { (top_k as usize).min(vocab) };
        if k == vocab && top_p >= 1.0 && min_p == 0.0 {
            return None;
        }
        let mut candidates = if k < vocab { k } else { HEAD_CANDIDATES.min(vocab) };
        loop {
            most_likely(&self.probs, candidates, &mut self.kept);
            let complete = candidates >= k;
            if truncate(&mut self.kept, top_p, min_p, complete) || complete {
                return Some(self.kept.iter().map(|&(p, _)| f64::from(p)).sum());
            }
            candidates = (candidates * 8).min(k);
        }
    }
}

/// Applies `top_p` and `min_p` to `kept`, sorted most likely first. Returns whether a cut was found; with
/// `complete`, `kept` is all there is and `top_p` is relative to its own total.
fn truncate(kept: &mut Vec<(f32, u32)>, top_p: f32, min_p: f32, complete: bool) -> bool {
    let total = if complete { kept.iter().map(|&(p, _)| f64::from(p)).sum() } else { 1.0 };
    let floor = min_p * kept[0].0;
    let goal = f64::from(top_p) * total;
    let mut sum = 0.0;
    for index in 0..kept.len() {
        if kept[index].0 < floor {
            kept.truncate(index);
            return true;
        }
        sum += f64::from(kept[index].0);
        if top_p < 1.0 && sum >= goal {
            kept.truncate(index + 1);
            return true;
        }
    }
    false
}

/// The `k` most likely tokens, most likely first, ties to the smaller id.
fn most_likely(values: &[f32], k: usize, out: &mut Vec<(f32, u32)>) {
    let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    out.clear();
    out.extend(values.iter().enumerate().map(|(id, &p)| (p, id as u32)));
    if k < out.len() {
        out.select_nth_unstable_by(k - 1, better);
        out.truncate(k);
    }
    out.sort_unstable_by(better);
}

/// The token at which the running sum passes `u * total`.
fn draw(candidates: impl Iterator<Item = (f32, u32)>, total: f64, u: f64) -> u32 {
    let goal = u * total;
    let mut sum = 0.0;
    let mut last = 0;
    for (p, id) in candidates {
        if p > 0.0 {
            sum += f64::from(p);
            last = id;
            if sum > goal {
                break;
            }
        }
    }
    last
}

/// Log-probabilities of the model's own distribution: of `chosen`, and the `top` most likely, best first.
/// Takes logits before any adjustment.
pub(crate) fn logprobs(compute: &Compute, logits: &[f32], chosen: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let normaliser = math::log_sum_exp(compute, logits);
    let mut best = Vec::new();
    if top > 0 {
        most_likely(logits, top.min(TOP_LOGPROBS_MAX).min(logits.len()), &mut best);
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

    /// How often each token comes in `draws` draws at successive positions.
    fn histogram(params: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let compute = compute();
        let mut sampler = Sampler::new(Sampling { seed: Some(11), ..params });
        let mut counts = vec![0; logits.len()];
        let tokens = vec![0; draws];
        for position in 0..draws {
            let token = sampler.sample(&compute, &mut logits.to_vec(), &tokens[..position]);
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

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let counts = histogram(Sampling::default(), &logits, 20_000);
        let chi: f64 = logits
            .iter()
            .zip(&counts)
            .map(|(&l, &n)| {
                let expected = f64::from(l).exp() / total * 20_000.0;
                (n as f64 - expected).powi(2) / expected
            })
            .sum();
        // 3 degrees of freedom: 16.3 is the 99.9 % quantile.
        assert!(chi < 16.3, "chi-square {chi}: {counts:?}");
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
        fn a_seed_and_a_position_decide_the_token(
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
