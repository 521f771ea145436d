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

/// How a stream is cut into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Events,
    /// A line of JSON each.
    Lines,
}

/// One event, or one line.
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

    pub(crate) fn into_line(mut self) -> String {
        self.data.push('\n');
        self.data
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
pub(crate) fn response<W: Writer>(run: Run, writer: W, keep_alive: Duration) -> Response {
    let events = stream::unfold(Streamer::new(run, writer), |mut streamer| async move {
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

/// The frames of a run.
pub(crate) struct Streamer<W> {
    run: Run,
    writer: W,
    ready: VecDeque<Frame>,
    over: bool,
}

impl<W: Writer> Streamer<W> {
    pub(crate) fn new(run: Run, mut writer: W) -> Self {
        let ready = writer.opening(&run.report).into();
        Streamer { run, writer, ready, over: false }
    }

    /// The next frame, as soon as there is one.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
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
