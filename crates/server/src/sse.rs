//! Server-sent events: a run as a stream of chunks.
//!
//! Every payload is one `data:` line of JSON; the last is `[DONE]`, also after an error, so that clients waiting for
//! it terminate. Comments keep an idle connection open. A client disconnect drops the stream and with it the run.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use crate::protocol::sampling::StreamOptions;
use crate::run::{Progress, Run, Writer};

const DONE: &str = "[DONE]";

/// The response that streams `run`.
pub(crate) fn response<W: Writer>(run: Run<W>, options: StreamOptions, keep_alive: Duration) -> Response {
    let streamer = Streamer { run, options, ready: VecDeque::new(), over: false };
    let events = stream::unfold(streamer, |mut streamer| async move {
        let data = streamer.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), streamer))
    });
    let keep_alive = KeepAlive::new().interval(keep_alive).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Disables response buffering in nginx.
    let buffering = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(buffering, HeaderValue::from_static("no"));
    response
}

struct Streamer<W> {
    run: Run<W>,
    options: StreamOptions,
    ready: VecDeque<String>,
    over: bool,
}

impl<W: Writer> Streamer<W> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.over {
                return None;
            }
            self.advance().await;
        }
    }

    async fn advance(&mut self) {
        match self.run.next().await {
            Ok(Some(Progress::Tokens(choice))) => {
                for chunk in self.run.writer.chunks(choice) {
                    self.send(json!([chunk]), false);
                }
            }
            Ok(Some(Progress::Finished(choice, reason))) => {
                for chunk in self.run.writer.chunks(choice) {
                    self.send(json!([chunk]), false);
                }
                let chunk = self.run.writer.last_chunk(choice, reason);
                let last = self.run.is_over() && !self.options.include_usage;
                self.send(json!([chunk]), last);
            }
            Ok(None) => {
                if self.options.include_usage {
                    self.send(json!([]), true);
                }
                self.end();
            }
            Err(error) => {
                self.ready.push_back(error.body().to_string());
                self.end();
            }
        }
    }

    /// Queues a chunk. The last one carries timings and cost, and the usage if requested; the others then have
    /// `usage: null`, as OpenAI's do.
    fn send(&mut self, choices: Value, last: bool) {
        let envelope = &self.run.envelope;
        let mut chunk = envelope.around(envelope.shape.chunk_object, choices);
        if self.options.include_usage {
            chunk["usage"] = if last { self.run.usage() } else { Value::Null };
        }
        if last {
            chunk["timings"] = self.run.bill.totals().timings();
            chunk["cost"] = self.run.bill.cost();
            self.run.add_reports(&mut chunk);
        }
        self.ready.push_back(chunk.to_string());
    }

    fn end(&mut self) {
        self.ready.push_back(DONE.into());
        self.over = true;
    }
}
