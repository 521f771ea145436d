//! The draft tokens of a step: asks the drafters of all decoding sequences and adds the chosen draft rows to the work.
//!
//! Between the scheduler's plan and the forward pass, where sequences and speculation meet. The invariant: draft rows
//! are added to planned work only, and take free blocks only.

use foretoken_cache::ContextCache;
use foretoken_model::Model;
use foretoken_model::step::Scratch;

use crate::sequence::Sequence;
use crate::speculate::drafts::{Drafts, ExpectedCost};
use crate::speculate::head::{HeadSequence, Worth};
use crate::speculate::planner::{Base, choose};
use crate::work::Work;

/// Chooses the draft tokens that the planned step verifies, and allocates free blocks for them. Returns the predicted
/// cost of the step.
pub(crate) fn plan_drafts(
    drafts: &mut Drafts,
    (model, scratch): (&Model, &mut Scratch),
    cache: &ContextCache,
    running: &mut [Sequence],
    work: &mut [Work],
) -> ExpectedCost {
    let mut base = Base { rows: 0, rows_max: drafts.step_tokens(), tokens: 0, context_ms: 0.0 };
    for Work { index, rows } in work.iter() {
        let seq = &mut running[*index];
        base.rows += rows;
        base.tokens += usize::from(seq.pending() == *rows);
        base.context_ms += drafts.costs().context_ms(seq.committed, *rows);
    }
    drafts.begin_step(base.tokens);
    let costs = drafts.costs();
    let mut drafting = Vec::new();
    for Work { index, .. } in work.iter() {
        let seq = &mut running[*index];
        if seq.pending() == 1 {
            let step_ms = costs.rows_ms(1) + costs.context_ms(seq.committed, 1);
            if seq.propose(step_ms, base.tokens) {
                drafting.push(*index);
            }
        }
    }
    let base_ms = costs.rows_ms(base.rows) + base.context_ms;
    let head_ms = run_head(drafts, (model, scratch), cache, running, (&drafting, base, base_ms));
    drafting.iter().for_each(|&index| running[index].extend_forced());
    let costs = drafts.costs();
    let mut expected = ExpectedCost { rows: base.rows, tokens: base.tokens, base_ms, draft_ms: 0.0, head_ms };
    let mut indices = Vec::new();
    let mut candidates = Vec::new();
    for (at, Work { index, .. }) in work.iter().enumerate() {
        if let Some(candidate) = running[*index].candidate(base.tokens) {
            indices.push(at);
            candidates.push(candidate);
        }
    }
    if candidates.is_empty() {
        return expected;
    }
    expected.draft_ms = choose(costs, base, &mut candidates);
    let taken: Vec<_> = candidates.into_iter().map(|of| (of.taken, of.spent_ms)).collect();
    for (at, (taken, spent_ms)) in indices.into_iter().zip(taken) {
        work[at].rows += running[work[at].index].take(cache, &taken, spent_ms);
    }
    expected
}

/// Drafts with the model's head for multi-token prediction for the sequences in `drafting`, indices in rising order.
/// Returns the milliseconds that it took.
fn run_head(
    drafts: &mut Drafts,
    (model, scratch): (&Model, &mut Scratch),
    cache: &ContextCache,
    running: &mut [Sequence],
    (drafting, base, base_ms): (&[usize], Base, f64),
) -> f64 {
    if !model.has_prediction() || drafting.is_empty() {
        return 0.0;
    }
    let mut indices = drafting.iter().peekable();
    let mut context = 0;
    let seqs = running.iter_mut().enumerate().filter(|(index, _)| indices.next_if_eq(&index).is_some());
    let seqs: Vec<HeadSequence<'_>> = seqs
        .filter_map(|(_, seq)| {
            context = context.max(seq.committed);
            seq.for_head()
        })
        .collect();
    let (costs, head) = drafts.costs_and_head();
    let worth =
        Worth { token_ms: base_ms / base.tokens.max(1) as f64, row_ms: costs.row_ms(base.rows, context) };
    head.propose(model, scratch, cache, seqs, worth)
}
