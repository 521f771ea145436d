//! Shallow, wide drafts where no text matches: the most frequent successors of the last one or two tokens.

use std::collections::BinaryHeap;
use std::sync::Arc;

use foretoken_cache::{Candidates, Successor, SuccessorTable};

use super::calibrator::LEVELS;
use super::coupling::{Coupled, Coupling};
use super::draft_tree::{DraftTree, ROOT};
use super::drafter::{Context, Drafter, Draws, Proposals};
use super::mutex::Mutex;
use super::settings::Source;
use crate::random::uniform_of;

/// Draft tokens per step, and their depth.
const TOKENS_MAX: usize = 12;
const DEPTH_MAX: usize = 4;
/// Less likely successors are not proposed.
const PROBABILITY_MIN: f32 = 0.06;
/// The first bucket of coupled draft tokens.
const COUPLED: u8 = 32;
/// Probability of all tokens that a context does not list, on average.
const REST: f32 = 0.15;
/// Which of the independent uniform numbers of a position is the draw's.
const DRAW: u64 = 1;

/// See the [module](self).
pub(crate) struct Successors(Arc<Mutex<SuccessorTable>>);

impl Successors {
    pub(crate) fn new(table: Arc<Mutex<SuccessorTable>>) -> Successors {
        Successors(table)
    }
}

/// A place in the tree whose successors are to be looked up, the most probable first.
#[derive(PartialEq)]
struct Place {
    path: f32,
    node: u32,
    before: Option<u32>,
    last: u32,
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Place) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Place) -> std::cmp::Ordering {
        self.path.total_cmp(&other.path).then(other.node.cmp(&self.node))
    }
}

impl Drafter for Successors {
    fn source(&self) -> Source {
        Source::Successors
    }

    fn propose(&mut self, context: Context<'_>, out: &mut Proposals<'_>) {
        let [.., last] = *context.tokens else { return };
        let before = context.tokens.len().checked_sub(2).map(|at| context.tokens[at]);
        out.room = out.room.min(TOKENS_MAX);
        let table = self.0.lock();
        if let Some(draws) = context.drawn {
            draw_chain(&table, (before, last), context.tokens.len() as u64, draws, out);
            return;
        }
        let mut places = BinaryHeap::from([Place { path: 1.0, node: ROOT, before, last }]);
        while let Some(Place { node, before, last, .. }) = places.pop() {
            let known = table.candidates(before, last);
            for Choice { token, bucket, probability } in choices(&known, context.coupled, node, out.tree) {
                if probability < PROBABILITY_MIN {
                    break;
                }
                let Some(child) = out.add(node, token, bucket, probability) else { return };
                if out.tree.depth(child) < DEPTH_MAX {
                    let path = out.tree.path(child);
                    places.push(Place { path, node: child, before: Some(last), last: token });
                }
            }
        }
    }

    fn observe(&mut self, _: &[u32], _: usize) {}
}

/// A successor with its class and estimated probability.
struct Choice {
    token: u32,
    bucket: u8,
    probability: f32,
}

/// What to propose after `node`, the best first.
fn choices(known: &Candidates, coupled: Option<Coupling<'_>>, node: u32, tree: &DraftTree) -> Vec<Choice> {
    let known_next = known.next.iter().flatten();
    let Some(coupling) = coupled else {
        let choice = |(rank, next): (usize, &Successor)| Choice {
            token: next.token,
            bucket: class(known, next.probability, rank),
            probability: next.probability,
        };
        return known_next.enumerate().map(choice).collect();
    };
    let mut candidates: Vec<(f32, u32)> =
        known_next.map(|next| (libm::logf(next.probability), next.token)).collect();
    let ranked = coupling.rank(&tree.tokens_to(node), &mut candidates, libm::logf(REST));
    let choice = |next: Coupled| Choice {
        token: next.token,
        bucket: COUPLED + next.level() + if known.by_two { 0 } else { LEVELS },
        probability: next.estimate,
    };
    ranked.into_iter().map(choice).collect()
}

/// One draft token per depth, drawn from the known successors.
fn draw_chain(
    table: &SuccessorTable,
    (mut before, mut last): (Option<u32>, u32),
    position: u64,
    draws: Draws,
    out: &mut Proposals<'_>,
) {
    let mut node = ROOT;
    for depth in 0..DEPTH_MAX as u64 {
        let known = table.candidates(before, last);
        // Tokens that another drafter has proposed are not drawn again.
        let free = known.next.iter().flatten();
        let free =
            free.filter(|next| out.tree.child(node, next.token).is_none() && out.allows(node, next.token));
        let mut distribution: Vec<(u32, f32)> = free.map(|next| (next.token, next.probability)).collect();
        let total: f32 = distribution.iter().map(|(_, p)| p).sum();
        if total <= 0.0 {
            return;
        }
        distribution.iter_mut().for_each(|(_, p)| *p /= total);
        let token = draw(&distribution, uniform_of(draws.seed, position + depth, DRAW));
        // The class must not tell which token was drawn, only what it was drawn from.
        let likely = distribution[0].1;
        let class = (class(&known, likely, 0), total * likely);
        let Some(child) = out.add_drawn(node, token, class, &distribution) else { return };
        (node, before, last) = (child, Some(last), token);
    }
}

fn draw(distribution: &[(u32, f32)], u: f64) -> u32 {
    let mut sum = 0.0;
    let passed = distribution.iter().find(|(_, p)| {
        sum += f64::from(*p);
        sum > u
    });
    passed.or(distribution.last()).map_or(0, |(token, _)| *token)
}

/// Buckets: how likely, whether two tokens of context are known, whether it is the first draft token.
fn class(known: &Candidates, probability: f32, rank: usize) -> u8 {
    let likely = (probability * 8.0).clamp(0.0, 7.0) as u8;
    likely + if known.by_two { 0 } else { 8 } + if rank == 0 { 0 } else { 16 }
}
