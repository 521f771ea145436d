//! Writes responses and their events.

use serde_json::{Map, Value, json};

use super::item::{Item, logprobs, reasoning_part, text_part};
use crate::answer::{Answer, Call, Event, Finish, Part, Piece};
use crate::error::ApiError;
use crate::protocol::openai::logprobs::chat_entry;
use crate::report::Report;
use crate::run::Writer;
use crate::sse::Frame;
use crate::state::unix_time_s;

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    InProgress,
    Completed,
    /// A length limit cut it.
    Incomplete,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ResponseWriter {
    /// What is repeated of the request.
    echo: Map<String, Value>,
    with_logprobs: bool,
    /// Events so far.
    sequence: usize,
    /// The item that is being generated.
    open: Option<Item>,
    /// Items that are done.
    output: Vec<Value>,
    end: Option<Status>,
}

impl ResponseWriter {
    pub(super) fn new(echo: Map<String, Value>, with_logprobs: bool) -> Self {
        ResponseWriter { echo, with_logprobs, sequence: 0, open: None, output: Vec::new(), end: None }
    }

    fn response(&self, status: Status, report: &Report) -> Value {
        let (name, details) = match status {
            Status::InProgress => ("in_progress", Value::Null),
            Status::Completed => ("completed", Value::Null),
            Status::Incomplete => ("incomplete", json!({"reason": "max_output_tokens"})),
        };
        let is_over = status != Status::InProgress;
        let mut response = json!({
            "id": report.id,
            "object": "response",
            "created_at": report.created,
            "completed_at": is_over.then(unix_time_s),
            "status": name,
            "error": null,
            "incomplete_details": details,
            "model": report.model,
            "output": self.output,
            "usage": is_over.then(|| usage(report)),
        });
        if let Value::Object(response) = &mut response {
            response.extend(self.echo.clone());
            if is_over {
                response.extend(report.extras());
            }
        }
        response
    }

    fn frame(&mut self, name: &'static str, mut data: Value) -> Frame {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        Frame::named(name, &data)
    }

    /// An event of the open item.
    fn item_frame(&mut self, name: &'static str, mut data: Value) -> Frame {
        if let Some(item) = &self.open {
            data["item_id"] = item.id.as_str().into();
        }
        data["output_index"] = self.output.len().into();
        self.frame(name, data)
    }

    /// Begins an item, unless one of its kind is open.
    fn begin(&mut self, part: Part, report: &Report, frames: &mut Vec<Frame>) {
        let same = |open: &Item| std::mem::discriminant(&open.part) == std::mem::discriminant(&part);
        if !matches!(part, Part::Call(_)) && self.open.as_ref().is_some_and(same) {
            return;
        }
        self.end_item(true, frames);
        let item = Item::new(part, report);
        let added = json!({"output_index": self.output.len(), "item": item.begun()});
        frames.push(self.frame("response.output_item.added", added));
        let empty = match &item.part {
            Part::Reasoning(_) => Some(reasoning_part("")),
            Part::Text(_) => Some(text_part(&Piece::default())),
            Part::Call(_) => None,
        };
        self.open = Some(item);
        if let Some(part) = empty {
            let added = json!({"content_index": 0, "part": part});
            frames.push(self.item_frame("response.content_part.added", added));
        }
    }

    fn end_item(&mut self, complete: bool, frames: &mut Vec<Frame>) {
        let Some(part) = self.open.as_ref().map(|item| item.part.clone()) else { return };
        let part = match part {
            Part::Reasoning(piece) => {
                let done = json!({"content_index": 0, "text": piece.text});
                frames.push(self.item_frame("response.reasoning_text.done", done));
                Some(reasoning_part(&piece.text))
            }
            Part::Text(piece) => {
                let done =
                    json!({"content_index": 0, "text": piece.text, "logprobs": logprobs(&piece.tokens)});
                frames.push(self.item_frame("response.output_text.done", done));
                Some(text_part(&piece))
            }
            Part::Call(call) => {
                let done = json!({"name": call.name, "arguments": call.arguments});
                frames.push(self.item_frame("response.function_call_arguments.done", done));
                None
            }
        };
        if let Some(part) = part {
            let done = json!({"content_index": 0, "part": part});
            frames.push(self.item_frame("response.content_part.done", done));
        }
        let Some(item) = self.open.take() else { return };
        let item = item.done(complete);
        let done = json!({"output_index": self.output.len(), "item": item});
        frames.push(self.frame("response.output_item.done", done));
        self.output.push(item);
    }

    fn event(&mut self, event: Event, report: &Report, frames: &mut Vec<Frame>) {
        match event {
            Event::Reasoning(piece) => {
                self.begin(Part::Reasoning(Piece::default()), report, frames);
                let delta = json!({"content_index": 0, "delta": piece.text});
                frames.push(self.item_frame("response.reasoning_text.delta", delta));
                self.append(&piece);
            }
            Event::Text(piece) => {
                self.begin(Part::Text(Piece::default()), report, frames);
                let logprobs: Vec<Value> = match self.with_logprobs {
                    true => piece.tokens.iter().map(chat_entry).collect(),
                    false => Vec::new(),
                };
                let delta = json!({"content_index": 0, "delta": piece.text, "logprobs": logprobs});
                frames.push(self.item_frame("response.output_text.delta", delta));
                self.append(&piece);
            }
            Event::CallBegin { name } => {
                self.begin(Part::Call(Call { name, arguments: String::new() }), report, frames);
            }
            Event::CallArguments(more) => {
                let delta = json!({"delta": more});
                frames.push(self.item_frame("response.function_call_arguments.delta", delta));
                if let Some(Item { part: Part::Call(call), .. }) = &mut self.open {
                    call.arguments.push_str(&more);
                }
            }
            // Whether a limit cut the call is known at the end of the answer or when something follows.
            Event::CallEnd => {}
            Event::Finish(finish) => {
                let end = end(&finish);
                self.end_item(end == Status::Completed, frames);
                self.end = Some(end);
            }
        }
    }

    fn append(&mut self, more: &Piece) {
        if let Some(Item { part: Part::Reasoning(piece) | Part::Text(piece), .. }) = &mut self.open {
            piece.append(more.clone());
        }
    }
}

impl Writer for ResponseWriter {
    fn whole(&mut self, answers: Vec<Answer>, report: &Report) -> Value {
        let answer = answers.into_iter().next().unwrap_or_default();
        let end = end(&answer.finish);
        let last = answer.parts.len().saturating_sub(1);
        let items = answer.parts.into_iter().enumerate();
        let done =
            |(at, part): (usize, Part)| Item::new(part, report).done(end == Status::Completed || at < last);
        self.output = items.map(done).collect();
        self.response(end, report)
    }

    fn opening(&mut self, report: &Report) -> Vec<Frame> {
        ["response.created", "response.in_progress"]
            .into_iter()
            .map(|name| {
                let response = self.response(Status::InProgress, report);
                self.frame(name, json!({"response": response}))
            })
            .collect()
    }

    fn events(&mut self, _: usize, events: Vec<Event>, report: &Report) -> Vec<Frame> {
        let mut frames = Vec::new();
        events.into_iter().for_each(|event| self.event(event, report, &mut frames));
        frames
    }

    fn closing(&mut self, report: &Report) -> Vec<Frame> {
        let end = self.end.unwrap_or(Status::Completed);
        let name = if end == Status::Incomplete { "response.incomplete" } else { "response.completed" };
        let response = self.response(end, report);
        vec![self.frame(name, json!({"response": response}))]
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Frame> {
        let data = json!({"code": error.code, "message": error.message, "param": error.param});
        vec![self.frame("error", data)]
    }
}

fn end(finish: &Finish) -> Status {
    if *finish == Finish::Length { Status::Incomplete } else { Status::Completed }
}

fn usage(report: &Report) -> Value {
    let counts = report.counts();
    json!({
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.hit, "cache_write_tokens": counts.written},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.prompt + counts.completion,
    })
}
