//! Reads a completion request.

use foretoken_engine::TOP_LOGPROBS_MAX;
use serde_json::Value;

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::Options;
use crate::protocol::fields::{Fields, describe, token_ids};
use crate::protocol::openai::options::{Shared, TokenLimit};
use crate::protocol::request_fields::{self, Route};

/// OpenAI's default of `max_tokens`.
const MAX_TOKENS_DEFAULT: usize = 16;

/// A prompt as sent by the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// Text to tokenise.
    Text(String),
    /// Validated token ids.
    Tokens(Vec<u32>),
}

/// A validated completion request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    /// Everything but the prompts.
    pub(crate) options: Options,
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    /// Prepend the prompt to the response.
    pub(crate) echo: bool,
    /// Send usage in a last chunk without choices.
    pub(crate) include_usage: bool,
}

impl CompletionRequest {
    pub(crate) fn read(fields: Fields<'_>, config: &ServerConfig, vocab: usize) -> Result<Self, ApiError> {
        request_fields::check(fields, Route::Text)?;
        let prompts = prompts(fields, vocab)?;
        if prompts.len() > config.max_prompts {
            let message = format!("may hold at most {} prompts, got {}", config.max_prompts, prompts.len());
            return Err(ApiError::bad_value("prompt", message));
        }
        let Shared { mut options, limit, include_usage } = Shared::read(fields, config, vocab)?;
        if limit == TokenLimit::Default {
            options.request.max_tokens = Some(MAX_TOKENS_DEFAULT);
        }
        let top = fields.integer("logprobs", 0..=TOP_LOGPROBS_MAX as i64)?;
        options.request.logprobs = top.map(|top| top as usize);
        let echo = fields.bool("echo")?.unwrap_or(false);
        if echo && top.is_some() {
            let message = "cannot be combined with 'logprobs': those of a prompt are not computed";
            return Err(ApiError::unsupported("echo", message));
        }
        let best_of = fields.integer("best_of", 1..=config.max_n as i64)?;
        if best_of.is_some_and(|best_of| best_of as usize != options.n) {
            let message = "is not supported; ask for 'n' choices and pick one";
            return Err(ApiError::unsupported("best_of", message));
        }
        Ok(CompletionRequest { options, prompts, echo, include_usage })
    }
}

/// The validated prompts of a body.
pub(crate) fn prompts(fields: Fields<'_>, vocab: usize) -> Result<Vec<Prompt>, ApiError> {
    let wanted = "a string, an array of strings, an array of token ids, or an array of those";
    let value =
        fields.get("prompt").ok_or_else(|| ApiError::missing("prompt", "send the text to be continued"))?;
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(items) if !items.is_empty() => items,
        other => {
            let message = format!("must be {wanted} and not empty, got {}", describe(other));
            return Err(ApiError::bad_value("prompt", message));
        }
    };
    if items[0].is_number() {
        return Ok(vec![Prompt::Tokens(token_ids("prompt", items, vocab)?)]);
    }
    let prompt = |(at, item): (usize, &Value)| match item {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => Ok(Prompt::Tokens(token_ids(&format!("prompt[{at}]"), ids, vocab)?)),
        other => {
            let message = format!("must be a string or an array of token ids, got {}", describe(other));
            Err(ApiError::bad_value(format!("prompt[{at}]"), message))
        }
    };
    items.iter().enumerate().map(prompt).collect()
}
