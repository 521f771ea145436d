//! One request on its way through the engine: its tokens, KV, sampler and output.
//!
//! What is left to compute is never stored but derived: the tokens beyond `committed`. One such token means
//! decoding, more mean prefill of a prompt or of a resumed sequence.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use foretoken_cache::{BLOCK_TOKENS, ContextCache, RecomputeCost, Restore, Scope, ScopeId};
use foretoken_kernels::kv::KvLayout;
use foretoken_model::Model;
use foretoken_model::step::{Logits, WantLogits};
use foretoken_model::tokenizer::Tokenizer;

use crate::api::{
    CacheUse, DraftReport, FinishReason, GrammarTimes, PromptProgress, Source, Summary, Timings, Usage,
};
use crate::block_table::BlockTable;
use crate::fairness::Owner;
use crate::grammar::{End, Matcher};
use crate::job::Job;
use crate::loop_guard::LoopGuard;
use crate::output::{Output, Scores};
use crate::replay::Keep;
use crate::sampler::{Sampler, logprobs};
use crate::speculate::TextFollower;
use crate::speculate::acceptance::{Verdict, choose, forced};
use crate::speculate::drafts::Drafts;
use crate::speculate::head::HeadSequence;
use crate::speculate::planner::Candidate;
use crate::speculate::speculator::Speculator;

/// Most resume points of a sequence.
const RESUME_POINTS_MAX: usize = 4;

/// A running request.
pub(crate) struct Sequence {
    /// Prompt and answer.
    pub(crate) tokens: Vec<u32>,
    /// Tokens whose KV is written.
    pub(crate) committed: usize,
    pub(crate) table: BlockTable,
    /// For a model with a head for multi-token prediction: the hidden row of the last committed token. Empty if it is
    /// not known.
    pub(crate) hidden: Vec<f32>,
    /// Blocks on their way from a slower tier; the sequence waits for them.
    pub(crate) restore: Option<Restore>,
    /// Numbers of blocks after which later requests may resume: of a model with windows, the cache keeps the windowed
    /// parts that this reads. The ends of the prompt and of a declared prefix, and where more of the prompt was cached
    /// than could be resumed after.
    resume_points: Vec<usize>,
    /// Another sequence that is computing a shared prefix, and the length of that prefix.
    pub(crate) follows: Option<(u64, usize)>,
    /// Its arrival number, unique within the engine.
    pub(crate) id: u64,
    pub(crate) owner: Owner<ScopeId>,
    layout: KvLayout,
    scope: Scope,
    cache_use: CacheUse,
    /// Prompt tokens that were cached before the sequence computed its first one.
    cache_hit: usize,
    /// Whether it has computed anything yet.
    computed: bool,
    sampler: Sampler,
    /// Where the answer is in its grammar, if it has one.
    matcher: Option<Box<Matcher>>,
    /// Alternatives to report per token, if any are.
    logprobs: Option<usize>,
    prompt_len: usize,
    progress: Arc<PromptProgress>,
    len_max: usize,
    loop_guard: Option<LoopGuard>,
    output: Output,
    keep: Keep,
    speculator: Option<Speculator>,
    /// The caller's prediction, to count its accepted tokens.
    expected: Option<TextFollower>,
    arrived: Instant,
    started: Instant,
    first_token: Option<Instant>,
    /// Milliseconds of prefill saved by cached tokens.
    saved_ms: f64,
}

/// The output of a step, and what is needed to turn it into tokens.
pub(crate) struct Computed<'a> {
    pub(crate) model: &'a Model,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) cache: &'a ContextCache,
    pub(crate) drafts: &'a mut Drafts,
    pub(crate) logits: &'a mut Logits,
    /// Measured cost of computing a prompt token.
    pub(crate) cost: RecomputeCost,
}

/// Where a sequence's rows start in a step.
#[derive(Clone, Copy)]
pub(crate) struct FirstRow {
    /// Among all rows.
    pub(crate) step: usize,
    /// Among those that have logits.
    pub(crate) logits: usize,
}

impl Sequence {
    pub(crate) fn new(job: Job, id: u64, layout: &KvLayout, drafts: &mut Drafts) -> Sequence {
        let Job { mut request, len_max, events, arrived, scope, owner, matcher, loop_guard, keep } = job;
        let temperature = request.sampling.temperature;
        let sampler = Sampler::new(std::mem::take(&mut request.sampling));
        Sequence {
            speculator: drafts.speculator(owner.tenant, &request, (sampler.dice().seed(), temperature)),
            sampler,
            matcher,
            expected: TextFollower::of_prediction(&mut request),
            output: Output::new(&mut request, events),
            prompt_len: request.prompt.len(),
            resume_points: vec![request.prompt.len() / BLOCK_TOKENS, scope.own_root().depth as usize],
            progress: request.progress,
            tokens: request.prompt,
            committed: 0,
            table: BlockTable::default(),
            hidden: Vec::new(),
            layout: layout.clone(),
            restore: None,
            follows: None,
            id,
            scope,
            owner,
            cache_use: request.cache,
            cache_hit: 0,
            computed: false,
            logprobs: request.logprobs,
            len_max,
            loop_guard,
            keep,
            arrived,
            started: Instant::now(),
            first_token: None,
            saved_ms: 0.0,
        }
    }

    /// Tokens whose KV is still to be computed; at least one while the sequence runs.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.committed
    }

    /// Records what a step of `rows` rows reads of the prompt. Called before it is computed, because it will be, whether
    /// or not the client waits for it.
    pub(crate) fn record_progress(&self, rows: usize) {
        self.progress.record(self.cache_hit, (self.committed + rows).min(self.prompt_len));
    }

    /// When it was admitted.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Whether the client disconnected.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.output.is_abandoned()
    }

    /// Releases all blocks, to the cache if it may write there; after resuming, what is not cached any more is computed
    /// again.
    pub(crate) fn preempt(&mut self, cache: &ContextCache) {
        let mut table = std::mem::take(&mut self.table);
        if self.cache_use.write {
            table.share_tail(cache, &self.scope, &self.tokens, self.committed);
        }
        self.committed = 0;
        self.hidden.clear();
        self.restore = None;
        self.follows = None;
        if let Some(speculator) = &mut self.speculator {
            speculator.clear();
        }
    }

    /// Starts from the cached prefix of the tokens, the last one excepted: its logits are needed. Begins to
    /// restore blocks from slower tiers where that is faster than computing them.
    pub(crate) fn attach(&mut self, cache: &ContextCache, cost: RecomputeCost, restore: bool) {
        self.follows = None;
        if !self.cache_use.read {
            return;
        }
        let known = &self.tokens[..self.tokens.len() - 1];
        let found = match (restore, self.restore.take()) {
            (true, _) => cache.lookup(&self.scope, known),
            // Restored blocks are counted as restored.
            (false, Some(_)) => cache.lookup_again(&self.scope, known, usize::MAX),
            (false, None) => cache.lookup_again(&self.scope, known, self.committed),
        };
        let known = found.below.known_blocks().max(found.ram.whole.len());
        let resumable = found.ram.tokens() / BLOCK_TOKENS;
        if known > resumable
            && !self.resume_points.contains(&known)
            && self.resume_points.len() < RESUME_POINTS_MAX
        {
            self.resume_points.push(known);
        }
        if restore {
            self.restore = cache.begin_restore(found.below, &cache.rates(cost));
        }
        if self.restore.is_none() {
            (self.table, self.committed) = BlockTable::from_match(cache, found.ram);
            self.find_hidden();
            if !self.computed {
                self.cache_hit = self.committed;
            }
        } else {
            // Held so that they are not evicted before the rest is restored.
            let full = foretoken_cache::Match { branch: None, ..found.ram };
            (self.table, self.committed) = BlockTable::from_match(cache, full);
        }
    }

    /// Takes the hidden row of the last cached token from its block, for a model with a head for multi-token prediction.
    /// A block has that of its own last token; where only a part of one is cached, a token is computed again.
    fn find_hidden(&mut self) {
        self.hidden.clear();
        if self.layout.hidden() == 0 || self.committed == 0 {
            return;
        }
        if !self.committed.is_multiple_of(BLOCK_TOKENS) {
            self.committed -= 1;
        }
        if let (Some(block), 0) =
            ((self.committed / BLOCK_TOKENS).checked_sub(1), self.committed % BLOCK_TOKENS)
        {
            self.hidden = self.table.view(&self.layout).hidden(block);
        }
    }

    /// Keeps the hidden rows that blocks end with, and that of the last token. `rows`: the rows of the step whose tokens
    /// follow the committed ones.
    fn keep_hidden(&mut self, logits: &Logits, rows: impl Iterator<Item = usize>) {
        if self.layout.hidden() == 0 {
            return;
        }
        let mut last = None;
        for (slot, row) in (self.committed..).zip(rows) {
            if (slot + 1).is_multiple_of(BLOCK_TOKENS) {
                self.table.view(&self.layout).keep_hidden(slot / BLOCK_TOKENS, logits.hidden(row));
            }
            last = Some(row);
        }
        if let Some(row) = last {
            self.hidden.clear();
            self.hidden.extend_from_slice(logits.hidden(row));
        }
    }

    /// The sequence as the model's head for multi-token prediction needs it, if that may draft for it.
    pub(crate) fn for_head(&mut self) -> Option<HeadSequence<'_>> {
        let depth = self.depth_max();
        let Sequence { speculator, table, tokens, committed, hidden, sampler, matcher, .. } = self;
        let speculator = speculator.as_mut().filter(|of| of.settings.sources.contains(Source::Mtp))?;
        let (depth, last) = (depth.min(speculator.settings.max_draft), *tokens.last()?);
        let limits = (speculator.coupling(sampler, tokens), matcher.as_mut().and_then(|of| of.guide()));
        (!hidden.is_empty())
            .then(|| HeadSequence::new(speculator, table, (last, *committed, hidden), depth, limits))
    }

    /// Draft tokens in a row that the answer may still take: a step yields one token without any.
    fn depth_max(&self) -> usize {
        (self.len_max - self.tokens.len()).saturating_sub(1)
    }

    /// Whether it can prefill now: more than one token is pending and no awaited block is missing.
    pub(crate) fn is_reading(&self) -> bool {
        self.pending() > 1 && self.restore.is_none() && self.follows.is_none()
    }

    /// Tokens of `self`, in whole blocks, that `other` has or will have in its table under the same scope.
    pub(crate) fn shared_with(&self, other: &Sequence) -> usize {
        if !self.cache_use.read || !other.cache_use.write {
            return 0;
        }
        let mine = &self.tokens[..self.tokens.len() - 1];
        let common = mine.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
        (common / BLOCK_TOKENS).min(self.scope.blocks_in_common(&other.scope)) * BLOCK_TOKENS
    }

    /// Asks the drafters for draft tokens; `batch` sequences share the step. False if it does not draft this time.
    pub(crate) fn propose(&mut self, step_ms: f64, batch: usize) -> bool {
        let Sequence { speculator, tokens, prompt_len, sampler, matcher, .. } = self;
        let guide = matcher.as_mut().and_then(|of| of.guide());
        let speculator = speculator.as_mut();
        speculator.is_some_and(|of| of.propose((step_ms, batch), tokens, *prompt_len, sampler, guide))
    }

    /// Adds the tokens that its grammar forces after the draft tokens.
    pub(crate) fn extend_forced(&mut self) {
        let Sequence { speculator, matcher, .. } = self;
        if let (Some(speculator), Some(matcher)) = (speculator, matcher) {
            speculator.extend_forced(matcher.guide());
        }
    }

    /// The draft tokens for the planner, if there are any.
    pub(crate) fn candidate(&self, batch: usize) -> Option<Candidate<'_>> {
        let depth = self.depth_max();
        let speculator = self.speculator.as_ref().filter(|speculator| speculator.has_drafts())?;
        Some(speculator.candidate(self.committed, depth, batch))
    }

    /// Sets the draft tokens that the step verifies, as many as there are blocks for; returns how many.
    pub(crate) fn take(&mut self, cache: &ContextCache, taken: &[u32], spent_ms: f64) -> usize {
        let Some(speculator) = &mut self.speculator else { return 0 };
        speculator.take(taken, spent_ms);
        let next = self.committed + 1;
        if !self.table.reserve(cache, next + speculator.rows()) {
            speculator.truncate(self.table.blocks() * BLOCK_TOKENS - next);
        }
        speculator.rows()
    }

    /// The rows of a step: tokens, and their parents if they are not a chain.
    pub(crate) fn rows(&self, rows: usize, tokens: &mut Vec<u32>, parents: &mut Vec<i32>) {
        let own = rows.min(self.pending());
        tokens.extend(&self.tokens[self.committed..self.committed + own]);
        if rows > own
            && let Some(speculator) = &self.speculator
        {
            speculator.layout(tokens, parents);
        }
    }

    /// Applies a step's output for `rows` rows: the KV of tokens, and if none is pending, the next tokens from the
    /// logits. Returns the finish reason if the answer ends.
    pub(crate) fn advance(
        &mut self,
        step: &mut Computed<'_>,
        rows: usize,
        first: FirstRow,
    ) -> Option<FinishReason> {
        let own = rows.min(self.pending());
        self.computed = true;
        if own < self.pending() {
            self.keep_hidden(step.logits, first.step..first.step + own);
            self.commit(step.cache, own);
            return None;
        }
        if self.first_token.is_none() {
            self.saved_ms = step.cost.seconds(0, self.cache_hit) * 1e3;
            if let Some(speculator) = &self.speculator {
                speculator.tenant.earn(self.saved_ms);
            }
        }
        let answer_from = self.tokens.len();
        let mut kept = Vec::new();
        let all = self.wanted_logits(rows) == WantLogits::All;
        let ends = loop {
            let row = kept.last().copied().unwrap_or(0);
            let (next, ends) = self.next_token(step, row, first.logits + if all { row } else { 0 });
            kept.extend(next);
            if ends.is_some() || next.is_none() {
                break ends;
            }
        };
        self.output.send();
        // The last token was not fed, or its KV is not wanted any more. There is none if a grammar ended the answer.
        let fed = (self.tokens.len() - answer_from).saturating_sub(1);
        if let Some(speculator) = &mut self.speculator {
            speculator.observe(step.drafts.record_mut(), &self.tokens[answer_from..], &kept);
        }
        self.table.move_slots(&self.layout, self.committed + own, &kept[..fed]);
        let rows = (0..own).chain(kept[..fed].iter().copied());
        self.keep_hidden(step.logits, rows.map(|row| first.step + row));
        self.commit(step.cache, own + fed);
        ends
    }

    /// Appends the token after a row of the tree, whose logits are those of `logits_row`; returns the row that drafted
    /// it, and the finish reason if the answer ends with it.
    fn next_token(
        &mut self,
        step: &mut Computed<'_>,
        row: usize,
        logits_row: usize,
    ) -> (Option<usize>, Option<FinishReason>) {
        if let Some(token) = self.forced_token() {
            // The row may have no logits.
            let verdict = forced(self.speculator.as_ref(), row, token);
            return self.decided(step, verdict, None);
        }
        let compute = step.model.compute();
        let logits = step.logits.row_mut(logits_row);
        if let Some(speculator) = &mut self.speculator {
            step.drafts.learn(compute, speculator, &self.tokens, logits);
        }
        // Sampling changes the logits in place, reporting wants them as the model left them.
        let original = self.logprobs.map(|_| logits.to_vec());
        let Sequence { matcher, sampler, speculator, tokens, .. } = self;
        let chosen =
            choose(compute, matcher.as_deref_mut(), sampler, speculator.as_ref(), (row, tokens), logits);
        let Ok(verdict) = chosen else { return (None, Some(FinishReason::Length)) };
        let scores =
            original.zip(self.logprobs).map(|(logits, top)| logprobs(compute, &logits, verdict.token, top));
        self.decided(step, verdict, scores)
    }

    /// The next token, if there is only one and nobody asks how likely it was.
    fn forced_token(&self) -> Option<u32> {
        self.matcher.as_ref().filter(|_| self.logprobs.is_none())?.forced().next()
    }

    /// The rows of the sequence's work, of `rows` rows, that need logits.
    pub(crate) fn wanted_logits(&self, rows: usize) -> WantLogits {
        let pending = self.pending();
        if rows < pending {
            return WantLogits::None;
        }
        let forced = self.matcher.as_ref().filter(|_| self.logprobs.is_none()).map(|of| of.forced());
        let (drafts, known) = (rows - pending, forced.as_ref().map_or(0, |forced| forced.len()));
        let is_chain = match (&self.speculator, forced) {
            _ if drafts == 0 => true,
            (Some(speculator), Some(forced)) => speculator.is_chain_of(forced),
            _ => false,
        };
        match known.cmp(&drafts) {
            _ if !is_chain => WantLogits::All,
            // What follows the last row is forced too.
            Ordering::Greater => WantLogits::None,
            Ordering::Equal => WantLogits::Last,
            Ordering::Less => WantLogits::All,
        }
    }

    /// Appends the token that was decided on.
    fn decided(
        &mut self,
        step: &mut Computed<'_>,
        verdict: Verdict,
        scores: Option<Scores>,
    ) -> (Option<usize>, Option<FinishReason>) {
        let source = match (&mut self.speculator, verdict.row) {
            (Some(speculator), Some(row)) => {
                verdict.given_up.inspect(|&given_up| speculator.relaxed(given_up));
                Some(speculator.source(row))
            }
            _ => None,
        };
        let ends = self.push(step.tokenizer, verdict.token, scores, source);
        (verdict.row, ends)
    }

    /// Records that `rows` more tokens have their KV.
    fn commit(&mut self, cache: &ContextCache, rows: usize) {
        let before = self.committed / BLOCK_TOKENS;
        self.committed += rows;
        let Sequence { table, scope, tokens, committed, cache_use, resume_points, .. } = self;
        table.seal_full(cache, scope, tokens, *committed, cache_use.write);
        if cache_use.write {
            let passed = resume_points.iter().filter(|&&point| before < point && point <= table.sealed());
            passed.for_each(|&point| table.write_windowed(cache, point));
        }
        table.drop_windowed(cache, *committed, resume_points);
    }

    /// Appends and emits a token; returns the finish reason if the answer ends with it.
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        scores: Option<Scores>,
        source: Option<Source>,
    ) -> Option<FinishReason> {
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        self.sampler.accept(token);
        self.expected.iter_mut().for_each(|expected| expected.observe(token));
        let stops = self.output.push(tokenizer, token, scores.as_ref(), source);
        self.keep.token(scores);
        if stops {
            return Some(FinishReason::Stop);
        }
        let full = self.tokens.len() >= self.len_max;
        if let Some(matcher) = &mut self.matcher {
            let bytes = if tokenizer.is_hidden(token) { &[] } else { tokenizer.token_bytes(token) };
            match matcher.accept(token, bytes, !full) {
                Some(End::Complete) => return Some(FinishReason::Stop),
                Some(End::Limit) => return Some(FinishReason::Length),
                None => {}
            }
        }
        let answer = &self.tokens[self.prompt_len..];
        if let Some(period) = self.loop_guard.as_mut().and_then(|guard| guard.observe(answer)) {
            tracing::info!(
                period,
                tokens = answer.len(),
                "an answer repeats itself and is ended (--loop-tokens)"
            );
            // Under another setting it would go on.
            self.keep = Keep::default();
            return Some(FinishReason::Length);
        }
        full.then_some(FinishReason::Length)
    }

    /// Inserts what was computed into the caches and sends the summary. Nothing may be sent after it.
    pub(crate) fn finish(mut self, cache: &ContextCache, drafts: &mut Drafts, reason: FinishReason) {
        let (prompt, answer) = self.tokens.split_at(self.prompt_len);
        if self.cache_use.write {
            self.table.write_windowed(cache, self.table.sealed());
            self.table.share_tail(cache, &self.scope, &self.tokens, self.committed);
            if let Some(speculator) = &self.speculator {
                drafts.remember(speculator, prompt, answer);
            }
        }
        self.keep.answer(self.owner.tenant, prompt, answer, &reason);
        let (report, saved_ms) = self.drafted();
        let summary = Summary {
            reason,
            usage: self.usage(),
            timings: self.timings(&report),
            saved_ms,
            drafts: Box::new(report),
            ..Summary::default()
        };
        self.output.finish(summary);
    }

    /// Time that its grammar took so far.
    pub(crate) fn grammar_times(&self) -> GrammarTimes {
        self.matcher.as_ref().map_or_else(GrammarTimes::default, |matcher| matcher.times())
    }

    /// Tokens of the answer so far.
    pub(crate) fn answer_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Prompt tokens that came from a cache.
    pub(crate) fn cache_hit(&self) -> usize {
        self.cache_hit
    }

    /// Speculation counters so far, and the milliseconds saved by cached tokens.
    pub(crate) fn drafted(&self) -> (DraftReport, f64) {
        let report = self.speculator.as_ref().map_or_else(DraftReport::default, Speculator::report);
        let prediction = self.expected.as_ref().map(TextFollower::counts);
        (DraftReport { prediction, ..report }, self.saved_ms)
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len,
            cache_hit_tokens: self.cache_hit,
            completion_tokens: self.answer_len(),
        }
    }

    fn timings(&self, report: &DraftReport) -> Timings {
        let now = Instant::now();
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        let first = self.first_token.unwrap_or(now);
        Timings {
            queue_ms: ms(self.arrived, self.started),
            cache_n: self.cache_hit,
            prompt_n: self.prompt_len - self.cache_hit,
            prompt_ms: ms(self.started, first),
            predicted_n: self.answer_len(),
            predicted_ms: ms(first, now),
            draft_n: report.drafted,
            draft_n_accepted: report.accepted,
        }
    }
}
