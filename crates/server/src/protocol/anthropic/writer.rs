//! Writes messages and their events.

use serde_json::{Map, Value, json};

use super::error;
use crate::answer::{Answer, Call, Event, Finish, Part};
use crate::error::ApiError;
use crate::report::Report;
use crate::run::Writer;
use crate::sse::Frame;

/// The open block of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    /// With its text so far.
    Thinking(String),
    Text,
    ToolUse,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct MessageWriter {
    has_begun: bool,
    open: Option<Block>,
    /// Blocks that were opened.
    blocks: usize,
}

impl MessageWriter {
    fn frame(name: &'static str, mut data: Value) -> Frame {
        data["type"] = name.into();
        Frame::named(name, &data)
    }

    fn begin_block(&mut self, block: Block, content: Value, frames: &mut Vec<Frame>) {
        self.end_block(frames);
        let start = json!({"index": self.blocks, "content_block": content});
        frames.push(Self::frame("content_block_start", start));
        self.open = Some(block);
        self.blocks += 1;
    }

    fn delta(&self, delta: Value, frames: &mut Vec<Frame>) {
        let delta = json!({"index": self.blocks.saturating_sub(1), "delta": delta});
        frames.push(Self::frame("content_block_delta", delta));
    }

    fn end_block(&mut self, frames: &mut Vec<Frame>) {
        let Some(block) = self.open.take() else { return };
        if let Block::Thinking(text) = block {
            self.delta(json!({"type": "signature_delta", "signature": signature(&text)}), frames);
        }
        frames.push(Self::frame("content_block_stop", json!({"index": self.blocks.saturating_sub(1)})));
    }

    fn event(&mut self, event: Event, report: &Report, frames: &mut Vec<Frame>) {
        match event {
            Event::Reasoning(piece) => {
                if !matches!(self.open, Some(Block::Thinking(_))) {
                    let content = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.begin_block(Block::Thinking(String::new()), content, frames);
                }
                if let Some(Block::Thinking(text)) = &mut self.open {
                    text.push_str(&piece.text);
                }
                self.delta(json!({"type": "thinking_delta", "thinking": piece.text}), frames);
            }
            Event::Text(piece) => {
                if self.open != Some(Block::Text) {
                    self.begin_block(Block::Text, json!({"type": "text", "text": ""}), frames);
                }
                self.delta(json!({"type": "text_delta", "text": piece.text}), frames);
            }
            Event::CallBegin { name } => {
                let id = report.fresh_id("toolu_");
                let content = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.begin_block(Block::ToolUse, content, frames);
            }
            Event::CallArguments(more) => {
                self.delta(json!({"type": "input_json_delta", "partial_json": more}), frames);
            }
            Event::CallEnd => self.end_block(frames),
            Event::Finish(finish) => {
                self.end_block(frames);
                let (reason, text) = stop_reason(&finish);
                let mut end = Value::Object(report.extras());
                end["delta"] = json!({"stop_reason": reason, "stop_sequence": text});
                end["usage"] = usage(report);
                frames.push(Self::frame("message_delta", end));
            }
        }
    }
}

impl Writer for MessageWriter {
    fn whole(&mut self, answers: Vec<Answer>, report: &Report) -> Value {
        let answer = answers.into_iter().next().unwrap_or_default();
        let (reason, text) = stop_reason(&answer.finish);
        let content = answer.parts.into_iter().map(|part| block(part, report)).collect();
        let mut message = message(content, report);
        message.insert("stop_reason".into(), reason.into());
        message.insert("stop_sequence".into(), text.into());
        message.extend(report.extras());
        message.into()
    }

    /// Nothing: a message begins with the tokens of its prompt that hit, which is known with its first token.
    fn opening(&mut self, _: &Report) -> Vec<Frame> {
        Vec::new()
    }

    fn events(&mut self, _: usize, events: Vec<Event>, report: &Report) -> Vec<Frame> {
        let mut frames = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            let start = json!({"message": message(Vec::new(), report)});
            frames.push(Self::frame("message_start", start));
        }
        events.into_iter().for_each(|event| self.event(event, report, &mut frames));
        frames
    }

    fn closing(&mut self, _: &Report) -> Vec<Frame> {
        vec![Self::frame("message_stop", json!({}))]
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Self::frame("error", error::body(error))]
    }
}

fn message(content: Vec<Value>, report: &Report) -> Map<String, Value> {
    let fields = [
        ("id", report.id.as_str().into()),
        ("type", "message".into()),
        ("role", "assistant".into()),
        ("model", report.model.as_str().into()),
        ("content", content.into()),
        ("stop_reason", Value::Null),
        ("stop_sequence", Value::Null),
        ("usage", usage(report)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Anthropic's `usage`: the prompt's tokens are those read from the cache, those written to it, and the rest.
fn usage(report: &Report) -> Value {
    let counts = report.counts();
    json!({
        "input_tokens": counts.prompt - counts.hit - counts.written,
        "cache_creation_input_tokens": counts.written,
        "cache_read_input_tokens": counts.hit,
        "output_tokens": counts.completion,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
    })
}

fn stop_reason(finish: &Finish) -> (&'static str, Option<&str>) {
    match finish {
        Finish::Stop => ("end_turn", None),
        Finish::StopText(text) => ("stop_sequence", Some(text)),
        Finish::Calls => ("tool_use", None),
        Finish::Length => ("max_tokens", None),
    }
}

fn block(part: Part, report: &Report) -> Value {
    match part {
        Part::Reasoning(piece) => {
            json!({"type": "thinking", "thinking": piece.text, "signature": signature(&piece.text)})
        }
        Part::Text(piece) => json!({"type": "text", "text": piece.text}),
        Part::Call(call) => {
            let input = Call::object(&call.arguments);
            json!({"type": "tool_use", "id": report.fresh_id("toolu_"), "name": call.name, "input": input})
        }
    }
}

/// Clients send it back with the block and want it not to be empty; nothing depends on it here.
fn signature(thinking: &str) -> String {
    blake3::hash(thinking.as_bytes()).to_hex().to_string()
}
