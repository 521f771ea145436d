//! Speculation on one sequence: its drafters, the tree of the current step, and counters.
//!
//! The invariant: between two steps the tree is empty or rooted at the sequence's last token.

use std::sync::Arc;
use std::time::Instant;

use super::calibrator::{Calibrator, Record};
use super::coupling::Coupling;
use super::draft_logits::DraftLogits;
use super::draft_tree::{DraftTree, Node, ROOT};
use super::drafter::{Context, Drafter, Draws, Proposals};
use super::head::HeadState;
use super::planner::{Candidate, in_rows};
use super::settings::{DraftReport, Policy, Source, Speculation};
use super::tenants::Tenant;
use crate::grammar::Guide;
use crate::sampler::Sampler;

/// Draft tokens that one drafter may propose for a step.
const PROPOSALS_MAX: usize = 40;
/// Ends of drafts after which forced tokens are added, and how probable those drafts must be.
const FORCED_AFTER_MAX: usize = 4;
const FORCED_AFTER_MIN: f32 = 0.2;
/// The class of forced draft tokens: all are the same.
const FORCED: u8 = 0;
/// Steps without a chosen draft token after which a sequence in a batch drafts less often.
const PATIENCE: usize = 4;

/// See the [module](self).
pub(crate) struct Speculator {
    pub(crate) settings: Speculation,
    drafters: Vec<Box<dyn Drafter>>,
    pub(crate) head: HeadState,
    pub(crate) tenant: Arc<Tenant>,
    /// Randomness of draws, where the policy needs them.
    draws: Option<Draws>,
    tree: DraftTree,
    /// The draft tokens that the step verifies; draft token `i` is row `i + 1`, after the root.
    rows: Vec<u32>,
    /// Consecutive steps in which no draft token was chosen.
    unproductive: usize,
    turn: u64,
    /// Whether drafter state may be updated from the sequence.
    pub(crate) learns: bool,
    report: DraftReport,
}

impl Speculator {
    pub(crate) fn new(
        settings: Speculation,
        drafters: Vec<Box<dyn Drafter>>,
        tenant: Arc<Tenant>,
        (seed, temperature): (u64, f32),
        (turn, learns): (u64, bool),
    ) -> Speculator {
        let draws = settings.policy == Policy::Lossless && temperature > 0.0;
        Speculator {
            draws: draws.then_some(Draws { seed, temperature }),
            settings,
            drafters,
            head: HeadState::default(),
            tenant,
            tree: DraftTree::default(),
            rows: Vec::new(),
            unproductive: 0,
            turn,
            learns,
            report: DraftReport::default(),
        }
    }

    /// Differs from sequence to sequence; decides whose turn it is to learn.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// Asks the drafters for draft tokens after `tokens`, of which the first `prompt` are the prompt. In a batch, where
    /// a token is cheap, a sequence whose draft tokens are not chosen drafts less often: false if it does not this time.
    pub(crate) fn propose(
        &mut self,
        (step_ms, batch): (f64, usize),
        tokens: &[u32],
        prompt: usize,
        sampler: &Sampler,
        mut guide: Option<&mut Guide>,
    ) -> bool {
        self.clear();
        self.unproductive += 1;
        // Forced tokens cost next to nothing and are always right, whatever other drafters do.
        self.add_forced(&[ROOT], guide.as_deref_mut());
        let period = (1 + self.unproductive / PATIENCE).min(batch.max(1));
        let Speculation { always, .. } = self.settings;
        if !always && !self.unproductive.is_multiple_of(period) {
            return false;
        }
        // No drafter is too slow, and no estimate depends on what was accepted earlier.
        let step_ms = if always { f64::INFINITY } else { step_ms };
        let coupled = self.coupling(sampler, tokens);
        let context = Context { tokens, prompt, drawn: self.draws, coupled, step_ms };
        let (neutral, learnt) = (always.then(Calibrator::default), self.tenant.calibrator.lock());
        let calibrator = neutral.as_ref().unwrap_or(&learnt);
        for drafter in &mut self.drafters {
            let source = drafter.source();
            let start = Instant::now();
            let room = PROPOSALS_MAX.min(2 * self.settings.max_draft);
            let guide = guide.as_deref_mut();
            drafter
                .propose(context, &mut Proposals { tree: &mut self.tree, calibrator, guide, source, room });
            self.report.sources[source.index()].ms += start.elapsed().as_secs_f64() * 1e3;
        }
        true
    }

    /// How drafts may follow the draws of the sequence's sampler after `tokens`; `None` if it does not draw, or under
    /// `lossless`.
    pub(crate) fn coupling<'a>(&self, sampler: &'a Sampler, tokens: &'a [u32]) -> Option<Coupling<'a>> {
        Coupling::with(sampler, tokens).filter(|_| self.draws.is_none())
    }

    /// Adds the tokens that the grammar forces after the most probable drafts of the others.
    pub(crate) fn extend_forced(&mut self, guide: Option<&mut Guide>) {
        if guide.is_some() {
            let ends = self.tree.likely_leaves(FORCED_AFTER_MAX, FORCED_AFTER_MIN);
            self.add_forced(&ends, guide);
        }
    }

    /// Adds the tokens that the grammar forces after each of `ends`.
    fn add_forced(&mut self, ends: &[u32], guide: Option<&mut Guide>) {
        let source = Source::Grammar;
        let Some(guide) = guide.filter(|_| self.settings.sources.contains(source)) else { return };
        let start = Instant::now();
        let neutral = self.settings.always.then(Calibrator::default);
        let learnt = self.tenant.calibrator.lock();
        let calibrator = neutral.as_ref().unwrap_or(&learnt);
        for &end in ends {
            let mut parent = end;
            let forced = guide.forced(&self.tree.tokens_to(end));
            for token in forced.into_iter().take(self.settings.max_draft) {
                parent = self.tree.add(calibrator, parent, token, (source, FORCED, 1.0));
            }
        }
        self.report.sources[source.index()].ms += start.elapsed().as_secs_f64() * 1e3;
    }

    /// Adds the draft tokens of the head for multi-token prediction after `parent` for a position, given its logits there.
    /// Returns the node to go on from, its token, and the probability that everything up to it is accepted.
    pub(crate) fn add_head_drafts(
        &mut self,
        next: DraftLogits<'_>,
        parent: u32,
        position: usize,
        (coupled, guide): (Option<Coupling<'_>>, Option<&mut Guide>),
    ) -> Option<(u32, u32, f64)> {
        let neutral = self.settings.always.then(Calibrator::default);
        let learnt = self.tenant.calibrator.lock();
        let calibrator = neutral.as_ref().unwrap_or(&learnt);
        // Two after each.
        let mut out = Proposals { tree: &mut self.tree, calibrator, guide, source: Source::Mtp, room: 2 };
        let node = match coupled {
            Some(coupling) => next.propose_coupled(parent, coupling, &mut out)?,
            None => next.propose(parent, position as u64, self.draws, &mut out)?,
        };
        let Node { token, path, .. } = self.tree.nodes()[node as usize];
        Some((node, token, f64::from(path)))
    }

    /// Whether anything was proposed.
    pub(crate) fn has_drafts(&self) -> bool {
        !self.tree.is_empty()
    }

    /// The tree for the planner. `depth` is the longest allowed path; `batch` sequences, which may all be one
    /// tenant's, share the step.
    pub(crate) fn candidate(&self, context: usize, depth: usize, batch: usize) -> Candidate<'_> {
        Candidate {
            tree: &self.tree,
            context,
            room: self.settings.max_draft,
            depth,
            credit_ms: if self.settings.funded { self.tenant.credit_ms() / batch.max(1) as f64 } else { 0.0 },
            always: self.settings.always,
            taken: Vec::new(),
            spent_ms: 0.0,
        }
    }

    /// Sets the draft tokens that the step verifies.
    pub(crate) fn take(&mut self, taken: &[u32], spent_ms: f64) {
        self.rows = in_rows(&self.tree, taken);
        // What a grammar forces is asked for in every step anyway.
        let nodes = self.tree.nodes();
        if taken.iter().any(|&node| nodes[node as usize].source != Source::Grammar) {
            self.unproductive = 0;
        }
        if spent_ms > 0.0 {
            self.report.credit_spent_ms += spent_ms;
            self.tenant.spend(spent_ms);
        }
    }

    /// Keeps the first `rows` draft tokens only.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.rows.truncate(rows);
    }

    /// Clears the tree.
    pub(crate) fn clear(&mut self) {
        self.tree.clear();
        self.rows.clear();
    }

    /// Draft tokens that the step verifies.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Tokens of the draft tokens, and for the root and each of them the row of its parent.
    pub(crate) fn layout(&self, tokens: &mut Vec<u32>, parents: &mut Vec<i32>) {
        parents.push(-1);
        for &node in &self.rows {
            let Node { token, parent, .. } = self.tree.nodes()[node as usize];
            tokens.push(token);
            // The root is row 0, and a parent comes before its children.
            let row = self.rows.iter().position(|&row| row == parent).map_or(0, |row| row + 1);
            parents.push(row as i32);
        }
    }

    /// Whether the draft tokens are nothing but the first of `forced`, each after the one before.
    pub(crate) fn is_chain_of(&self, mut forced: impl Iterator<Item = u32>) -> bool {
        let mut parent = ROOT;
        self.rows.iter().all(|&id| {
            let node = &self.tree.nodes()[id as usize];
            node.parent == std::mem::replace(&mut parent, id) && forced.next() == Some(node.token)
        })
    }

    /// The verified draft tokens after a row, those that were drawn last and in the order of their drawing.
    pub(crate) fn after(&self, row: usize) -> Vec<(usize, &Node)> {
        let parent = row.checked_sub(1).map_or(ROOT, |draft| self.rows[draft]);
        let rows = self.rows.iter().enumerate().map(|(draft, &node)| (draft + 1, node));
        let mut children: Vec<_> = rows
            .map(|(row, node)| (row, node, &self.tree.nodes()[node as usize]))
            .filter(|(_, _, node)| node.parent == parent)
            .collect();
        children.sort_by_key(|&(_, id, node)| (node.drawn.is_some(), id));
        children.into_iter().map(|(row, _, node)| (row, node)).collect()
    }

    /// The distribution that a draft token was drawn from.
    pub(crate) fn drawn_from(&self, node: &Node) -> Option<&[(u32, f32)]> {
        node.drawn.map(|index| self.tree.drawn_from(index))
    }

    /// The source of the draft token in a row.
    pub(crate) fn source(&self, row: usize) -> Source {
        self.tree.nodes()[self.rows[row - 1] as usize].source
    }

    /// Records a draft token that was accepted although the target would not have sampled it, and the log-probability
    /// lost.
    pub(crate) fn relaxed(&mut self, given_up: f64) {
        self.report.relaxed += 1;
        self.report.given_up += given_up;
    }

    /// Observes the tokens that the step added to the answer, and the accepted rows.
    pub(crate) fn observe(&mut self, record: &mut Record, added: &[u32], kept: &[usize]) {
        self.tree.observe(&mut self.tenant.calibrator.lock(), record, added);
        let report = &mut self.report;
        report.steps += 1;
        if !self.rows.is_empty() {
            report.drafts += 1;
            report.drafted += self.rows.len();
            report.accepted += kept.len();
            report.histogram.resize(report.histogram.len().max(kept.len() + 1), 0);
            report.histogram[kept.len()] += 1;
        }
        for &node in &self.rows {
            report.sources[self.tree.nodes()[node as usize].source.index()].proposed += 1;
        }
        let mut accepted = [0; Source::ALL.len()];
        for &row in kept {
            accepted[self.tree.nodes()[self.rows[row - 1] as usize].source.index()] += 1;
        }
        for (of_source, accepted) in self.report.sources.iter_mut().zip(accepted) {
            of_source.accepted += accepted;
        }
        for drafter in &mut self.drafters {
            let source = drafter.source().index();
            let start = Instant::now();
            drafter.observe(added, accepted[source]);
            self.report.sources[source].ms += start.elapsed().as_secs_f64() * 1e3;
        }
        self.clear();
    }

    /// Adds to the time that a source took.
    pub(crate) fn spent_on(&mut self, source: Source, ms: f64) {
        self.report.sources[source.index()].ms += ms;
    }

    /// Counters so far.
    pub(crate) fn report(&self) -> DraftReport {
        self.report.clone()
    }
}
