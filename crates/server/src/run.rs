//! Runs a completion, for every route that has one.
//!
//! A [`Job`] holds one engine request per choice. [`respond`] submits them, merges their events, enforces the
//! deadline, records latencies, and passes tokens to a [`Writer`], which knows the route's response shape. Streaming
//! drains the writer after every event, collecting once at the end; nothing else differs. The invariant: whatever
//! ends a run early, a client disconnect included, drops the engine's answers, which cancels their sequences.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use foretoken_engine::{Answer, Event, FinishReason, Request, Summary, TokenEvent};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::accounts::{Bill, Payer};
use crate::error::ApiError;
use crate::protocol::sampling::StreamOptions;
use crate::request_log::Trace;
use crate::sse;
use crate::state::{Backend, Phase, Shared, unix_time_s};

/// Turns tokens into the `choices` of a response. Choices are numbered from 0.
pub(crate) trait Writer: Send + 'static {
    /// Appends a token to a choice.
    fn push(&mut self, choice: usize, token: &TokenEvent);
    /// Appends the last text of a choice and releases held-back text.
    fn finish(&mut self, choice: usize, text: &str);
    /// OpenAI's `finish_reason` of a choice; `stopped` is false at a length limit.
    fn finish_reason(&self, choice: usize, stopped: bool) -> &'static str;
    /// Streaming: new content of a choice.
    fn chunks(&mut self, choice: usize) -> Vec<Value>;
    /// Streaming: the final chunk of a choice.
    fn last_chunk(&mut self, choice: usize, finish_reason: &str) -> Value;
    /// Collecting: a whole choice.
    fn choice(&mut self, choice: usize, finish_reason: &str) -> Value;
    /// Reasoning tokens over all choices.
    fn reasoning_tokens(&self) -> usize;
}

/// The envelope fields that differ between routes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Prefix of the response's id.
    pub(crate) id_prefix: &'static str,
    /// `object` of a whole response.
    pub(crate) object: &'static str,
    /// `object` of a chunk.
    pub(crate) chunk_object: &'static str,
    /// The field that holds the prompt.
    pub(crate) prompt_param: &'static str,
}

/// A completion to run.
#[derive(Debug)]
pub(crate) struct Job {
    /// One per choice; the choices of a prompt are neighbours.
    pub(crate) requests: Vec<Request>,
    /// Choices per prompt.
    pub(crate) n: usize,
    /// `Some` if the response is streamed.
    pub(crate) stream: Option<StreamOptions>,
    pub(crate) shape: Shape,
    /// Who is billed.
    pub(crate) payer: Payer,
    /// The `cache` object of the response, if requested.
    pub(crate) cache_report: Option<Value>,
}

/// Runs a job and builds its response.
pub(crate) async fn respond<W: Writer>(
    shared: &Shared,
    backend: &Arc<Backend>,
    trace: Arc<Trace>,
    job: Job,
    writer: W,
) -> Result<Response, ApiError> {
    let stream = job.stream;
    let mut run = Run::start(shared, backend, trace, job, writer).await?;
    if let Some(options) = stream {
        let keep_alive = Duration::from_secs(shared.config.keep_alive_s.max(1));
        return Ok(sse::response(run, options, keep_alive));
    }
    let mut choices = vec![Value::Null; run.events.count];
    while let Some(event) = run.next().await? {
        if let Progress::Finished(choice, reason) = event {
            choices[choice] = run.writer.choice(choice, reason);
        }
    }
    let mut body = run.envelope.around(run.envelope.shape.object, choices.into());
    body["usage"] = run.usage();
    body["timings"] = run.bill.totals().timings();
    body["cost"] = run.bill.cost();
    run.add_reports(&mut body);
    Ok(Json(body).into_response())
}

/// A running job.
pub(crate) struct Run<W> {
    pub(crate) writer: W,
    pub(crate) envelope: Envelope,
    // Dropped before the bill, which then reads counts that no longer grow.
    events: Events,
    pub(crate) bill: Bill,
    n: usize,
    cache_report: Option<Value>,
}

/// The outcome of [`Run::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A choice has new tokens.
    Tokens(usize),
    /// A choice ended, with its `finish_reason`.
    Finished(usize, &'static str),
}

impl<W: Writer> Run<W> {
    async fn start(
        shared: &Shared,
        backend: &Arc<Backend>,
        trace: Arc<Trace>,
        job: Job,
        writer: W,
    ) -> Result<Self, ApiError> {
        let envelope = Envelope {
            id: shared.fresh_id(job.shape.id_prefix),
            created: unix_time_s(),
            model: backend.id().to_owned(),
            system_fingerprint: backend.system_fingerprint.clone(),
            shape: job.shape,
        };
        let mut bill = Bill::new(&backend.ledger, job.payer, backend.id(), &trace, job.requests.len());
        let mut requests = job.requests;
        for (choice, request) in requests.iter_mut().enumerate() {
            request.progress = Arc::default();
            bill.started(choice, &request.progress, choice % job.n == 0);
        }
        let events = Events::start(shared, backend, trace, requests, job.shape.prompt_param).await?;
        Ok(Run { writer, envelope, bill, events, n: job.n, cache_report: job.cache_report })
    }

    /// The next event, already passed to the writer; `None` when all choices have ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Progress>, ApiError> {
        let Some((choice, event)) = self.events.next().await? else { return Ok(None) };
        match event {
            Event::Tokens(tokens) => {
                tokens.iter().for_each(|token| self.writer.push(choice, token));
                self.bill.tokens(choice, tokens.len(), self.writer.reasoning_tokens());
                Ok(Some(Progress::Tokens(choice)))
            }
            Event::Done(Summary { reason: FinishReason::Error(message), .. }) => {
                Err(ApiError::internal(format!("the answer could not be finished: {message}")))
            }
            Event::Done(summary) => {
                self.writer.finish(choice, &summary.text);
                self.bill.ended(choice, &summary, choice % self.n == 0);
                if self.is_over() {
                    // Before the client sees the end, so that its next usage query includes this request.
                    self.bill.settle();
                }
                let stopped = summary.reason == FinishReason::Stop;
                Ok(Some(Progress::Finished(choice, self.writer.finish_reason(choice, stopped))))
            }
        }
    }

    /// Whether all choices have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.events.open.is_empty()
    }

    /// Adds the speculation and cache reports.
    pub(crate) fn add_reports(&mut self, body: &mut Value) {
        self.bill.totals().add_reports(body);
        if let Some(report) = self.cache_report.take() {
            body["cache"] = report;
        }
    }

    pub(crate) fn usage(&self) -> Value {
        self.bill.totals().usage(self.writer.reasoning_tokens())
    }
}

/// Fields repeated in every chunk and every whole response.
#[derive(Debug)]
pub(crate) struct Envelope {
    id: String,
    created: u64,
    model: String,
    system_fingerprint: String,
    pub(crate) shape: Shape,
}

impl Envelope {
    pub(crate) fn around(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": choices,
        })
    }
}

/// Submits a request on the blocking pool, since looking up a stored response reads the database.
pub(crate) async fn submit(
    backend: &Backend,
    request: Request,
    prompt_param: &'static str,
) -> Result<Answer, ApiError> {
    let generator = Arc::clone(&backend.served.generator);
    let submitted = tokio::task::spawn_blocking(move || generator.submit(request)).await;
    submitted
        .map_err(|_| ApiError::internal("the server failed on this request; see its log"))?
        .map_err(|error| ApiError::from_submit(error, prompt_param))
}

type NextEvent = BoxFuture<'static, (usize, Answer, Option<Event>)>;

/// The merged events of a job's answers, until the deadline or server shutdown.
struct Events {
    open: FuturesUnordered<NextEvent>,
    count: usize,
    last_token: Vec<Option<Instant>>,
    deadline: Option<Instant>,
    timeout_s: u64,
    phase: watch::Receiver<Phase>,
    backend: Arc<Backend>,
    trace: Arc<Trace>,
}

impl Events {
    async fn start(
        shared: &Shared,
        backend: &Arc<Backend>,
        trace: Arc<Trace>,
        requests: Vec<Request>,
        prompt_param: &'static str,
    ) -> Result<Self, ApiError> {
        let count = requests.len();
        let open = FuturesUnordered::new();
        for (choice, request) in requests.into_iter().enumerate() {
            let prompt_tokens = request.prompt.len();
            let answer = submit(backend, request, prompt_param).await?;
            trace.submitted(prompt_tokens);
            open.push(receive(choice, answer));
        }
        let timeout_s = shared.config.request_timeout_s;
        let limit = Duration::from_secs(timeout_s);
        let deadline = (timeout_s > 0).then(|| trace.arrived.checked_add(limit)).flatten();
        Ok(Events {
            open,
            count,
            last_token: vec![None; count],
            deadline,
            timeout_s,
            phase: shared.watch_phase(),
            backend: Arc::clone(backend),
            trace,
        })
    }

    /// The next event of any choice. After an error or `None` all answers are dropped.
    async fn next(&mut self) -> Result<Option<(usize, Event)>, ApiError> {
        let received = tokio::select! {
            biased;
            () = at(self.deadline) => Err(ApiError::timeout(self.timeout_s)),
            _ = self.phase.wait_for(|phase| *phase == Phase::Over) => Err(ApiError::draining()),
            received = self.open.next() => Ok(received),
        };
        match received {
            Ok(None) => Ok(None),
            Ok(Some((choice, answer, Some(event)))) => {
                self.observe(choice, &event);
                if matches!(event, Event::Tokens(_)) {
                    self.open.push(receive(choice, answer));
                }
                Ok(Some((choice, event)))
            }
            Ok(Some((_, _, None))) => {
                self.open.clear();
                Err(ApiError::internal(
                    "the engine stopped before the answer was complete; see the server's log",
                ))
            }
            Err(error) => {
                self.open.clear();
                Err(error)
            }
        }
    }

    fn observe(&mut self, choice: usize, event: &Event) {
        let metrics = &self.backend.metrics;
        match event {
            Event::Tokens(tokens) => {
                let now = Instant::now();
                match self.last_token[choice].replace(now) {
                    None => metrics.first_token(now - self.trace.arrived),
                    Some(last) => metrics.next_tokens(now - last, tokens.len()),
                }
                self.trace.generated(tokens.len());
            }
            Event::Done(summary) => {
                metrics.finished(self.trace.arrived.elapsed(), summary);
                self.trace.finished(summary);
            }
        }
    }
}

fn receive(choice: usize, mut answer: Answer) -> NextEvent {
    Box::pin(async move {
        let event = answer.recv().await;
        (choice, answer, event)
    })
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
