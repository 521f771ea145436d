//! One log line and one counter increment per request.
//!
//! The line is written when the response body has been sent or dropped, so that it includes a stream's duration and
//! token counts. It never contains a prompt, a response or a key.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use foretoken_engine::Summary;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::error::Refused;
use crate::routes::{HEALTH, METRICS, PING};
use crate::state::Shared;

/// nginx's status for a client that disconnected before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What is known about a request so far.
#[derive(Debug)]
pub(crate) struct Trace {
    /// When its headers were read.
    pub(crate) arrived: Instant,
    tokens: Mutex<Tokens>,
}

/// Tokens and times of a request, over all its choices.
#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    prompt: usize,
    hit: usize,
    completion: usize,
    drafted: usize,
    accepted: usize,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Tokens {
    /// Tokens after the first per second since it.
    fn per_second(&self) -> Option<f64> {
        let seconds = self.last?.duration_since(self.first?).as_secs_f64();
        (seconds > 0.0 && self.completion > 1).then(|| (self.completion - 1) as f64 / seconds)
    }
}

impl Trace {
    fn new() -> Self {
        Trace { arrived: Instant::now(), tokens: Mutex::default() }
    }

    /// Adds the prompt of a choice.
    pub(crate) fn submitted(&self, prompt_tokens: usize) {
        self.tokens().prompt += prompt_tokens;
    }

    /// Adds tokens that arrived now.
    pub(crate) fn generated(&self, count: usize) {
        let now = Instant::now();
        let mut tokens = self.tokens();
        tokens.completion += count;
        tokens.first.get_or_insert(now);
        tokens.last = Some(now);
    }

    /// Adds what the end of a choice reports.
    pub(crate) fn finished(&self, summary: &Summary) {
        let mut tokens = self.tokens();
        tokens.hit += summary.usage.cache_hit_tokens;
        tokens.drafted += summary.timings.draft_n;
        tokens.accepted += summary.timings.draft_n_accepted;
    }

    /// No code panics while it holds the lock, so a poisoned value is still a whole one.
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
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
    let id = shared.ids.fresh("req_");
    let mut line = Line { shared, trace, route, method, id, status: CLIENT_CLOSED_REQUEST };
    let mut response = next.run(request).await;
    line.status = response.status().as_u16();
    if let Some(Refused(error)) = response.extensions().get() {
        line.shared.http.refused(error.code);
    }
    if let Ok(value) = HeaderValue::from_str(&line.id) {
        // OpenAI's name, and Anthropic's.
        for name in ["x-request-id", "request-id"] {
            response.headers_mut().insert(HeaderName::from_static(name), value.clone());
        }
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

impl Line {
    /// Probes come every few seconds and say little.
    fn is_probe(&self) -> bool {
        [HEALTH, METRICS, PING].contains(&self.route.as_str()) && self.status < 400
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.http.answered(&self.route, &self.method, self.status);
        let ms = self.trace.arrived.elapsed().as_millis() as u64;
        let (id, method, route, status) = (&self.id, &self.method, &self.route, self.status);
        let tokens = *self.trace.tokens();
        if self.is_probe() {
            tracing::debug!(id, method, route, status, ms, "request");
        } else if tokens.prompt == 0 {
            tracing::info!(id, method, route, status, ms, "request");
        } else {
            let ttft_ms = tokens.first.map(|first| (first - self.trace.arrived).as_millis() as u64);
            tracing::info!(
                id,
                method,
                route,
                status,
                ms,
                prompt_tokens = tokens.prompt,
                hit_tokens = tokens.hit,
                completion_tokens = tokens.completion,
                ttft_ms,
                tokens_per_second = tokens.per_second().map(|rate| (rate * 10.0).round() / 10.0),
                drafted = tokens.drafted,
                accepted = tokens.accepted,
                "request"
            );
        }
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
