//! One log line and one counter increment per request.
//!
//! The line is written when the response body has been sent or dropped, so that it includes a stream's duration and
//! token counts. It never contains a prompt, a response or a key.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::error::Refused;
use crate::state::Shared;

/// nginx's status for a client that disconnected before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What is known about a request so far.
#[derive(Debug)]
pub(crate) struct Trace {
    /// When its headers were read.
    pub(crate) arrived: Instant,
    prompt_tokens: AtomicUsize,
    completion_tokens: AtomicUsize,
}

impl Trace {
    fn new() -> Self {
        Trace { arrived: Instant::now(), prompt_tokens: 0.into(), completion_tokens: 0.into() }
    }

    pub(crate) fn submitted(&self, prompt_tokens: usize) {
        self.prompt_tokens.fetch_add(prompt_tokens, Ordering::Relaxed);
    }

    pub(crate) fn generated(&self, tokens: usize) {
        self.completion_tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

/// Assigns every request a [`Trace`] and an id, counts it, and logs it at its end.
pub(crate) async fn log_request(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let trace = Arc::new(Trace::new());
    request.extensions_mut().insert(Arc::clone(&trace));
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("unknown", MatchedPath::as_str).to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "OPTIONS" | "PUT" | "DELETE" | "PATCH") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let id = shared.fresh_id("req_");
    let mut line = Line { shared, trace, route, method, id, status: CLIENT_CLOSED_REQUEST };
    let mut response = next.run(request).await;
    line.status = response.status().as_u16();
    if let Some(Refused(reason)) = response.extensions().get() {
        line.shared.http.refused(reason);
    }
    if let Ok(value) = HeaderValue::from_str(&line.id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    response.map(|body| Body::new(LoggedBody { body, _line: line }))
}

/// Logs when dropped.
struct Line {
    shared: Arc<Shared>,
    trace: Arc<Trace>,
    route: String,
    method: String,
    id: String,
    status: u16,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.http.answered(&self.route, &self.method, self.status);
        tracing::info!(
            id = self.id,
            method = self.method,
            route = self.route,
            status = self.status,
            ms = self.trace.arrived.elapsed().as_millis() as u64,
            prompt_tokens = self.trace.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens = self.trace.completion_tokens.load(Ordering::Relaxed),
            "request"
        );
    }
}

/// A body that owns its log line.
struct LoggedBody {
    body: Body,
    _line: Line,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
