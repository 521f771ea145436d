//! Runs the answers to a request, for every route that has some.
//!
//! A [`Job`] holds one engine request per answer. [`respond`] submits them, merges their events, enforces the deadline,
//! records latencies, parses the answers ([`crate::answer`]) and passes typed events to a [`Writer`], which knows the
//! dialect. A streamed response takes the events as they come, a whole one takes them joined; nothing else differs.
//! The invariant: whatever ends a run early, a client disconnect included, drops the engine's answers, which cancels
//! their sequences.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use foretoken_engine::{self as engine, FinishReason, Request};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::accounts::{Bill, Payer};
use crate::answer::{Answer, AnswerParser, Event, Finish, Format};
use crate::error::ApiError;
use crate::ndjson;
use crate::report::Report;
use crate::request_log::Trace;
use crate::sse::{self, Frame, Framing};
use crate::state::{Backend, Phase, Shared};

/// Writes answers in a dialect. Answers are numbered from 0.
pub(crate) trait Writer: Send + 'static {
    /// How a stream is cut into frames.
    const FRAMING: Framing = Framing::Events;

    /// A whole response.
    fn whole(&mut self, answers: Vec<Answer>, report: &Report) -> Value;
    /// The beginning of a stream, before the first token.
    fn opening(&mut self, report: &Report) -> Vec<Frame>;
    /// What one step of the engine gave an answer; may be nothing. The last event of an answer is [`Event::Finish`].
    fn events(&mut self, answer: usize, events: Vec<Event>, report: &Report) -> Vec<Frame>;
    /// The end of a stream, after the last answer's end.
    fn closing(&mut self, report: &Report) -> Vec<Frame>;
    /// The end of a stream that failed.
    fn failure(&mut self, error: &ApiError) -> Vec<Frame>;
}

/// Answers to run.
#[derive(Debug)]
pub(crate) struct Job {
    /// One per answer; the answers to a prompt are neighbours.
    pub(crate) requests: Vec<Request>,
    /// Answers per prompt.
    pub(crate) n: usize,
    /// Whether the response is streamed.
    pub(crate) stream: bool,
    /// What to look for in the answers.
    pub(crate) format: Format,
    /// Prefix of the response's id.
    pub(crate) id_prefix: &'static str,
    /// The field that holds the prompt.
    pub(crate) prompt_param: &'static str,
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
    mut writer: W,
) -> Result<Response, ApiError> {
    let stream = job.stream;
    let mut run = Run::start(shared, backend, trace, job).await?;
    if stream {
        let keep_alive = Duration::from_secs(shared.config.keep_alive_s.max(1));
        return Ok(match W::FRAMING {
            Framing::Events => sse::response(run, writer, keep_alive),
            Framing::Lines => ndjson::response(run, writer),
        });
    }
    let mut answers = vec![Answer::default(); run.parsers.len()];
    while let Some((answer, events)) = run.next().await? {
        events.into_iter().for_each(|event| answers[answer].push(event));
    }
    Ok(Json(writer.whole(answers, &run.report)).into_response())
}

/// A running job.
pub(crate) struct Run {
    parsers: Vec<AnswerParser>,
    // Dropped before the report's bill, which then reads counts that no longer grow.
    events: Events,
    pub(crate) report: Report,
    n: usize,
}

impl Run {
    async fn start(
        shared: &Shared,
        backend: &Arc<Backend>,
        trace: Arc<Trace>,
        job: Job,
    ) -> Result<Self, ApiError> {
        let mut bill = Bill::new(&backend.ledger, job.payer, backend.id(), &trace, job.requests.len());
        let mut requests = job.requests;
        for (answer, request) in requests.iter_mut().enumerate() {
            request.progress = Arc::default();
            bill.started(answer, &request.progress, answer % job.n == 0);
        }
        let report = Report::new(shared, backend, job.id_prefix, bill, &requests[0], job.cache_report);
        let parsers = requests.iter().map(|_| AnswerParser::new(job.format.clone())).collect();
        let events = Events::start(shared, backend, trace, requests, job.prompt_param).await?;
        Ok(Run { parsers, report, events, n: job.n })
    }

    /// The next events of an answer; `None` when all answers are over.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Vec<Event>)>, ApiError> {
        let Some((answer, event)) = self.events.next().await? else { return Ok(None) };
        let parser = &mut self.parsers[answer];
        let events = match event {
            engine::Event::Tokens(tokens) => {
                let events = parser.push(&tokens);
                self.report.bill.tokens(answer, tokens.len(), self.reasoning_tokens());
                events
            }
            engine::Event::Done(summary) => {
                let finish = match (&summary.reason, &summary.stopped_by) {
                    (FinishReason::Stop, Some(text)) => Finish::StopText(text.clone()),
                    (FinishReason::Stop, None) => Finish::Stop,
                    (FinishReason::Length, _) => Finish::Length,
                    (FinishReason::Error(message), _) => {
                        let message = format!("the answer could not be finished: {message}");
                        return Err(ApiError::internal(message));
                    }
                };
                let events = parser.finish(&summary.text, finish);
                self.report.bill.tokens(answer, 0, self.reasoning_tokens());
                self.report.bill.ended(answer, &summary, answer % self.n == 0);
                if self.events.open.is_empty() {
                    self.report.over();
                }
                events
            }
        };
        Ok(Some((answer, events)))
    }

    fn reasoning_tokens(&self) -> usize {
        self.parsers.iter().map(AnswerParser::reasoning_tokens).sum()
    }
}

/// Submits a request on the blocking pool, since looking up a stored response reads the database.
pub(crate) async fn submit(
    backend: &Backend,
    request: Request,
    prompt_param: &'static str,
) -> Result<engine::Answer, ApiError> {
    let generator = Arc::clone(&backend.served.generator);
    let submitted = tokio::task::spawn_blocking(move || generator.submit(request)).await;
    submitted
        .map_err(|_| ApiError::internal("the server failed on this request; see its log"))?
        .map_err(|error| ApiError::from_submit(error, prompt_param))
}

type NextEvent = BoxFuture<'static, (usize, engine::Answer, Option<engine::Event>)>;

/// The merged events of a job's answers, until the deadline or server shutdown.
struct Events {
    open: FuturesUnordered<NextEvent>,
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
            last_token: vec![None; count],
            deadline,
            timeout_s,
            phase: shared.watch_phase(),
            backend: Arc::clone(backend),
            trace,
        })
    }

    /// The next event of any choice. After an error or `None` all answers are dropped.
    async fn next(&mut self) -> Result<Option<(usize, engine::Event)>, ApiError> {
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
                if matches!(event, engine::Event::Tokens(_)) {
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

    fn observe(&mut self, choice: usize, event: &engine::Event) {
        let metrics = &self.backend.metrics;
        match event {
            engine::Event::Tokens(tokens) => {
                let now = Instant::now();
                match self.last_token[choice].replace(now) {
                    None => metrics.first_token(now - self.trace.arrived),
                    Some(last) => metrics.next_tokens(now - last, tokens.len()),
                }
                self.trace.generated(tokens.len());
            }
            engine::Event::Done(summary) => {
                metrics.finished(self.trace.arrived.elapsed(), summary);
                self.trace.finished(summary);
            }
        }
    }
}

fn receive(choice: usize, mut answer: engine::Answer) -> NextEvent {
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
