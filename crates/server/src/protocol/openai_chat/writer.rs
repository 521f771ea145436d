//! Writes chat choices and chunks.

use foretoken_engine::TokenLogprob;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Call, Event, Finish, Piece};
use crate::error::ApiError;
use crate::protocol::openai::envelope::{Envelope, finish_reason};
use crate::protocol::openai::logprobs::chat_entry;
use crate::protocol::speculation;
use crate::report::Report;
use crate::run::Writer;
use crate::sse::Frame;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ChatWriter {
    envelope: Envelope,
    with: With,
    /// Per choice, once its stream has begun: its calls so far.
    calls_begun: Vec<Option<usize>>,
}

/// What choices have beside their message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct With {
    pub(crate) logprobs: bool,
    /// Who drafted the text.
    pub(crate) drafters: bool,
}

impl ChatWriter {
    pub(crate) fn new(n: usize, with: With, include_usage: bool) -> Self {
        let envelope =
            Envelope { object: "chat.completion", chunk_object: "chat.completion.chunk", include_usage };
        ChatWriter { envelope, with, calls_begun: vec![None; n] }
    }

    fn choice(&self, at: usize, answer: &Answer, report: &Report) -> Value {
        let (reasoning, text) = (answer.reasoning(), answer.text());
        let drafted = self.drafted(&reasoning, &text);
        let mut message = json!({"role": "assistant", "content": text.text});
        if !reasoning.text.is_empty() {
            message["reasoning_content"] = reasoning.text.into();
        }
        let call = |call: &Call| {
            json!({
                "id": report.fresh_id("call_"),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })
        };
        let calls: Vec<Value> = answer.calls().map(call).collect();
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
            if message["content"] == "" {
                message["content"] = Value::Null;
            }
        }
        let mut choice = json!({
            "index": at,
            "message": message,
            "logprobs": self.logprobs(&reasoning.tokens, &text.tokens),
            "finish_reason": finish_reason(&answer.finish),
        });
        if let Some(drafted) = drafted {
            choice["drafted"] = drafted;
        }
        choice
    }

    /// Who drafted the texts, if that was asked for.
    fn drafted(&self, reasoning: &Piece, content: &Piece) -> Option<Value> {
        if !self.with.drafters {
            return None;
        }
        let mut drafted = json!({"content": speculation::drafted(content)});
        if !reasoning.text.is_empty() {
            drafted["reasoning_content"] = speculation::drafted(reasoning);
        }
        Some(drafted)
    }

    fn logprobs(&self, reasoning: &[TokenLogprob], content: &[TokenLogprob]) -> Value {
        if !self.with.logprobs {
            return Value::Null;
        }
        let entries = |tokens: &[TokenLogprob]| tokens.iter().map(chat_entry).collect::<Vec<_>>();
        let mut logprobs = json!({"content": entries(content), "refusal": null});
        if !reasoning.is_empty() {
            logprobs["reasoning_content"] = entries(reasoning).into();
        }
        logprobs
    }

    /// A chunk whose delta has the text of one of two pieces.
    fn chunk(
        &self,
        at: usize,
        delta: Value,
        (reasoning, content): (&Piece, &Piece),
        report: &Report,
    ) -> Frame {
        let logprobs = self.logprobs(&reasoning.tokens, &content.tokens);
        let mut choice = json!({"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": null});
        if let Some(drafted) = self.drafted(reasoning, content) {
            choice["drafted"] = drafted;
        }
        self.envelope.chunk(choice, report)
    }

    /// The chunks of one step: reasoning in one of its own, since clients expect one or the other.
    fn chunks(&self, at: usize, step: Step, report: &Report) -> Vec<Frame> {
        let mut frames = Vec::new();
        if !step.reasoning.text.is_empty() {
            let delta = json!({"reasoning_content": step.reasoning.text});
            frames.push(self.chunk(at, delta, (&step.reasoning, &Piece::default()), report));
        }
        let mut delta = Map::new();
        if !step.text.text.is_empty() {
            delta.insert("content".into(), step.text.text.as_str().into());
        }
        if !step.calls.is_empty() {
            delta.insert("tool_calls".into(), step.calls.into());
        }
        if !delta.is_empty() {
            frames.push(self.chunk(at, delta.into(), (&Piece::default(), &step.text), report));
        }
        frames
    }
}

/// What one step gave a choice.
#[derive(Default)]
struct Step {
    reasoning: Piece,
    text: Piece,
    /// Deltas of calls.
    calls: Vec<Value>,
    finish: Option<Finish>,
}

impl Step {
    fn of(events: Vec<Event>, begun: &mut usize, report: &Report) -> Step {
        let mut step = Step::default();
        for event in events {
            match event {
                Event::Reasoning(piece) => step.reasoning.append(piece),
                Event::Text(piece) => step.text.append(piece),
                Event::CallBegin { name } => {
                    step.calls.push(json!({
                        "index": *begun,
                        "id": report.fresh_id("call_"),
                        "type": "function",
                        "function": {"name": name, "arguments": ""},
                    }));
                    *begun += 1;
                }
                Event::CallArguments(more) => step.add_arguments(begun.saturating_sub(1), &more),
                Event::CallEnd => {}
                Event::Finish(finish) => step.finish = Some(finish),
            }
        }
        step
    }

    /// Continues the delta of the same call, if this step has one.
    fn add_arguments(&mut self, index: usize, more: &str) {
        let last = self.calls.last_mut().filter(|call| call["index"] == index);
        match last.and_then(|call| call.pointer_mut("/function/arguments")) {
            Some(Value::String(arguments)) => arguments.push_str(more),
            _ => self.calls.push(json!({"index": index, "function": {"arguments": more}})),
        }
    }
}

impl Writer for ChatWriter {
    fn whole(&mut self, answers: Vec<Answer>, report: &Report) -> Value {
        let choices = answers.iter().enumerate().map(|(at, answer)| self.choice(at, answer, report));
        self.envelope.whole(choices.collect(), report)
    }

    fn opening(&mut self, _: &Report) -> Vec<Frame> {
        Vec::new()
    }

    fn events(&mut self, at: usize, events: Vec<Event>, report: &Report) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut begun = self.calls_begun[at].unwrap_or_else(|| {
            let delta = json!({"role": "assistant", "content": ""});
            let choice = json!({"index": at, "delta": delta, "logprobs": null, "finish_reason": null});
            frames.push(self.envelope.chunk(choice, report));
            0
        });
        let mut step = Step::of(events, &mut begun, report);
        self.calls_begun[at] = Some(begun);
        let finish = step.finish.take();
        frames.extend(self.chunks(at, step, report));
        if let Some(finish) = finish {
            let choice = json!({
                "index": at, "delta": {}, "logprobs": null, "finish_reason": finish_reason(&finish),
            });
            frames.push(self.envelope.last_chunk(choice, report));
        }
        frames
    }

    fn closing(&mut self, report: &Report) -> Vec<Frame> {
        self.envelope.closing(report)
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Frame> {
        Envelope::failure(error)
    }
}
