//! `/v1/completions`: the request, and the choices of its response.

use foretoken_engine::{TOP_LOGPROBS_MAX, TokenEvent};
use foretoken_model::tokenizer::TokenDecoder;
use serde_json::{Value, json};

use super::fields::{Fields, describe, token_ids};
use super::logprobs::CompletionLogprobs;
use super::request_fields::{self, Route};
use super::sampling::{Shared, TokenLimit};
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::run::Writer;

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
    pub(crate) shared: Shared,
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    /// Prepend the prompt to the response.
    pub(crate) echo: bool,
}

impl CompletionRequest {
    pub(crate) fn read(fields: Fields<'_>, config: &ServerConfig, vocab: usize) -> Result<Self, ApiError> {
        request_fields::check(fields, Route::Text)?;
        let prompts = prompts(fields, vocab)?;
        if prompts.len() > config.max_prompts {
            let message = format!("may hold at most {} prompts, got {}", config.max_prompts, prompts.len());
            return Err(ApiError::bad_value("prompt", message));
        }
        let mut shared = Shared::read(fields, config, vocab)?;
        if shared.limit == TokenLimit::Default {
            shared.request.max_tokens = Some(MAX_TOKENS_DEFAULT);
        }
        let top = fields.integer("logprobs", 0..=TOP_LOGPROBS_MAX as i64)?;
        shared.request.logprobs = top.map(|top| top as usize);
        let echo = fields.bool("echo")?.unwrap_or(false);
        if echo && top.is_some() {
            let message = "cannot be combined with 'logprobs': those of a prompt are not computed";
            return Err(ApiError::unsupported("echo", message));
        }
        let best_of = fields.integer("best_of", 1..=config.max_n as i64)?;
        if best_of.is_some_and(|best_of| best_of as usize != shared.n) {
            let message = "is not supported; ask for 'n' choices and pick one";
            return Err(ApiError::unsupported("best_of", message));
        }
        Ok(CompletionRequest { shared, prompts, echo })
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

#[derive(Debug)]
struct Choice {
    text: String,
    logprobs: CompletionLogprobs,
    /// Characters of all tokens so far.
    offset: usize,
    /// Decodes their bytes, which may end within a character.
    decoder: TokenDecoder,
}

/// Writes completion choices.
#[derive(Debug)]
pub(crate) struct CompletionWriter {
    choices: Vec<Choice>,
    with_logprobs: bool,
}

impl CompletionWriter {
    /// `echoes` holds the initial text of each choice.
    pub(crate) fn new(echoes: Vec<String>, with_logprobs: bool) -> Self {
        let choices = echoes
            .into_iter()
            .map(|text| Choice {
                text,
                logprobs: CompletionLogprobs::default(),
                offset: 0,
                decoder: TokenDecoder::new(true),
            })
            .collect();
        CompletionWriter { choices, with_logprobs }
    }

    fn take(&mut self, at: usize, finish_reason: Option<&str>) -> Value {
        let choice = &mut self.choices[at];
        let text = std::mem::take(&mut choice.text);
        let logprobs = std::mem::take(&mut choice.logprobs);
        let logprobs = if self.with_logprobs { logprobs.into_value() } else { Value::Null };
        json!({"index": at, "text": text, "logprobs": logprobs, "finish_reason": finish_reason})
    }
}

impl Writer for CompletionWriter {
    fn push(&mut self, at: usize, token: &TokenEvent) {
        let choice = &mut self.choices[at];
        choice.text.push_str(&token.text);
        if let Some(logprob) = &token.logprob {
            choice.logprobs.push(logprob, choice.offset);
            choice.offset += choice.decoder.push_bytes(&logprob.chosen.bytes).chars().count();
        }
    }

    fn finish(&mut self, at: usize, text: &str) {
        self.choices[at].text.push_str(text);
    }

    fn finish_reason(&self, _at: usize, stopped: bool) -> &'static str {
        if stopped { "stop" } else { "length" }
    }

    fn chunks(&mut self, at: usize) -> Vec<Value> {
        let nothing_new = self.choices[at].text.is_empty();
        if nothing_new { Vec::new() } else { vec![self.take(at, None)] }
    }

    fn last_chunk(&mut self, at: usize, finish_reason: &str) -> Value {
        let logprobs_left = !self.choices[at].logprobs.is_empty();
        let mut chunk = self.take(at, Some(finish_reason));
        if !logprobs_left {
            chunk["logprobs"] = Value::Null;
        }
        chunk
    }

    fn choice(&mut self, at: usize, finish_reason: &str) -> Value {
        self.take(at, Some(finish_reason))
    }

    fn reasoning_tokens(&self) -> usize {
        0
    }
}
