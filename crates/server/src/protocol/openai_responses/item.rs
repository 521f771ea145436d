//! The items of a response's output: reasoning, a message, a function call.

use foretoken_engine::TokenLogprob;
use serde_json::{Value, json};

use crate::answer::{Part, Piece};
use crate::protocol::openai::logprobs::chat_entry;
use crate::report::Report;

/// An item, as far as it has been generated.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    /// Of a function call: the id that its output refers to.
    call_id: String,
    pub(super) part: Part,
}

impl Item {
    pub(super) fn new(part: Part, report: &Report) -> Item {
        let (prefix, call_id) = match &part {
            Part::Reasoning(_) => ("rs_", String::new()),
            Part::Text(_) => ("msg_", String::new()),
            Part::Call(_) => ("fc_", report.fresh_id("call_")),
        };
        Item { id: report.fresh_id(prefix), call_id, part }
    }

    /// The item without what deltas will bring.
    pub(super) fn begun(&self) -> Value {
        match &self.part {
            Part::Reasoning(_) => {
                json!({"id": self.id, "type": "reasoning", "summary": [], "status": "in_progress"})
            }
            Part::Text(_) => json!({
                "id": self.id, "type": "message", "role": "assistant", "content": [], "status": "in_progress",
            }),
            Part::Call(call) => self.call(&call.name, "", "in_progress"),
        }
    }

    /// The whole item. `complete`: no limit cut it.
    pub(super) fn done(&self, complete: bool) -> Value {
        let status = if complete { "completed" } else { "incomplete" };
        match &self.part {
            Part::Reasoning(piece) => json!({
                "id": self.id,
                "type": "reasoning",
                "summary": [],
                "content": [reasoning_part(&piece.text)],
                "status": status,
            }),
            Part::Text(piece) => json!({
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "content": [text_part(piece)],
                "status": status,
            }),
            Part::Call(call) => self.call(&call.name, &call.arguments, status),
        }
    }

    fn call(&self, name: &str, arguments: &str, status: &str) -> Value {
        json!({
            "id": self.id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": name,
            "arguments": arguments,
            "status": status,
        })
    }
}

pub(super) fn reasoning_part(text: &str) -> Value {
    json!({"type": "reasoning_text", "text": text})
}

pub(super) fn text_part(piece: &Piece) -> Value {
    json!({"type": "output_text", "text": piece.text, "annotations": [], "logprobs": logprobs(&piece.tokens)})
}

pub(super) fn logprobs(tokens: &[TokenLogprob]) -> Vec<Value> {
    tokens.iter().map(chat_entry).collect()
}
