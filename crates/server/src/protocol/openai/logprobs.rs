//! Log-probabilities in OpenAI's two shapes.

use foretoken_engine::{ScoredToken, TokenLogprob};
use serde_json::{Map, Value, json};

/// OpenAI's value for a log-probability of minus infinity, which JSON cannot express.
const LEAST: f32 = -9999.0;

fn number(token: &ScoredToken) -> Value {
    // `max` also turns NaN into the floor.
    f64::from(token.logprob.max(LEAST)).into()
}

/// A token as text. A partial UTF-8 character becomes a replacement character; `bytes` has the exact value.
pub(crate) fn text(token: &ScoredToken) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

/// An element of a chat choice's `logprobs.content`.
pub(crate) fn chat_entry(at: &TokenLogprob) -> Value {
    let entry =
        |token: &ScoredToken| json!({"token": text(token), "logprob": number(token), "bytes": token.bytes});
    let mut chosen = entry(&at.chosen);
    chosen["top_logprobs"] = at.top.iter().map(entry).collect();
    chosen
}

/// A completion choice's `logprobs`: four arrays with one element per token.
#[derive(Debug, Default)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
}

impl CompletionLogprobs {
    /// Adds a token whose text starts `offset` characters into the choice's text. The chosen token is always among the
    /// alternatives.
    pub(crate) fn push(&mut self, at: &TokenLogprob, offset: usize) {
        let mut top: Map<String, Value> = at.top.iter().map(|token| (text(token), number(token))).collect();
        top.entry(text(&at.chosen)).or_insert_with(|| number(&at.chosen));
        self.tokens.push(text(&at.chosen).into());
        self.token_logprobs.push(number(&at.chosen));
        self.top_logprobs.push(top.into());
        self.text_offset.push(offset.into());
    }

    pub(crate) fn into_value(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
