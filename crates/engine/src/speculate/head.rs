//! Drafts of the model's own head for multi-token prediction: a draft token, then one after that, and so on.
//!
//! It runs for all sequences of a step together, one row of each, as long as the next draft token is probable enough to be
//! worth its time. The invariant: it writes only slots that the next step of the target writes too, and takes free
//! blocks only.

use std::time::Instant;

use foretoken_cache::ContextCache;
use foretoken_model::step::Scratch;
use foretoken_model::{HeadInput, Model};

use super::coupling::Coupling;
use super::draft_logits::DraftLogits;
use super::draft_tree::ROOT;
use super::settings::Source;
use super::speculator::Speculator;
use crate::block_table::BlockTable;
use crate::grammar::Guide;

/// Longest path of draft tokens.
const AHEAD_MAX: usize = 16;
/// Steps without a draft before another attempt, where drafts did not pay.
const RETRY: u32 = 32;
/// Weight of the newest sample in the moving averages.
const WEIGHT: f64 = 0.1;

/// How well the head does on one sequence.
pub(crate) struct HeadState {
    /// Moving average of the probability that its first draft token is accepted.
    first_p: f64,
    /// Steps since the last attempt.
    idle: u32,
}

impl Default for HeadState {
    fn default() -> Self {
        HeadState { first_p: 1.0, idle: 0 }
    }
}

/// A sequence to draft for.
pub(crate) struct HeadSequence<'a> {
    speculator: &'a mut Speculator,
    table: &'a mut BlockTable,
    /// What the next draft token follows: a token, its slot, the hidden row before it, and its node in the tree.
    token: u32,
    slot: usize,
    hidden: Vec<f32>,
    parent: u32,
    /// Draft tokens that may still follow.
    depth: usize,
    /// How drafts may follow the target's draws.
    coupled: Option<Coupling<'a>>,
    /// What knows which drafts may come.
    guide: Option<&'a mut Guide>,
}

impl<'a> HeadSequence<'a> {
    /// `last`: a sequence's last token, its slot, and the target's hidden row before it. `depth`: the longest useful path.
    pub(crate) fn new(
        speculator: &'a mut Speculator,
        table: &'a mut BlockTable,
        (token, slot, hidden): (u32, usize, &[f32]),
        depth: usize,
        (coupled, guide): (Option<Coupling<'a>>, Option<&'a mut Guide>),
    ) -> HeadSequence<'a> {
        let (hidden, depth) = (hidden.to_vec(), depth.min(AHEAD_MAX));
        HeadSequence { speculator, table, token, slot, hidden, parent: ROOT, depth, coupled, guide }
    }
}

/// What draft tokens are worth in the current step.
#[derive(Clone, Copy)]
pub(crate) struct Worth {
    /// Milliseconds of the target per token that a step yields.
    pub(crate) token_ms: f64,
    /// Milliseconds of a draft row in the target's step.
    pub(crate) row_ms: f64,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Head {
    /// Moving average of the milliseconds that a row takes.
    row_ms: f64,
}

impl Head {
    /// Whether a draft token pays after one that is accepted with probability `path`.
    fn pays(&self, path: f64, worth: Worth) -> bool {
        path * (worth.token_ms - worth.row_ms) > self.row_ms
    }

    /// Whether to draft for a sequence.
    fn tries(&self, speculator: &mut Speculator, worth: Worth) -> bool {
        let (always, state) = (speculator.settings.always, &mut speculator.head);
        let tries = always || self.pays(state.first_p, worth) || state.idle >= RETRY;
        state.idle = if tries { 0 } else { state.idle + 1 };
        tries
    }

    /// Adds draft tokens to the trees of the sequences. Returns the milliseconds that it took.
    pub(crate) fn propose(
        &mut self,
        model: &Model,
        scratch: &mut Scratch,
        cache: &ContextCache,
        mut seqs: Vec<HeadSequence<'_>>,
        worth: Worth,
    ) -> f64 {
        let begin = Instant::now();
        seqs.retain_mut(|seq| seq.depth > 0 && self.tries(seq.speculator, worth));
        loop {
            seqs.retain_mut(|seq| seq.depth > 0 && seq.table.reserve(cache, seq.slot + 1));
            if seqs.is_empty() {
                return begin.elapsed().as_secs_f64() * 1e3;
            }
            self.draft_once(model, scratch, &mut seqs, worth);
        }
    }

    /// One draft token for each sequence; those that should not go on have no `depth` left.
    fn draft_once(
        &mut self,
        model: &Model,
        scratch: &mut Scratch,
        seqs: &mut [HeadSequence<'_>],
        worth: Worth,
    ) {
        let (start, layout) = (Instant::now(), model.kv_layout());
        let parts = seqs.iter_mut().map(|HeadSequence { table, token, slot, hidden, .. }| {
            (table.view(&layout), *token, *slot, &hidden[..])
        });
        let mut parts: Vec<_> = parts.collect();
        let inputs = parts.iter_mut().map(|(kv, token, slot, hidden)| HeadInput {
            token: *token,
            hidden,
            slot: *slot,
            kv,
        });
        let logits = model.predict(scratch, &mut inputs.collect::<Vec<_>>());
        for (row, seq) in seqs.iter_mut().enumerate() {
            let position = seq.slot + 1;
            let (compute, tokens) = (model.compute(), model.predicted_tokens());
            let next = DraftLogits { compute, logits: logits.row(row), tokens };
            let limits = (seq.coupled, seq.guide.as_deref_mut());
            let draft = seq.speculator.add_head_drafts(next, seq.parent, position, limits);
            let Some((node, token, path)) = draft else {
                seq.depth = 0;
                continue;
            };
            if seq.parent == ROOT {
                let state = &mut seq.speculator.head;
                state.first_p += WEIGHT * (path - state.first_p);
            }
            let goes_on = seq.speculator.settings.always || self.pays(path, worth);
            seq.depth = if goes_on { seq.depth - 1 } else { 0 };
            (seq.parent, seq.token, seq.slot) = (node, token, position);
            seq.hidden.copy_from_slice(logits.hidden(row));
        }
        let row_ms = start.elapsed().as_secs_f64() * 1e3 / seqs.len() as f64;
        self.row_ms += if self.row_ms == 0.0 { row_ms } else { WEIGHT * (row_ms - self.row_ms) };
        seqs.iter_mut().for_each(|seq| seq.speculator.spent_on(Source::Mtp, row_ms));
    }
}
