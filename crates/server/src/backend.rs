//! Interfaces to the engine and to the tokenizer with its chat template.
//!
//! They are traits so that this crate's tests run without a model. The invariant: no implementation blocks for long
//! except in [`Codec::encode`], [`Codec::render`], [`Generator::compile`] and [`Generator::explain`], which are called on
//! the blocking pool.

use std::fmt;
use std::sync::Arc;

use foretoken_cache::store::Store;
use foretoken_engine::{
    Answer, Constraint, EngineStats, Explained, Grammar, GrammarError, Request, SubmitError,
};
use foretoken_model::chat::ChatInput;

use crate::answer::ToolFormat;
use crate::cache_control::CacheControl;

/// Runs requests.
pub trait Generator: Send + Sync + 'static {
    /// Queues a request. Dropping the answer cancels it.
    ///
    /// # Errors
    /// The queue is full, the engine drains, the prompt does not fit, or a field cannot be honoured.
    fn submit(&self, request: Request) -> Result<Answer, SubmitError>;

    /// Compiles a constraint for requests to carry. Slow, so it is called on the blocking pool.
    ///
    /// # Errors
    /// What cannot be enforced; the message is returned to the client.
    fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError>;

    /// How much of a request's prompt is cached for its tenant. Read-only; may wait for the disk, so it is called on
    /// the blocking pool.
    fn explain(&self, request: &Request) -> Explained;

    /// A snapshot of counters and gauges.
    fn stats(&self) -> EngineStats;

    /// The cache.
    fn cache(&self) -> &dyn CacheControl;

    /// Rejects new requests from now on and finishes accepted ones.
    fn drain(&self);
}

/// Turns text and conversations into token ids and back.
pub trait Codec: Send + Sync + 'static {
    /// Token ids of `text`. `add_bos` puts the model's beginning-of-sequence token in front where the
    /// model wants one; `parse_special` parses control tokens in the text.
    fn encode(&self, text: &str, add_bos: bool, parse_special: bool) -> Vec<u32>;

    /// The text of `ids`, all below [`Codec::vocab_size`], control tokens included.
    fn decode(&self, ids: &[u32]) -> String;

    /// Tokens in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// The control token with this text, which answers do not show; none if there is none, or if it ends an answer.
    fn control_token(&self, _text: &str) -> Option<u32> {
        None
    }

    /// The prompt that the model's chat template makes of a conversation.
    ///
    /// # Errors
    /// The template fails on the conversation; the message says where and is returned to the client.
    fn render(&self, input: &ChatInput) -> Result<ChatPrompt, String>;
}

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatPrompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Whether the prompt ends inside `<think>`, so that the answer begins with reasoning.
    pub opens_reasoning: bool,
}

/// What a model file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// Weights.
    pub parameters: u64,
    /// Size of the file or files.
    pub bytes: u64,
    /// The type of most weights, such as `Q4_1`.
    pub quantization: String,
    /// Layers.
    pub layers: usize,
    /// Length of a hidden row.
    pub width: usize,
    /// Longest context it was trained on, in tokens.
    pub ctx_train: usize,
    /// The chat template.
    pub template: String,
    /// Text of the token that begins a prompt; may be empty.
    pub bos: String,
    /// Text of the token that ends an answer; may be empty.
    pub eos: String,
}

/// A loaded model, ready to be served.
#[derive(Clone)]
pub struct Served {
    /// The model's own name, used if the configuration has none.
    pub name: String,
    /// Hexadecimal digits that change with the weights; the first twelve become `system_fingerprint`.
    pub fingerprint: String,
    /// What its file says of itself.
    pub facts: ModelFacts,
    /// Context length: maximum tokens of prompt and response together.
    pub ctx: usize,
    /// The form in which it writes tool calls.
    pub tool_format: &'static ToolFormat,
    /// When the server began to serve it, in seconds since 1970.
    pub created: u64,
    /// The database with the ledger.
    pub store: Arc<Store>,
    /// The engine.
    pub generator: Arc<dyn Generator>,
    /// Its tokenizer and chat template.
    pub codec: Arc<dyn Codec>,
}

impl fmt::Debug for Served {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Served").field("name", &self.name).field("ctx", &self.ctx).finish_non_exhaustive()
    }
}
