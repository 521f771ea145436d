//! Which draft tokens a step verifies, over all sequences together.
//!
//! A step that computes one token for each of `n` sequences yields `n` tokens in some milliseconds. A draft token that
//! is accepted with probability `p` yields `p` more and costs one more row. Draft tokens are chosen, the most probable
//! first, while that raises tokens per millisecond. So a large batch, whose rows cost more, takes fewer and a small one
//! more, and where no draft token pays none is taken.
//!
//! A sequence whose tenant has credit, milliseconds that cache hits saved, may go on while it raises its *own* tokens
//! per millisecond; the cost to other sequences is charged to the credit. All tenants with credit together may cost a
//! step no more than [`LOSS_MAX`] of its time: if everyone spent without bound, everyone would be slower.
//!
//! A sequence may also ask for all its draft tokens whatever they cost, for measurements.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::cost_curve::CostCurve;
use super::draft_tree::{DraftTree, ROOT};

/// Required ratio of expected gain to cost: drafting, sampling and bookkeeping are not in the curve.
const MARGIN: f64 = 1.1;
/// Added to it for each further sequence, up to [`MARGIN_MAX`]: in a large batch there is little to gain, and the
/// most probable draft tokens of many are the overestimated ones.
const MARGIN_PER_SEQUENCE: f64 = 0.06;
const MARGIN_MAX: f64 = 1.5;

/// Share of a step's time that credit may cost the others.
const LOSS_MAX: f64 = 0.01;

/// One decoding sequence of the step.
pub(crate) struct Candidate<'a> {
    pub(crate) tree: &'a DraftTree,
    /// Tokens of context.
    pub(crate) context: usize,
    /// Draft tokens that may be taken, at most.
    pub(crate) room: usize,
    /// Longest useful path.
    pub(crate) depth: usize,
    /// Milliseconds that may be spent past break-even.
    pub(crate) credit_ms: f64,
    /// Whether to take all that there is room for, as drafted.
    pub(crate) always: bool,
    /// The chosen draft tokens, parents before children; most probable first unless `always`.
    pub(crate) taken: Vec<u32>,
    /// Credit spent, in milliseconds.
    pub(crate) spent_ms: f64,
}

/// The step without draft tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// Rows of all sequences, prompts included.
    pub(crate) rows: usize,
    /// Rows that a step may have.
    pub(crate) rows_max: usize,
    /// Tokens that it yields at least.
    pub(crate) tokens: usize,
    /// Milliseconds for context.
    pub(crate) context_ms: f64,
}

struct DraftToken {
    path: f32,
    candidate: usize,
    node: u32,
}

impl PartialEq for DraftToken {
    fn eq(&self, other: &DraftToken) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DraftToken {}

impl PartialOrd for DraftToken {
    fn partial_cmp(&self, other: &DraftToken) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DraftToken {
    fn cmp(&self, other: &DraftToken) -> Ordering {
        let by_age = (other.candidate, other.node).cmp(&(self.candidate, self.node));
        self.path.total_cmp(&other.path).then(by_age)
    }
}

/// Fills `taken` of each candidate. Returns the predicted cost of the chosen draft tokens in milliseconds.
pub(crate) fn choose(costs: &CostCurve, base: Base, candidates: &mut [Candidate<'_>]) -> f64 {
    let mut heap = BinaryHeap::new();
    let (mut rows, mut tokens) = (base.rows, base.tokens as f64);
    let mut ms = costs.rows_ms(rows) + base.context_ms;
    let base_ms = ms;
    for (candidate, of) in candidates.iter_mut().enumerate() {
        if !of.always {
            push_children(&mut heap, of, candidate, ROOT);
            continue;
        }
        take_all(of, base.rows_max.saturating_sub(rows));
        for &node in &of.taken {
            ms += costs.row_ms(rows, of.context);
            tokens += f64::from(of.tree.path(node));
            rows += 1;
        }
    }
    let draft_cost_correction = costs.refined(base.rows, base.tokens).draft_cost_correction();
    let margin = (MARGIN + MARGIN_PER_SEQUENCE * base.tokens.saturating_sub(1) as f64).min(MARGIN_MAX);
    let mut own: Vec<f64> = vec![1.0; candidates.len()];
    let mut lost = 0.0;
    while rows < base.rows_max
        && let Some(DraftToken { path, candidate, node }) = heap.pop()
    {
        let of = &mut candidates[candidate];
        let gain = f64::from(path);
        let cost = costs.row_ms(rows, of.context) * draft_cost_correction * margin;
        if gain * ms < cost * tokens {
            // The cost to other sequences, in milliseconds of the step.
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
            heap.retain(|draft| draft.candidate != candidate);
        }
    }
    (ms - base_ms) / draft_cost_correction
}

/// Takes a candidate's draft tokens in the order in which they were drafted, `rows` at most.
fn take_all(of: &mut Candidate<'_>, rows: usize) {
    let nodes = (0..of.tree.nodes().len() as u32).filter(|&node| of.tree.depth(node) <= of.depth);
    of.taken = nodes.take(of.room.min(rows)).collect();
}

fn push_children(heap: &mut BinaryHeap<DraftToken>, of: &Candidate<'_>, candidate: usize, parent: u32) {
    if of.room == 0 || of.tree.depth(parent) >= of.depth {
        return;
    }
    heap.extend(of.tree.children(parent).map(|node| DraftToken {
        path: of.tree.nodes()[node as usize].path,
        candidate,
        node,
    }));
}

/// The row order of chosen draft tokens: the most probable child right after its parent, so that the most probable
/// path fills consecutive slots and need not be moved when it is accepted.
pub(crate) fn in_rows(tree: &DraftTree, taken: &[u32]) -> Vec<u32> {
    // `taken` has the most probable first, and a stack pops the last one first.
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
    use crate::speculate::calibrator::Calibrator;
    use crate::speculate::settings::Source;

    /// A chain whose draft tokens are accepted with probability `p` each.
    fn chain(len: u32, p: f32) -> DraftTree {
        let (mut tree, calibrator) = (DraftTree::default(), Calibrator::default());
        (0..len).fold(ROOT, |parent, token| tree.add(&calibrator, parent, token, (Source::Memory, 0, p)));
        tree
    }

    fn candidate(tree: &DraftTree) -> Candidate<'_> {
        Candidate {
            tree,
            context: 0,
            room: 32,
            depth: 100,
            credit_ms: 0.0,
            always: false,
            taken: Vec::new(),
            spent_ms: 0.0,
        }
    }

    fn taken(costs: &CostCurve, trees: &[DraftTree], credit_ms: f64) -> Vec<usize> {
        let mut candidates: Vec<_> = trees.iter().map(candidate).collect();
        candidates.iter_mut().for_each(|of| of.credit_ms = credit_ms);
        let base = Base { rows: trees.len(), rows_max: 512, tokens: trees.len(), context_ms: 0.0 };
        choose(costs, base, &mut candidates);
        candidates.iter().map(|of| of.taken.len()).collect()
    }

    #[test]
    fn probable_draft_tokens_are_chosen_and_improbable_ones_are_not() {
        let costs = CostCurve::linear(1.0, 0.1);
        assert_eq!(taken(&costs, &[chain(20, 1.0)], 0.0), [20]);
        assert_eq!(taken(&costs, &[chain(20, 0.05)], 0.0), [0]);
        let some = taken(&costs, &[chain(20, 0.7)], 0.0)[0];
        assert!((1..8).contains(&some), "{some}");
    }

    #[test]
    fn no_draft_token_pays_where_a_row_costs_a_step() {
        assert_eq!(taken(&CostCurve::linear(1.0, 1.0), &[chain(20, 0.95)], 0.0), [0]);
    }

    #[test]
    fn a_sequence_that_always_drafts_takes_what_there_is_room_for_in_the_order_of_drafting() {
        let costs = CostCurve::linear(1.0, 1.0);
        let tree = chain(20, 0.05);
        let take = |room, depth, rows_max| {
            let mut both = [candidate(&tree), Candidate { room, depth, always: true, ..candidate(&tree) }];
            choose(&costs, Base { rows: 2, rows_max, tokens: 2, context_ms: 0.0 }, &mut both);
            assert!(both[0].taken.is_empty());
            both[1].taken.clone()
        };
        assert_eq!(take(5, 100, 512), [0, 1, 2, 3, 4]);
        assert_eq!((take(32, 3, 512).len(), take(32, 100, 8).len(), take(0, 9, 9).len()), (3, 6, 0));
    }

    #[test]
    fn a_large_batch_speculates_less() {
        // 8 sequences are on the steep part of the curve.
        let costs = CostCurve::new_for_test(&[(1, 1.0), (8, 1.5), (64, 20.0)]);
        let alone = taken(&costs, &[chain(20, 0.6)], 0.0)[0];
        let batch: Vec<DraftTree> = (0..8).map(|_| chain(20, 0.6)).collect();
        assert!(alone >= 3);
        assert_eq!(taken(&costs, &batch, 0.0), [0; 8]);
    }

    #[test]
    fn credit_buys_depth_in_a_batch_until_it_is_spent_or_costs_the_others_too_much() {
        let costs = CostCurve::new_for_test(&[(1, 1.0), (8, 1.5), (64, 8.8)]);
        let batch: Vec<DraftTree> = (0..8).map(|_| chain(20, 0.99)).collect();
        let plan = |credit_ms: f64| {
            let mut candidates: Vec<_> = batch.iter().map(candidate).collect();
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
    fn the_most_probable_path_comes_first_in_rows() {
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
