//! What is around the choices of a response, and the usage.

use serde_json::{Value, json};

use crate::answer::Finish;
use crate::error::ApiError;
use crate::report::Report;
use crate::sse::Frame;

/// The end of a stream, also after an error, so that clients waiting for it terminate.
const DONE: &str = "[DONE]";

/// Writes responses and chunks around choices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    /// `object` of a whole response.
    pub(crate) object: &'static str,
    /// `object` of a chunk.
    pub(crate) chunk_object: &'static str,
    /// Whether a last chunk without choices has the usage. The others then have `usage: null`, as OpenAI's do.
    pub(crate) include_usage: bool,
}

impl Envelope {
    /// A whole response.
    pub(crate) fn whole(&self, choices: Vec<Value>, report: &Report) -> Value {
        let mut body = around(self.object, choices, report);
        body["usage"] = usage(report);
        add_extras(&mut body, report);
        body
    }

    /// A chunk with a choice.
    pub(crate) fn chunk(&self, choice: Value, report: &Report) -> Frame {
        let mut chunk = around(self.chunk_object, vec![choice], report);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        Frame::data(chunk)
    }

    /// The last chunk of a choice. The last of all has the reports, unless one with the usage follows.
    pub(crate) fn last_chunk(&self, choice: Value, report: &Report) -> Frame {
        if self.include_usage || !report.is_over() {
            return self.chunk(choice, report);
        }
        let mut chunk = around(self.chunk_object, vec![choice], report);
        add_extras(&mut chunk, report);
        Frame::data(chunk)
    }

    /// What follows the last chunks of all choices.
    pub(crate) fn closing(&self, report: &Report) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.include_usage {
            let mut chunk = around(self.chunk_object, Vec::new(), report);
            chunk["usage"] = usage(report);
            add_extras(&mut chunk, report);
            frames.push(Frame::data(chunk));
        }
        frames.push(Frame::data(DONE));
        frames
    }

    /// An error in a stream.
    pub(crate) fn failure(error: &ApiError) -> Vec<Frame> {
        vec![Frame::data(error.body()), Frame::data(DONE)]
    }
}

fn around(object: &str, choices: Vec<Value>, report: &Report) -> Value {
    json!({
        "id": report.id,
        "object": object,
        "created": report.created,
        "model": report.model,
        "system_fingerprint": report.system_fingerprint,
        "choices": choices,
    })
}

fn add_extras(body: &mut Value, report: &Report) {
    if let Value::Object(body) = body {
        body.extend(report.extras());
    }
}

/// OpenAI's `usage` with DeepSeek's fields: hit and miss tokens together are the prompt tokens, always all three.
fn usage(report: &Report) -> Value {
    let counts = report.counts();
    let mut details = json!({"reasoning_tokens": counts.reasoning});
    if let Some((accepted, rejected)) = counts.prediction {
        details["accepted_prediction_tokens"] = accepted.into();
        details["rejected_prediction_tokens"] = rejected.into();
    }
    json!({
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_cache_hit_tokens": counts.hit,
        "prompt_cache_miss_tokens": counts.prompt - counts.hit,
        "prompt_tokens_details": {"cached_tokens": counts.hit},
        "completion_tokens_details": details,
    })
}

/// OpenAI's `finish_reason`.
pub(crate) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopText(_) => "stop",
        Finish::Calls => "tool_calls",
        Finish::Length => "length",
    }
}
