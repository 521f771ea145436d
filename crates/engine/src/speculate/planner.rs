//! Which guesses a step verifies, over all sequences together.
//!
//! A step that computes one token for each of `n` sequences gives `n` tokens in some milliseconds. A guess that is
//! kept with probability `p` gives `p` more and costs one more row. Guesses are taken, the likeliest first, while
//! that raises tokens per millisecond. So a crowded step, whose rows are dear, takes fewer and a quiet one more, and
//! where nothing pays nothing is taken.
//!
//! A sequence whose tenant has credit, milliseconds that cache hits saved, may go on while it raises its *own* tokens
//! per millisecond; what others lose by that is charged. A step loses no more than [`LOSS_MAX`] of its time to all who
//! have credit together: if everyone spent without bound, everyone would be slower.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::cost::CostCurve;
use super::tree::{DraftTree, ROOT};

/// A guess must promise this much more than it costs: drafting, sampling and bookkeeping are not in the curve.
const MARGIN: f64 = 1.1;
/// And this much more again for each further sequence, up to [`MARGIN_MAX`]: in a crowd there is little to gain, and the
/// likeliest guesses of many are those that were overrated.
const MARGIN_PER_SEQUENCE: f64 = 0.06;
const MARGIN_MAX: f64 = 1.5;

/// Share of a step's time that credit may cost the others.
const LOSS_MAX: f64 = 0.01;

/// One decoding sequence of the step.
pub(crate) struct Candidate<'a> {
    pub(crate) tree: &'a DraftTree,
    /// Tokens of context.
    pub(crate) context: usize,
    /// Guesses that may be taken, at most.
    pub(crate) room: usize,
    /// Longest path that can be of use.
    pub(crate) depth: usize,
    /// Milliseconds that may be spent past break-even.
    pub(crate) credit_ms: f64,
    /// What was taken, likeliest first, parents before children.
    pub(crate) taken: Vec<u32>,
    /// What was spent.
    pub(crate) spent_ms: f64,
}

/// What the step does anyway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// Rows of all sequences, prompts included.
    pub(crate) rows: usize,
    /// Rows that a step may have.
    pub(crate) rows_max: usize,
    /// Tokens that come out of it for sure.
    pub(crate) tokens: usize,
    /// Milliseconds for context.
    pub(crate) context_ms: f64,
}

struct Guess {
    path: f32,
    candidate: usize,
    node: u32,
}

impl PartialEq for Guess {
    fn eq(&self, other: &Guess) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Guess {}

impl PartialOrd for Guess {
    fn partial_cmp(&self, other: &Guess) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Guess {
    fn cmp(&self, other: &Guess) -> Ordering {
        let by_age = (other.candidate, other.node).cmp(&(self.candidate, self.node));
        self.path.total_cmp(&other.path).then(by_age)
    }
}

/// Fills `taken` of each candidate. Returns the milliseconds that the curve says for the guesses taken.
pub(crate) fn choose(costs: &CostCurve, base: Base, candidates: &mut [Candidate<'_>]) -> f64 {
    let mut heap = BinaryHeap::new();
    for (candidate, of) in candidates.iter().enumerate() {
        push_children(&mut heap, of, candidate, ROOT);
    }
    let (mut rows, mut tokens) = (base.rows, base.tokens as f64);
    let mut ms = costs.rows_ms(rows) + base.context_ms;
    let base_ms = ms;
    let dearer = costs.refined(base.rows, base.tokens).dearer();
    let margin = (MARGIN + MARGIN_PER_SEQUENCE * base.tokens.saturating_sub(1) as f64).min(MARGIN_MAX);
    let mut own: Vec<f64> = vec![1.0; candidates.len()];
    let mut lost = 0.0;
    while rows < base.rows_max
        && let Some(Guess { path, candidate, node }) = heap.pop()
    {
        let of = &mut candidates[candidate];
        let gain = f64::from(path);
        let cost = costs.row_ms(rows, of.context) * dearer * margin;
        if gain * ms < cost * tokens {
            // What the others lose, in milliseconds of the step.
            let loss = cost - gain * ms / tokens;
            let pays_alone = gain * ms >= cost * own[candidate];
            if !pays_alone || of.spent_ms + loss > of.credit_ms || lost + loss > LOSS_MAX * ms {
                continue;
            }
            of.spent_ms += loss;
            lost += loss;
        }
        of.taken.push(node);
        rows += 1;
        tokens += gain;
        own[candidate] += gain;
        ms += cost / margin;
        if of.taken.len() < of.room {
            push_children(&mut heap, of, candidate, node);
        } else {
            heap.retain(|guess| guess.candidate != candidate);
        }
    }
    (ms - base_ms) / dearer
}

fn push_children(heap: &mut BinaryHeap<Guess>, of: &Candidate<'_>, candidate: usize, parent: u32) {
    if of.room == 0 || of.tree.depth(parent) >= of.depth {
        return;
    }
    heap.extend(of.tree.children(parent).map(|node| Guess {
        path: of.tree.nodes()[node as usize].path,
        candidate,
        node,
    }));
}

/// The order in which taken guesses become rows: the likeliest child right after its parent, so that the likeliest
/// path fills consecutive slots and need not be moved when it is kept.
pub(crate) fn in_rows(tree: &DraftTree, taken: &[u32]) -> Vec<u32> {
    // `taken` has the likeliest first, and a stack gives back what was put on last.
    let mut rows = Vec::with_capacity(taken.len());
    let after =
        |parent: u32| taken.iter().rev().copied().filter(move |&n| tree.nodes()[n as usize].parent == parent);
    let mut stack: Vec<u32> = after(ROOT).collect();
    while let Some(node) = stack.pop() {
        rows.push(node);
        stack.extend(after(node));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speculate::calibrate::Calibrator;
    use crate::speculate::settings::Source;

    /// A chain whose guesses are right with probability `p` each.
    fn chain(len: u32, p: f32) -> DraftTree {
        let (mut tree, calibrator) = (DraftTree::default(), Calibrator::default());
        (0..len).fold(ROOT, |parent, token| tree.add(&calibrator, parent, token, (Source::Memory, 0, p)));
        tree
    }

    fn candidate(tree: &DraftTree) -> Candidate<'_> {
        Candidate { tree, context: 0, room: 32, depth: 100, credit_ms: 0.0, taken: Vec::new(), spent_ms: 0.0 }
    }

    fn taken(costs: &CostCurve, trees: &[DraftTree], credit_ms: f64) -> Vec<usize> {
        let mut candidates: Vec<_> = trees.iter().map(candidate).collect();
        candidates.iter_mut().for_each(|of| of.credit_ms = credit_ms);
        let base = Base { rows: trees.len(), rows_max: 512, tokens: trees.len(), context_ms: 0.0 };
        choose(costs, base, &mut candidates);
        candidates.iter().map(|of| of.taken.len()).collect()
    }

    #[test]
    fn sure_guesses_are_taken_and_hopeless_ones_are_not() {
        let costs = CostCurve::linear(1.0, 0.1);
        assert_eq!(taken(&costs, &[chain(20, 1.0)], 0.0), [20]);
        assert_eq!(taken(&costs, &[chain(20, 0.05)], 0.0), [0]);
        let some = taken(&costs, &[chain(20, 0.7)], 0.0)[0];
        assert!((1..8).contains(&some), "{some}");
    }

    #[test]
    fn no_guess_pays_where_a_row_costs_a_step() {
        assert_eq!(taken(&CostCurve::linear(1.0, 1.0), &[chain(20, 0.95)], 0.0), [0]);
    }

    #[test]
    fn a_crowd_speculates_less() {
        // 8 sequences are on the steep part of the curve.
        let costs = CostCurve::new_for_test(&[(1, 1.0), (8, 1.5), (64, 20.0)]);
        let alone = taken(&costs, &[chain(20, 0.6)], 0.0)[0];
        let crowd: Vec<DraftTree> = (0..8).map(|_| chain(20, 0.6)).collect();
        assert!(alone >= 3);
        assert_eq!(taken(&costs, &crowd, 0.0), [0; 8]);
    }

    #[test]
    fn credit_buys_depth_in_a_crowd_until_it_is_spent_or_the_others_lose_too_much() {
        let costs = CostCurve::new_for_test(&[(1, 1.0), (8, 1.5), (64, 8.8)]);
        let crowd: Vec<DraftTree> = (0..8).map(|_| chain(20, 0.99)).collect();
        let plan = |credit_ms: f64| {
            let mut candidates: Vec<_> = crowd.iter().map(candidate).collect();
            candidates.iter_mut().for_each(|of| of.credit_ms = credit_ms);
            let base = Base { rows: 8, rows_max: 512, tokens: 8, context_ms: 0.0 };
            let ms = 1.5 + choose(&costs, base, &mut candidates);
            let spent: f64 = candidates.iter().map(|of| of.spent_ms).sum();
            (candidates.iter().map(|of| of.taken.len()).sum::<usize>(), spent, ms)
        };
        let (poor, nothing, _) = plan(0.0);
        let (rich, spent, ms) = plan(1e9);
        assert!(rich > poor && nothing == 0.0, "{rich} {poor}");
        assert!(spent > 0.0 && spent <= LOSS_MAX * ms, "{spent} of {ms}");
        let (_, little, _) = plan(spent / 20.0);
        assert!(little <= spent / 20.0 * 8.0, "no one spends more than they have: {little}");
    }

    #[test]
    fn room_and_depth_are_bounds() {
        let costs = CostCurve::linear(1.0, 0.01);
        let tree = chain(20, 1.0);
        let mut one = [Candidate { room: 5, ..candidate(&tree) }];
        choose(&costs, Base { rows: 1, rows_max: 512, tokens: 1, context_ms: 0.0 }, &mut one);
        assert_eq!(one[0].taken.len(), 5);
        let mut one = [Candidate { depth: 3, ..candidate(&tree) }];
        choose(&costs, Base { rows: 1, rows_max: 512, tokens: 1, context_ms: 0.0 }, &mut one);
        assert_eq!(one[0].taken.len(), 3);
    }

    #[test]
    fn a_step_has_no_more_rows_than_it_may_have() {
        let tree = chain(20, 1.0);
        let mut one = [candidate(&tree)];
        choose(
            &CostCurve::linear(1.0, 0.01),
            Base { rows: 1, rows_max: 8, tokens: 1, context_ms: 0.0 },
            &mut one,
        );
        assert_eq!(one[0].taken.len(), 7);
    }

    #[test]
    fn the_likeliest_path_comes_first_in_rows() {
        let (mut tree, calibrator) = (DraftTree::default(), Calibrator::default());
        let mut add = |parent, token, p| tree.add(&calibrator, parent, token, (Source::Memory, 0, p));
        let b = add(ROOT, 1, 0.3);
        let a = add(ROOT, 2, 0.6);
        let aa = add(a, 3, 0.9);
        let ab = add(a, 4, 0.1);
        let aaa = add(aa, 5, 0.9);
        assert_eq!(in_rows(&tree, &[a, aa, aaa, b, ab]), [a, aa, aaa, ab, b]);
    }
}
