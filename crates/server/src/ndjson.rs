//! Lines of JSON: a run as a stream, for Ollama's clients.
//!
//! There are no comments in it, so nothing keeps an idle connection open. A client disconnect drops the stream and with
//! it the run.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::stream;

use crate::run::{Run, Writer};
use crate::sse::Streamer;

/// The response that streams `run`.
pub(crate) fn response<W: Writer>(run: Run, writer: W) -> Response {
    let lines = stream::unfold(Streamer::new(run, writer), |mut streamer| async move {
        let frame = streamer.next().await?;
        Some((Ok::<_, Infallible>(frame.into_line()), streamer))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    // Disables response buffering in nginx.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
