//! Acceptance: the next token after a row of the draft tree, and whether it is one of the draft tokens.
//!
//! Every policy starts from the target's own logits at the row. The invariant: under `exact` the token is what the
//! sampler gives without any draft tokens.

use foretoken_kernels::Compute;

use super::settings::{Policy, Thresholds};
use super::speculator::Speculator;
use crate::grammar::{End, Matcher};
use crate::random::uniform_of;
use crate::sampler::Sampler;

/// Index of the first uniform number of a position that accepts or rejects draft tokens; lower ones are for draws.
const TRIALS: u64 = 16;
/// Index of the uniform number for the residual distribution, when all draft tokens are rejected.
const RESIDUAL: u64 = 2;

/// What comes next after a row.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) token: u32,
    /// The row of the accepted draft token, if it is one.
    pub(crate) row: Option<usize>,
    /// Log-probability (nats) by which the target's own choice was more probable, if another token was accepted.
    pub(crate) given_up: Option<f64>,
}

/// The verdict where `token` comes, drafted or not.
pub(crate) fn forced(speculator: Option<&Speculator>, row: usize, token: u32) -> Verdict {
    let drafts = speculator.map_or_else(Vec::new, |speculator| speculator.after(row));
    let row = drafts.iter().find(|(_, node)| node.token == token).map(|(row, _)| *row);
    Verdict { token, row, given_up: None }
}

/// [`decide`]s among the tokens that the matcher allows, if there is one.
///
/// Where the sampler's choice is allowed, it is the choice among all that are allowed, unless the sampler cuts off or the
/// policy needs the whole distribution: then the others need not be known, and a mask takes much longer than one token.
///
/// # Errors
/// The grammar takes too much work; there is no token.
pub(crate) fn choose(
    compute: &Compute,
    matcher: Option<&mut Matcher>,
    sampler: &mut Sampler,
    speculator: Option<&Speculator>,
    (row, tokens): (usize, &[u32]),
    logits: &mut [f32],
) -> Result<Verdict, End> {
    let Some(matcher) = matcher else {
        return Ok(decide(compute, sampler, speculator, row, tokens, logits));
    };
    let is_exact = speculator.is_none_or(|speculator| speculator.settings.policy == Policy::Exact);
    if !is_exact || !sampler.ignores_losers() || !matcher.is_unmasked() {
        matcher.allowed()?.apply(logits);
        return Ok(decide(compute, sampler, speculator, row, tokens, logits));
    }
    let mut token = sampler.sample(compute, logits, tokens);
    if matcher.allows(token) != Some(true) {
        matcher.allowed()?.apply(logits);
        token = sampler.sample_again(compute, logits);
    }
    Ok(forced(speculator, row, token))
}

/// Accepts or rejects the draft tokens after `row`. `tokens` are prompt and answer so far; `logits` are changed in
/// place.
fn decide(
    compute: &Compute,
    sampler: &mut Sampler,
    speculator: Option<&Speculator>,
    row: usize,
    tokens: &[u32],
    logits: &mut [f32],
) -> Verdict {
    let policy = speculator.map_or(Policy::Exact, |speculator| speculator.settings.policy);
    let drafts = speculator.map_or_else(Vec::new, |speculator| speculator.after(row));
    if let (Policy::Lossless, Some(speculator)) = (policy, speculator)
        && !drafts.is_empty()
        && !sampler.is_greedy()
    {
        let mut target = sampler.distribution(compute, logits, tokens);
        let drafts: Vec<DraftToken<'_>> = drafts
            .iter()
            .map(|(row, node)| DraftToken {
                row: *row,
                token: node.token,
                drawn: speculator.drawn_from(node),
            })
            .collect();
        let position = tokens.len() as u64;
        let (token, row) =
            reject(&mut target, &drafts, |which| uniform_of(sampler.dice().seed(), position, which));
        return Verdict { token, row, given_up: None };
    }
    let token = sampler.sample(compute, logits, tokens);
    let same = drafts.iter().find(|(_, node)| node.token == token).map(|(row, _)| *row);
    if let (None, Policy::Agreement(thresholds), false) = (same, policy, drafts.is_empty()) {
        let plain = sampler.plain_distribution(compute, logits);
        let best = drafts
            .iter()
            .map(|(row, node)| (*row, node.token))
            // Neither thresholds nor rounding make possible what must not come.
            .filter(|&(_, token)| logits[token as usize] > f32::NEG_INFINITY)
            .max_by(|a, b| plain.of(a.1).total_cmp(&plain.of(b.1)));
        if let Some((row, draft)) = best
            && is_plausible(&thresholds, plain.of(draft), plain.entropy, plain.top)
        {
            let given_up = f64::from(plain.of(token)).ln() - f64::from(plain.of(draft)).ln();
            return Verdict { token: draft, row: Some(row), given_up: Some(given_up) };
        }
    }
    Verdict { token, row: same, given_up: None }
}

/// `p >= min(epsilon, delta e^-H)` or `p >= tau p_max`.
fn is_plausible(thresholds: &Thresholds, p: f32, entropy: f32, top: f32) -> bool {
    let Thresholds { epsilon, delta, tau } = *thresholds;
    p > 0.0 && (p >= epsilon.min(delta * (-entropy).exp()) || p >= tau * top)
}

struct DraftToken<'a> {
    row: usize,
    token: u32,
    /// The distribution it was drawn from; `None` if it was chosen, as if drawn from a distribution of one token.
    drawn: Option<&'a [(u32, f32)]>,
}

/// Rejection sampling over several draft tokens in turn: accept a token `x` drawn from `q` with probability
/// `min(1, p(x) / q(x))`, else continue with the residual of the target, `max(0, p - q)` normalised.
fn reject(
    target: &mut [f32],
    drafts: &[DraftToken<'_>],
    uniform: impl Fn(u64) -> f64,
) -> (u32, Option<usize>) {
    let mut left = 1.0;
    for (trial, draft) in drafts.iter().enumerate() {
        let one = [(draft.token, 1.0)];
        let q = draft.drawn.unwrap_or(&one);
        let of_draft = q.iter().find(|(token, _)| *token == draft.token).map_or(1.0, |(_, q)| f64::from(*q));
        let p = f64::from(target[draft.token as usize]) / left;
        if uniform(TRIALS + trial as u64) * of_draft < p {
            return (draft.token, Some(draft.row));
        }
        let mut rest = 0.0;
        for &(token, q) in q {
            let p = &mut target[token as usize];
            let now = (f64::from(*p) - f64::from(q) * left).max(0.0);
            rest += f64::from(*p) - now;
            *p = now as f32;
        }
        let after = left - rest;
        if after <= 1e-6 && p > 0.0 {
            // Only rounding leads here: the target equals the proposal, so the draft token is accepted.
            return (draft.token, Some(draft.row));
        }
        left = after;
    }
    let goal = uniform(RESIDUAL) * left;
    let mut sum = 0.0;
    let mut last = 0;
    for (token, &p) in target.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        sum += f64::from(p);
        last = token as u32;
        if sum > goal {
            break;
        }
    }
    (last, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: [f32; 5] = [0.4, 0.3, 0.15, 0.1, 0.05];

    fn chi_square(counts: &[usize; 5], draws: usize) -> f64 {
        let term = |(&p, &n): (&f32, &usize)| {
            (n as f64 - f64::from(p) * draws as f64).powi(2) / (f64::from(p) * draws as f64)
        };
        TARGET.iter().zip(counts).map(term).sum()
    }

    fn draw(q: &[(u32, f32)], u: f64) -> u32 {
        let mut sum = 0.0;
        q.iter()
            .find(|(_, p)| {
                sum += f64::from(*p);
                sum > u
            })
            .map_or(q[q.len() - 1].0, |(token, _)| *token)
    }

    #[test]
    fn accepted_tokens_follow_the_target_whatever_the_draft_distribution() {
        let proposals: [&[(u32, f32)]; 4] = [
            &[(0, 0.4), (1, 0.3), (2, 0.15), (3, 0.1), (4, 0.05)],
            &[(4, 0.7), (3, 0.2), (0, 0.1)],
            &[(2, 1.0)],
            &[(0, 0.9), (1, 0.1)],
        ];
        for q in proposals {
            let (mut counts, mut kept) = ([0; 5], 0);
            for draws in 0..40_000 {
                let token = draw(q, uniform_of(5, draws, 1));
                let draft = DraftToken { row: 1, token, drawn: Some(q) };
                let (token, row) = reject(&mut TARGET.clone(), &[draft], |which| uniform_of(9, draws, which));
                counts[token as usize] += 1;
                kept += usize::from(row.is_some());
            }
            // 4 degrees of freedom: 18.5 is the 99.9 % quantile.
            assert!(chi_square(&counts, 40_000) < 18.5, "{q:?}: {counts:?}");
            let overlap: f32 = q.iter().map(|&(token, q)| q.min(TARGET[token as usize])).sum();
            assert!((kept as f32 / 40_000.0 - overlap).abs() < 0.02, "{q:?}: kept {kept}, overlap {overlap}");
        }
    }

    #[test]
    fn several_chosen_and_drawn_draft_tokens_preserve_the_target_distribution() {
        let q = [(1, 0.5), (3, 0.3), (4, 0.2)];
        let mut counts = [0; 5];
        for draws in 0..40_000 {
            let chosen = |row, token| DraftToken { row, token, drawn: None };
            let drawn = DraftToken { row: 3, token: draw(&q, uniform_of(5, draws, 1)), drawn: Some(&q) };
            let drafts = [chosen(1, 2), chosen(2, 0), drawn];
            let (token, _) = reject(&mut TARGET.clone(), &drafts, |which| uniform_of(9, draws, which));
            counts[token as usize] += 1;
        }
        assert!(chi_square(&counts, 40_000) < 18.5, "{counts:?}");
    }

    #[test]
    fn plausibility_follows_the_thresholds() {
        let by_tau = Thresholds { epsilon: 1.0, delta: 1.0, tau: 0.5 };
        // Low entropy: e^-H is near 1, so the first rule asks for nearly everything.
        assert!(is_plausible(&by_tau, 0.31, 0.01, 0.6));
        assert!(!is_plausible(&by_tau, 0.29, 0.01, 0.6));
        let by_entropy = Thresholds { epsilon: 0.3, delta: 0.5, tau: 1.0 };
        assert!(is_plausible(&by_entropy, 0.07, 2.0, 0.2), "a flat distribution allows much");
        assert!(!is_plausible(&by_entropy, 0.07, 0.5, 0.8), "a peaked one does not");
        assert!(
            !is_plausible(&Thresholds { epsilon: 0.0, delta: 0.0, tau: 0.0 }, 0.0, 1.0, 0.5),
            "nor the impossible"
        );
    }
}
