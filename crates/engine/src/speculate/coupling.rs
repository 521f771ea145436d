//! Drafts for a target that samples: a drafter's candidates in the order in which the target's own noise puts them.
//!
//! The target takes the token with the largest logit plus noise ([`gumbel`](crate::gumbel)), and the noise of a token is
//! known before its logit is. A drafter that adds the same noise to its own distribution finds the target's token with
//! probability at least (1 - d) / (1 + d), d being the total variation distance of the two distributions, and its next
//! candidates in that order are the target's most probable other choices. What is drafted this way depends on the
//! noise, so it is for policies under which the answer does not depend on what is drafted, or which do not promise a
//! distribution; not for `lossless`.
//!
//! The invariant: nothing here changes an answer. A wrong distribution costs acceptance only.

use super::calibrator::LEVELS;
use crate::gumbel::Noise;
use crate::sampler::Sampler;

/// Sharpness of the estimates: the inverse of how far, in nats, a drafter's log-probability is mostly off.
const SHARPNESS: f32 = 1.0;
/// Mean of Gumbel noise (Euler's constant).
const MEAN_NOISE: f32 = 0.577_215_7;

/// See the [module](self).
#[derive(Clone, Copy)]
pub(crate) struct Coupling<'a> {
    sampler: &'a Sampler,
    /// Prompt and answer.
    tokens: &'a [u32],
}

/// A candidate and the estimated probability that the target takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Coupled {
    pub(crate) token: u32,
    pub(crate) estimate: f32,
}

impl Coupled {
    /// The calibration class of its estimate, one of [`LEVELS`].
    pub(crate) fn level(self) -> u8 {
        (self.estimate * f32::from(LEVELS)).clamp(0.0, f32::from(LEVELS - 1)) as u8
    }
}

impl<'a> Coupling<'a> {
    /// The coupling with a sampler's draws after `tokens`; `None` if it does not draw.
    pub(crate) fn with(sampler: &'a Sampler, tokens: &'a [u32]) -> Option<Coupling<'a>> {
        (!sampler.is_greedy()).then_some(Coupling { sampler, tokens })
    }

    /// How far below the largest logit a candidate may be and still have a chance.
    pub(crate) fn within(&self, nats: f32) -> f32 {
        nats * self.sampler.params().temperature
    }

    /// Replaces `candidates`, logits (or log-probabilities) and tokens of the draw after the draft tokens `path`, by
    /// those that the request's parameters leave, in the order of their chances. `rest` is the logit of all tokens that
    /// are not among the candidates, minus infinity if there is none.
    pub(crate) fn rank(&self, path: &[u32], candidates: &mut Vec<(f32, u32)>, rest: f32) -> Vec<Coupled> {
        let rest = self.sampler.narrow(self.tokens, candidates, rest);
        let noise = self.sampler.dice().noise(path);
        ordered(noise, candidates, rest)
    }
}

/// Candidates, with logits at the request's temperature, by logit plus noise.
fn ordered(noise: Noise, candidates: &[(f32, u32)], rest: f32) -> Vec<Coupled> {
    let mut scored: Vec<(f64, u32)> =
        candidates.iter().map(|&(logit, token)| (f64::from(logit) + noise.of(token), token)).collect();
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let Some(&(best, _)) = scored.first() else { return Vec::new() };
    let chance = |score: f64| libm::expf(SHARPNESS * (score - best) as f32);
    let total: f32 = scored.iter().map(|&(score, _)| chance(score)).sum();
    let total = total + chance(f64::from(rest + MEAN_NOISE));
    scored.into_iter().map(|(score, token)| Coupled { token, estimate: chance(score) / total }).collect()
}

#[cfg(test)]
mod tests {
    use foretoken_kernels::{Compute, Isa};
    use proptest::prelude::*;

    use super::*;
    use crate::api::Sampling;

    fn sampler(params: Sampling, answer: &[u32]) -> Sampler {
        let mut sampler = Sampler::new(params);
        answer.iter().for_each(|&token| sampler.accept(token));
        sampler
    }

    fn candidates(logits: &[f32]) -> Vec<(f32, u32)> {
        logits.iter().copied().zip(0..).collect()
    }

    proptest! {
        #[test]
        fn a_drafter_with_the_targets_distribution_drafts_the_targets_token(
            logits in prop::collection::vec(-8.0f32..8.0, 2..200),
            answer in prop::collection::vec(0u32..200, 0..40),
            seed in any::<u64>(),
            temperature in 0.1f32..2.0,
            (top_k, top_p, min_p) in (0u32..50, 0.05f32..1.2, 0.0f32..0.3),
            (presence_penalty, frequency_penalty) in (-1.0f32..1.0, -1.0f32..1.0),
            repetition_penalty in 0.7f32..1.5,
            logit_bias in prop::collection::vec((0u32..200, -3.0f32..3.0), 0..4),
        ) {
            let vocab = logits.len() as u32;
            let answer: Vec<u32> = answer.into_iter().map(|token| token % vocab).collect();
            let (draft, next) = answer.split_at(answer.len() / 2);
            let params = Sampling {
                seed: Some(seed), temperature, top_k, top_p: top_p.min(1.0), min_p,
                presence_penalty, frequency_penalty, repetition_penalty, logit_bias, repetition_window: 8,
            };
            let compute = Compute::new(Isa::detect(), 1).unwrap();
            let mut target = sampler(params.clone(), &answer);
            let token = target.sample(&compute, &mut logits.clone(), &answer);
            let knows_all = Coupling { sampler: &target, tokens: &answer };
            let ranked = knows_all.rank(&[], &mut candidates(&logits), f32::NEG_INFINITY);
            prop_assert_eq!(ranked[0].token, token);
            let sum: f32 = ranked.iter().map(|next| next.estimate).sum();
            prop_assert!((sum - 1.0).abs() < 1e-3, "{}", sum);
            prop_assert!(ranked.is_sorted_by(|a, b| a.estimate >= b.estimate));
            // From an earlier place, with the tokens since then as draft tokens: the same noise.
            let before = sampler(params, draft);
            prop_assert_eq!(before.dice().noise(next), target.dice().noise(&[]));
        }
    }

    #[test]
    fn a_similar_distribution_mostly_drafts_the_same_token() {
        let (target, draft) = ([1.0f32, 0.5, 0.0, -0.5, -1.0, -3.0], [0.7f32, 0.9, 0.0, -1.0, -0.5, -2.0]);
        let p = |logits: &[f32; 6]| {
            let total: f32 = logits.iter().map(|l| l.exp()).sum();
            logits.map(|l| l.exp() / total)
        };
        let distance: f32 = p(&target).iter().zip(p(&draft)).map(|(a, b)| (a - b).abs()).sum::<f32>() / 2.0;
        let (mut same, mut expected) = (0, 0.0);
        let draws = 20_000;
        for draw in 0..draws {
            let of = |logits: &[f32]| ordered(Noise::new(3, draw), &candidates(logits), f32::NEG_INFINITY)[0];
            same += u32::from(of(&target).token == of(&draft).token);
            expected += of(&draft).estimate;
        }
        let share = same as f32 / draws as f32;
        assert!(share >= (1.0 - distance) / (1.0 + distance), "{share} at a distance of {distance}");
        assert!(share > 0.7 && distance > 0.1, "{share} at a distance of {distance}");
        // An estimate of how wrong a drafter is; this one is less wrong.
        assert!(share > expected / draws as f32, "{share}, {expected}");
    }
}
