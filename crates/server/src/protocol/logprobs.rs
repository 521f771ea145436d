//! Log-probabilities in OpenAI's two shapes.

use foretoken_engine::{ScoredToken, TokenLogprob};
use serde_json::{Map, Value, json};

/// What OpenAI sends for "practically impossible"; JSON has no infinity.
const LEAST: f32 = -9999.0;

fn number(token: &ScoredToken) -> Value {
    // `max` also turns NaN into the floor.
    f64::from(token.logprob.max(LEAST)).into()
}

/// A token as text. Half a UTF-8 character shows as a replacement character; `bytes` has the truth.
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

/// A completion choice's `logprobs`: four arrays, one element per token each.
#[derive(Debug, Default)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
}

impl CompletionLogprobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Adds a token whose text starts `offset` characters into the choice's text. The chosen token is among
    /// the alternatives even where it is not one of the best.
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
