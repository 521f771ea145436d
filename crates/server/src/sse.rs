//! Server-sent events: a run as a stream.
//!
//! What an event is called and holds is the dialect's business. Comments keep an idle connection open. A client
//! disconnect drops the stream and with it the run.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use crate::run::{Run, Writer};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its name, in dialects whose events have one.
    name: Option<&'static str>,
    data: String,
}

impl Frame {
    /// An event without a name.
    pub(crate) fn data(data: impl ToString) -> Frame {
        Frame { name: None, data: data.to_string() }
    }

    /// An event whose name is also in its data, as `type`.
    pub(crate) fn named(name: &'static str, data: &Value) -> Frame {
        Frame { name: Some(name), data: data.to_string() }
    }

    fn into_event(self) -> Event {
        let event = match self.name {
            Some(name) => Event::default().event(name),
            None => Event::default(),
        };
        event.data(self.data)
    }
}

/// The response that streams `run`.
pub(crate) fn response<W: Writer>(run: Run, mut writer: W, keep_alive: Duration) -> Response {
    let ready = writer.opening(&run.report).into();
    let streamer = Streamer { run, writer, ready, over: false };
    let events = stream::unfold(streamer, |mut streamer| async move {
        let frame = streamer.next().await?;
        Some((Ok::<_, Infallible>(frame.into_event()), streamer))
    });
    let keep_alive = KeepAlive::new().interval(keep_alive).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Disables response buffering in nginx.
    let buffering = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(buffering, HeaderValue::from_static("no"));
    response
}

struct Streamer<W> {
    run: Run,
    writer: W,
    ready: VecDeque<Frame>,
    over: bool,
}

impl<W: Writer> Streamer<W> {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.over {
                return None;
            }
            let frames = match self.run.next().await {
                Ok(Some((answer, events))) => self.writer.events(answer, events, &self.run.report),
                Ok(None) => {
                    self.over = true;
                    self.writer.closing(&self.run.report)
                }
                Err(error) => {
                    self.over = true;
                    self.writer.failure(&error)
                }
            };
            self.ready.extend(frames);
        }
    }
}
