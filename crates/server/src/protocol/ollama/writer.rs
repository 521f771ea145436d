//! Writes answers, whole or as lines of JSON.

use foretoken_engine::TokenLogprob;
use serde_json::{Map, Value, json};

use super::error;
use super::time::rfc3339;
use crate::answer::{Answer, Call, Event, Finish, Piece};
use crate::error::ApiError;
use crate::protocol::openai::logprobs::chat_entry;
use crate::report::Report;
use crate::run::Writer;
use crate::sse::{Frame, Framing};
use crate::state::unix_time_s;

/// Where the text of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// In `message`.
    Chat,
    /// In `response`.
    Generate,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct LineWriter {
    shape: Shape,
    /// The call whose arguments are coming: a line has a whole one.
    call: Call,
    calls: usize,
}

/// What a line says.
#[derive(Default)]
struct Said {
    thinking: Piece,
    text: Piece,
    calls: Vec<Value>,
}

impl LineWriter {
    pub(crate) fn new(shape: Shape) -> Self {
        LineWriter { shape, call: Call::default(), calls: 0 }
    }

    fn line(&self, said: Said, report: &Report) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("model".into(), report.model.as_str().into());
        line.insert("created_at".into(), rfc3339(unix_time_s()).into());
        let mut logprobs = Vec::new();
        let mut entries = |tokens: &[TokenLogprob]| logprobs.extend(tokens.iter().map(chat_entry));
        entries(&said.thinking.tokens);
        entries(&said.text.tokens);
        let mut texts = Map::new();
        if !said.thinking.text.is_empty() {
            texts.insert("thinking".into(), said.thinking.text.into());
        }
        if !said.calls.is_empty() {
            texts.insert("tool_calls".into(), said.calls.into());
        }
        match self.shape {
            Shape::Chat => {
                texts.insert("role".into(), "assistant".into());
                texts.insert("content".into(), said.text.text.into());
                line.insert("message".into(), texts.into());
            }
            Shape::Generate => {
                line.extend(texts);
                line.insert("response".into(), said.text.text.into());
            }
        }
        if !logprobs.is_empty() {
            line.insert("logprobs".into(), logprobs.into());
        }
        line.insert("done".into(), false.into());
        line
    }

    fn event(&mut self, event: Event) -> Option<Said> {
        match event {
            Event::Reasoning(thinking) => Some(Said { thinking, ..Said::default() }),
            Event::Text(text) => Some(Said { text, ..Said::default() }),
            Event::CallBegin { name } => {
                self.call = Call { name, arguments: String::new() };
                None
            }
            Event::CallArguments(more) => {
                self.call.arguments.push_str(&more);
                None
            }
            Event::CallEnd => {
                let call = std::mem::take(&mut self.call);
                let calls = vec![call_value(&call, self.calls)];
                self.calls += 1;
                Some(Said { calls, ..Said::default() })
            }
            Event::Finish(_) => None,
        }
    }
}

impl Writer for LineWriter {
    const FRAMING: Framing = Framing::Lines;

    fn whole(&mut self, answers: Vec<Answer>, report: &Report) -> Value {
        let answer = answers.into_iter().next().unwrap_or_default();
        let calls = answer.calls().enumerate().map(|(at, call)| call_value(call, at)).collect();
        let said = Said { thinking: answer.reasoning(), text: answer.text(), calls };
        let mut line = self.line(said, report);
        line.extend(end(&answer.finish, report));
        line.into()
    }

    fn opening(&mut self, _: &Report) -> Vec<Frame> {
        Vec::new()
    }

    fn events(&mut self, _: usize, events: Vec<Event>, report: &Report) -> Vec<Frame> {
        let mut frames = Vec::new();
        for event in events {
            let over = if let Event::Finish(finish) = &event { Some(end(finish, report)) } else { None };
            let said = self.event(event);
            if said.is_none() && over.is_none() {
                continue;
            }
            let mut line = self.line(said.unwrap_or_default(), report);
            line.extend(over.unwrap_or_default());
            frames.push(Frame::data(Value::Object(line)));
        }
        frames
    }

    fn closing(&mut self, _: &Report) -> Vec<Frame> {
        Vec::new()
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Frame::data(error::body(error))]
    }
}

/// A call's arguments are an object; of those that a limit cut, the members that are complete.
fn call_value(call: &Call, index: usize) -> Value {
    json!({"function": {"index": index, "name": call.name, "arguments": Call::object(&call.arguments)}})
}

/// The end of an answer: the reason, tokens, times in nanoseconds, and the reports that every dialect has.
fn end(finish: &Finish, report: &Report) -> Map<String, Value> {
    let (counts, timings) = (report.counts(), report.timings());
    let ns = |ms: f64| (ms * 1e6).round().max(0.0) as u64;
    let reason = match finish {
        Finish::Stop | Finish::StopText(_) | Finish::Calls => "stop",
        Finish::Length => "length",
    };
    let end = json!({
        "done": true,
        "done_reason": reason,
        "total_duration": u64::try_from(report.elapsed().as_nanos()).unwrap_or(u64::MAX),
        "load_duration": 0,
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": ns(timings.prompt_ms),
        "eval_count": counts.completion,
        "eval_duration": ns(timings.predicted_ms),
    });
    let mut end = end.as_object().cloned().unwrap_or_default();
    end.extend(report.extras());
    end
}
