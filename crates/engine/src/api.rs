//! The public types of the engine: a request goes in, events come out.
//!
//! Plain data and one receiver; nothing here knows about HTTP, and nothing here touches a model.
//! The invariant: an [`Answer`] yields any number of [`Event::Token`]s and then exactly one
//! [`Event::Done`], unless the caller drops it, which cancels the sequence within one step.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::grammar::Grammar;

pub use crate::speculate::settings::{
    DRAFT_POSITIONS, DraftReport, DraftTotals, MAX_DRAFT_LIMIT, Policy, RELIABILITY_CLASSES, Reliability,
    Source, SourceReport, SourceTotals, Sources, Speculation, SpeculationChoice, Thresholds,
};

/// Longest list of alternatives that `logprobs` may ask for.
pub const TOP_LOGPROBS_MAX: usize = 20;

/// One prompt to continue.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Token ids of the whole prompt, beginning-of-sequence included where the model wants one.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Upper bound on tokens of the answer; `None` means as many as the context holds.
    pub max_tokens: Option<usize>,
    /// The answer ends before the first of these texts.
    pub stop: Vec<String>,
    /// The answer ends at the first of these tokens, as at an end-of-generation token.
    pub stop_ids: Vec<u32>,
    /// Keep going past end-of-generation tokens.
    pub ignore_eos: bool,
    /// Report log-probabilities: of the chosen token and of this many best ones.
    pub logprobs: Option<usize>,
    /// Render control tokens in the text instead of hiding them.
    pub show_control: bool,
    /// Control tokens that are rendered even so, for whoever looks for what they mark.
    pub shown: Arc<[u32]>,
    /// What the answer must be; `None` is anything.
    pub grammar: Option<Grammar>,
    /// The tenant. No cache entry is shared between two tenants.
    pub tenant: String,
    /// The API key that sent it, under any name that tells keys apart. Places and the queue are shared over callers
    /// first, then over the tenants of each.
    pub caller: String,
    /// What the request may do with the caches.
    pub cache: CacheUse,
    /// What the caller expects the answer to be, as tokens: a draft, never an instruction. Empty is none.
    pub prediction: Vec<u32>,
    /// Overrides of the engine's speculation settings.
    pub speculation: SpeculationChoice,
    /// The answer is discarded: the response store is neither read nor written, and nothing is kept to draft from.
    pub forgettable: bool,
    /// Where the engine records how much of the prompt it has read. One per request: a clone of a request shares it.
    pub progress: Arc<PromptProgress>,
}

/// How much of a prompt the engine has read so far, for whoever bills a request that ended without a summary.
#[derive(Debug, Default)]
pub struct PromptProgress {
    hit: AtomicUsize,
    read: AtomicUsize,
}

impl PromptProgress {
    /// Records that the first `read` tokens of the prompt are computed, of which a cache supplied `hit`.
    pub fn record(&self, hit: usize, read: usize) {
        self.hit.store(hit, Relaxed);
        self.read.fetch_max(read, Relaxed);
    }

    /// Tokens that a cache supplied, and tokens that were computed. Nothing before the first step.
    pub fn counts(&self) -> (usize, usize) {
        let read = self.read.load(Relaxed);
        let hit = self.hit.load(Relaxed).min(read);
        (hit, read - hit)
    }
}

/// How a request uses the caches. By default it reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheUse {
    /// Resume from cached blocks.
    pub read: bool,
    /// Keep computed blocks for later requests.
    pub write: bool,
}

impl Default for CacheUse {
    fn default() -> Self {
        CacheUse { read: true, write: true }
    }
}

/// How the next token is chosen. The default is OpenAI's: temperature 1, no truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 picks the most likely token; otherwise logits are divided by it. `0..=2` in OpenAI's API,
    /// any finite value from 0 here.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches `top_p`, in `0 < top_p <= 1`.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely one, in `0..=1`.
    pub min_p: f32,
    /// Subtracted once from the logit of every token already in the answer, in `-2..=2`.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the answer, in `-2..=2`.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the last
    /// `repetition_window` tokens of prompt and answer (CTRL, arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// How far back `repetition_penalty` looks, in tokens.
    pub repetition_window: usize,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes the text reproducible: the same seed and prompt give the same bytes, whatever else runs.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// An invalid parameter: its name and the accepted values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct InvalidParam {
    /// The field's name as OpenAI's API spells it.
    pub param: &'static str,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl Sampling {
    /// Whether the same request gives the same answer each time: greedy, or a seed was given.
    pub fn is_deterministic(&self) -> bool {
        self.temperature == 0.0 || self.seed.is_some()
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first field that is out of range, by name.
    pub fn validate(&self) -> Result<(), InvalidParam> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
        ];
        for (param, value, low, high) in ranges {
            // Written so that NaN fails too.
            if !(low..=high).contains(&value) {
                let message = format!("must be between {low} and {high}, got {value}");
                return Err(InvalidParam { param, message });
            }
        }
        if self.top_p == 0.0 {
            let message = "must be greater than 0; for greedy decoding set temperature to 0".into();
            return Err(InvalidParam { param: "top_p", message });
        }
        match self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            Some((id, _)) => Err(InvalidParam {
                param: "logit_bias",
                message: format!("the bias of token {id} must be a finite number"),
            }),
            None => Ok(()),
        }
    }
}

/// Why a request was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many requests are waiting already, of all callers or of this one.
    #[error("too many requests are waiting; try again in {retry_after_s} s")]
    QueueFull {
        /// Estimated time until there is room, in seconds, at least 1.
        retry_after_s: u64,
    },
    /// The engine is draining: it finishes what it has and accepts no new requests.
    #[error("the server is shutting down; send the request to another one or try again later")]
    Draining,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens and the context holds {ctx} tokens for prompt and answer; \
         shorten the prompt or raise --ctx"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens the context holds.
        ctx: usize,
    },
    /// An invalid field.
    #[error(transparent)]
    Invalid(#[from] InvalidParam),
}

/// Something that happened to a request.
#[derive(Clone, Debug)]
pub enum Event {
    /// The next tokens of the answer, at least one: all that one step gave, since waking the caller for each of them
    /// would take longer than some steps do.
    Tokens(Vec<TokenEvent>),
    /// The answer is complete; nothing follows.
    Done(Summary),
}

/// One token of an answer.
#[derive(Clone, Debug)]
pub struct TokenEvent {
    /// The token's id.
    pub id: u32,
    /// Text that became certain with this token. Empty while a UTF-8 character or a possible stop text
    /// is incomplete; what is held back comes with a later token or with [`Summary::text`].
    pub text: String,
    /// The bytes of the answer's text that the token has a part in, counted from the answer's start. A token with a
    /// part of a character has a part in all of it. `None` if the token has no text in the answer. It may reach beyond the
    /// end of an answer that a stop text cut.
    pub span: Option<Range<usize>>,
    /// Set when the request asked for it and the token has text in the answer: the tokens of a stop text, of an
    /// incomplete character at the end and hidden control tokens have none.
    pub logprob: Option<TokenLogprob>,
    /// The source that drafted it; `None` if it was not drafted.
    pub source: Option<Source>,
}

/// Log-probabilities at one position, natural logarithm, under the model's own distribution
/// (before temperature, penalties and cut-offs).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The chosen token.
    pub chosen: ScoredToken,
    /// The most likely tokens, best first.
    pub top: Vec<ScoredToken>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// The token's id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The bytes it stands for; not always UTF-8 by themselves.
    pub bytes: Vec<u8>,
}

/// How an answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token, a stop token, a stop text, or the end of a grammar.
    #[default]
    Stop,
    /// `max_tokens`, the end of the context, or a grammar that would have taken too much work to go on with.
    Length,
    /// The engine failed; the text says why.
    Error(String),
}

/// The end of an answer.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Why it ended.
    pub reason: FinishReason,
    /// Text that was held back and turned out to belong to the answer.
    pub text: String,
    /// The stop text that ended it.
    pub stopped_by: Option<String>,
    /// Token counts.
    pub usage: Usage,
    /// Latency by phase.
    pub timings: Timings,
    /// Whether the answer came from the response store and no token of it was computed.
    pub replayed: bool,
    /// Milliseconds of prefill that cached prompt tokens saved, by this machine's measured speed.
    pub saved_ms: f64,
    /// Speculation counters.
    pub drafts: Box<DraftReport>,
}

/// Token counts of a request; `cache_hit_tokens <= prompt_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, tokens whose KV came from a cache.
    pub cache_hit_tokens: usize,
    /// Tokens of the answer, the end-of-generation token included.
    pub completion_tokens: usize,
}

/// Latency of a request by phase, named as in llama.cpp.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Milliseconds from arrival to the first step that worked on it.
    pub queue_ms: f64,
    /// Prompt tokens taken from a cache.
    pub cache_n: usize,
    /// Prompt tokens that were computed.
    pub prompt_n: usize,
    /// Milliseconds from the first step to the first token.
    pub prompt_ms: f64,
    /// Tokens of the answer.
    pub predicted_n: usize,
    /// Milliseconds from the first token to the last.
    pub predicted_ms: f64,
    /// Tokens that drafters proposed.
    pub draft_n: usize,
    /// Of those, accepted tokens.
    pub draft_n_accepted: usize,
}

/// The events of one request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct Answer {
    events: mpsc::Receiver<Event>,
}

impl Answer {
    /// A pair of ends. The engine never waits on the sender, so `capacity` must cover every event of the
    /// answer.
    pub fn channel(capacity: usize) -> (mpsc::Sender<Event>, Answer) {
        let (sender, events) = mpsc::channel(capacity);
        (sender, Answer { events })
    }

    /// The next event, or `None` after [`Event::Done`] (or if the engine died).
    pub async fn recv(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// [`Answer::recv`] for threads that are not part of an async runtime.
    pub fn recv_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}

/// Upper bounds of the classes of [`GrammarTimes`], in seconds; the last class has none.
pub const GRAMMAR_BOUNDS_S: [f64; 11] =
    [10e-6, 25e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 5e-3, 20e-3];

/// How long a constraint took, token by token of the answers: to follow the answer and to find what may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GrammarTimes {
    /// By [`GRAMMAR_BOUNDS_S`].
    pub classes: [u64; GRAMMAR_BOUNDS_S.len() + 1],
    /// All together, in seconds.
    pub seconds: f64,
}

impl GrammarTimes {
    /// Records a token.
    pub(crate) fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.classes[GRAMMAR_BOUNDS_S.iter().take_while(|bound| **bound < seconds).count()] += 1;
        self.seconds += seconds;
    }

    /// Number of tokens.
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }
}

impl std::ops::AddAssign for GrammarTimes {
    fn add_assign(&mut self, more: GrammarTimes) {
        self.classes.iter_mut().zip(more.classes).for_each(|(sum, one)| *sum += one);
        self.seconds += more.seconds;
    }
}

/// A snapshot of counters and gauges since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Running sequences.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Share of KV blocks in use, `0..=1`.
    pub kv_usage: f64,
    /// Prompt tokens of admitted requests, cached ones included.
    pub prompt_tokens_total: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries_total: u64,
    /// Prompt tokens taken from the prefix cache.
    pub prefix_hits_total: u64,
    /// Tokens generated.
    pub generation_tokens_total: u64,
    /// Preemptions: a sequence released its blocks and was resumed later.
    pub preemptions_total: u64,
    /// Requests answered from the response store.
    pub replayed_total: u64,
    /// Speculation counters of finished answers.
    pub drafts: DraftTotals,
    /// Steps executed.
    pub steps_total: u64,
    /// Time that constraints took, of answers that are over.
    pub grammar: GrammarTimes,
    /// Requests that ended with [`FinishReason::Stop`].
    pub finished_stop_total: u64,
    /// Requests that ended with [`FinishReason::Length`].
    pub finished_length_total: u64,
    /// Requests that ended with [`FinishReason::Error`].
    pub finished_error_total: u64,
    /// Requests whose client disconnected.
    pub finished_abort_total: u64,
}
