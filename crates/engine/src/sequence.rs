//! One request on its way through the engine: its tokens, its KV, its sampler and its caller.
//!
//! What is left to compute is never stored but derived: the tokens beyond `committed`. One such token means
//! decoding, more mean that a prompt (or a preempted sequence) is being read.

use std::time::Instant;

use foretoken_model::tokenizer::{TokenDecoder, Tokenizer};
use tokio::sync::mpsc;

use crate::api::{
    CacheUse, Event, FinishReason, Request, ScoredToken, Summary, Timings, TokenEvent, TokenLogprob, Usage,
};
use crate::sampler::Sampler;
use crate::stop::{Scan, StopMatcher};
use crate::table::BlockTable;
use foretoken_cache::{BLOCK_TOKENS, ContextCache, RecomputeCost, Restore, Scope};

/// A request that waits for a place.
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Tokens of prompt and answer together, at most.
    pub(crate) len_max: usize,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) arrived: Instant,
    pub(crate) scope: Scope,
}

/// A request that steps work on.
pub(crate) struct Sequence {
    /// Prompt and answer.
    pub(crate) tokens: Vec<u32>,
    /// Tokens whose KV is written.
    pub(crate) committed: usize,
    pub(crate) table: BlockTable,
    /// Blocks on their way from a slower tier; the sequence waits for them.
    pub(crate) restore: Option<Restore>,
    /// Another sequence that is computing tokens this one needs too, and up to where.
    pub(crate) follows: Option<(u64, usize)>,
    /// A number that no other sequence of this engine has.
    pub(crate) id: u64,
    scope: Scope,
    cache_use: CacheUse,
    /// Prompt tokens that were cached before the sequence computed its first one.
    cache_hit: usize,
    /// Whether it has computed anything yet.
    computed: bool,
    pub(crate) sampler: Sampler,
    /// Alternatives to report per token, if any are.
    pub(crate) logprobs: Option<usize>,
    prompt_len: usize,
    len_max: usize,
    stop: StopMatcher,
    stop_ids: Vec<u32>,
    ignore_eos: bool,
    show_control: bool,
    decoder: TokenDecoder,
    events: mpsc::Sender<Event>,
    arrived: Instant,
    started: Instant,
    first_token: Option<Instant>,
}

/// Log-probabilities of a sampled token: its own, and the best ones' `(id, log-probability)`.
pub(crate) type Scores = (f32, Vec<(u32, f32)>);

impl Sequence {
    pub(crate) fn new(job: Job, id: u64) -> Sequence {
        let Job { request, len_max, events, arrived, scope } = job;
        Sequence {
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            committed: 0,
            table: BlockTable::default(),
            restore: None,
            follows: None,
            id,
            scope,
            cache_use: request.cache,
            cache_hit: 0,
            computed: false,
            sampler: Sampler::new(request.sampling),
            logprobs: request.logprobs,
            len_max,
            stop: StopMatcher::new(request.stop),
            stop_ids: request.stop_ids,
            ignore_eos: request.ignore_eos,
            show_control: request.show_control,
            decoder: TokenDecoder::new(request.show_control),
            events,
            arrived,
            started: Instant::now(),
            first_token: None,
        }
    }

    /// Tokens whose KV is still to be computed; at least one while the sequence runs.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.committed
    }

    /// When a step first could work on it.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Whether the caller went away.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Gives up all KV; the next steps compute again what the cache does not keep.
    pub(crate) fn preempt(&mut self) {
        self.table = BlockTable::default();
        self.committed = 0;
        self.restore = None;
        self.follows = None;
    }

    /// Begins from what the cache knows of the tokens, the last one excepted: its logits are needed. Starts to
    /// bring in what slower tiers have, where that is quicker than computing it.
    pub(crate) fn attach(&mut self, cache: &ContextCache, cost: RecomputeCost, restore: bool) {
        self.follows = None;
        if !self.cache_use.read {
            return;
        }
        let found = cache.lookup(&self.scope, &self.tokens[..self.tokens.len() - 1]);
        if restore {
            self.restore = cache.begin_restore(found.below, &cache.rates(cost));
        }
        if self.restore.is_none() {
            (self.table, self.committed) = BlockTable::from_match(cache, found.ram);
            if !self.computed {
                self.cache_hit = self.committed;
            }
        } else {
            // Held so that they are still there when the rest has come.
            let full = foretoken_cache::Match { branch: None, ..found.ram };
            (self.table, self.committed) = BlockTable::from_match(cache, full);
        }
    }

    /// Whether it has more than one token to read and waits for nobody.
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

    /// Records that `rows` more tokens have their KV.
    pub(crate) fn commit(&mut self, cache: &ContextCache, rows: usize) {
        self.committed += rows;
        self.computed = true;
        let Sequence { table, scope, tokens, committed, cache_use, .. } = self;
        table.seal_full(cache, scope, tokens, *committed, cache_use.write);
    }

    /// Appends a sampled token, tells the caller, and says whether and why the answer ends with it.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        scores: Option<Scores>,
    ) -> Option<FinishReason> {
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        self.sampler.accept(token);
        let ends = self.stop_ids.contains(&token) || (tokenizer.is_eog(token) && !self.ignore_eos);
        let logprob = scores.map(|scores| report(tokenizer, token, scores));
        let text = self.decoder.push(tokenizer, token);
        if ends {
            if self.show_control {
                self.send(TokenEvent { id: token, text, logprob });
            }
            return Some(FinishReason::Stop);
        }
        let (text, stopped) = match self.stop.push(&text) {
            Scan::Release(text) => (text, false),
            Scan::Stop(text) => (text, true),
        };
        self.send(TokenEvent { id: token, text, logprob });
        if stopped {
            // What the decoder still holds came after the stop text.
            self.decoder = TokenDecoder::new(self.show_control);
            return Some(FinishReason::Stop);
        }
        (self.tokens.len() >= self.len_max).then_some(FinishReason::Length)
    }

    /// Sends the summary. Nothing may be sent after it.
    pub(crate) fn finish(mut self, cache: &ContextCache, cost: RecomputeCost, reason: FinishReason) {
        if self.cache_use.write {
            self.table.share_tail(cache, &self.scope, &self.tokens, self.committed);
        }
        let mut text = self.decoder.flush();
        text = match self.stop.push(&text) {
            Scan::Release(text) => text + &self.stop.flush(),
            Scan::Stop(text) => text,
        };
        let summary = Summary {
            reason,
            text,
            usage: self.usage(),
            timings: self.timings(),
            replayed: false,
            saved_ms: cost.seconds(0, self.cache_hit) * 1e3,
        };
        // A caller that is gone needs no summary.
        let _ = self.events.try_send(Event::Done(summary));
    }

    fn send(&self, event: TokenEvent) {
        // The channel holds every event of the answer, so this fails only for a caller that is gone; the next
        // step retires the sequence.
        let _ = self.events.try_send(Event::Token(event));
    }

    /// Tokens of the answer so far.
    pub(crate) fn answer_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Prompt tokens that came from a cache.
    pub(crate) fn cache_hit(&self) -> usize {
        self.cache_hit
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len,
            cache_hit_tokens: self.cache_hit,
            completion_tokens: self.answer_len(),
        }
    }

    fn timings(&self) -> Timings {
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
            draft_n: 0,
            draft_n_accepted: 0,
        }
    }
}

fn report(tokenizer: &Tokenizer, token: u32, (logprob, top): Scores) -> TokenLogprob {
    let scored = |id, logprob| ScoredToken { id, logprob, bytes: tokenizer.token_bytes(id).to_vec() };
    TokenLogprob {
        chosen: scored(token, logprob),
        top: top.into_iter().map(|(id, logprob)| scored(id, logprob)).collect(),
    }
}
