//! Draft tokens from the logits of a drafter that is a network: a draft model, or a head for multi-token prediction.
//!
//! Which tokens are proposed depends on the policy: the top two; where draft tokens must be drawn, one draw; where they
//! may follow the target's noise, the [coupled](super::coupling) draw and the next best. It keeps no state.

use foretoken_kernels::{Compute, math};

use super::coupling::{Coupled, Coupling};
use super::drafter::{Draws, Proposals};
use crate::random::uniform_of;

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

/// A drafter's logits of the next token.
#[derive(Clone, Copy)]
pub(crate) struct DraftLogits<'a> {
    pub(super) compute: &'a Compute,
    pub(super) logits: &'a [f32],
    /// The tokens that the logits are of, ascending; `None` if that is the vocabulary.
    pub(super) tokens: Option<&'a [u32]>,
}

impl DraftLogits<'_> {
    /// Adds draft tokens after `parent`, the top two or a draw; returns the node to continue from.
    pub(super) fn propose(
        self,
        parent: u32,
        position: u64,
        draws: Option<Draws>,
        out: &mut Proposals<'_>,
    ) -> Option<u32> {
        let likely = self.likely(draws, |token| out.allows(parent, token));
        match draws {
            Some(Draws { seed, .. }) => {
                propose_draw(&likely, parent, uniform_of(seed, position, DRAW) as f32, out)
            }
            None => propose_top(&likely, parent, out),
        }
    }

    /// Adds the coupled draw after `parent` and the next best candidate; returns the node to continue from.
    pub(super) fn propose_coupled(
        self,
        parent: u32,
        coupling: Coupling<'_>,
        out: &mut Proposals<'_>,
    ) -> Option<u32> {
        let mut near = self.near(coupling.within(COUPLED_WITHIN));
        near.retain(|&(_, token)| out.allows(parent, token));
        let ranked = coupling.rank(&out.tree.tokens_to(parent), &mut near, f32::NEG_INFINITY);
        let &[first, ref others @ ..] = &ranked[..] else { return None };
        let mut add = |next: Coupled| out.add(parent, next.token, COUPLED + next.level(), next.estimate);
        let node = add(first);
        if let Some(&second) = others.first().filter(|second| second.estimate >= SECOND_MIN) {
            add(second);
        }
        node
    }

    /// Logits and tokens at most `within` nats below the most probable.
    fn near(self, within: f32) -> Vec<(f32, u32)> {
        let mut near = Vec::new();
        math::near_max(self.compute, self.logits, within, &mut near);
        if let Some(tokens) = self.tokens {
            near.iter_mut().for_each(|(_, at)| *at = tokens[*at as usize]);
        }
        near
    }

    /// The tokens that may be proposed, the most probable first: the top two, or where draft tokens must be drawn, the
    /// distribution to draw from. `allows` says which may come at all.
    fn likely(self, draws: Option<Draws>, mut allows: impl FnMut(u32) -> bool) -> Vec<(u32, f32)> {
        let mut near = self.near(DRAW_WITHIN * draws.map_or(1.0, |draws| draws.temperature));
        near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let Some(Draws { temperature, .. }) = draws else {
            let normaliser = math::log_sum_exp(self.compute, self.logits);
            let near = near.into_iter().filter(|&(_, id)| allows(id));
            return near.take(2).map(|(logit, id)| (id, (logit - normaliser).exp())).collect();
        };
        near.retain(|&(_, id)| allows(id));
        let top = near.first().map_or(0.0, |(logit, _)| *logit);
        let mut drawn: Vec<(u32, f32)> =
            near.into_iter().map(|(logit, id)| (id, ((logit - top) / temperature).exp())).collect();
        let total: f32 = drawn.iter().map(|(_, p)| p).sum();
        drawn.iter_mut().for_each(|(_, p)| *p /= total);
        drawn
    }
}

/// Adds the first and, if it is probable enough, the second of `likely`; returns the first's node.
fn propose_top(likely: &[(u32, f32)], parent: u32, out: &mut Proposals<'_>) -> Option<u32> {
    let &[(first, p), ref others @ ..] = likely else { return None };
    let node = out.add(parent, first, class(p), p);
    if let Some(&(second, p)) = others.first().filter(|(_, p)| *p >= SECOND_MIN) {
        out.add(parent, second, class(p), p);
    }
    node
}

/// Adds the token of `likely` that the uniform number `u` draws; returns its node.
fn propose_draw(likely: &[(u32, f32)], parent: u32, u: f32, out: &mut Proposals<'_>) -> Option<u32> {
    // Tokens that another drafter has proposed are not drawn again.
    let mut free: Vec<(u32, f32)> =
        likely.iter().copied().filter(|(token, _)| out.tree.child(parent, *token).is_none()).collect();
    let total: f32 = free.iter().map(|(_, p)| p).sum();
    if total <= 0.0 {
        return None;
    }
    free.iter_mut().for_each(|(_, p)| *p /= total);
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
