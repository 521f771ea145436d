//! A server without a model: what it generates is written in the test.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode};
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_cache::{Closest, SystemClock};
use foretoken_engine::{
    Answer, Constraint, DraftTotals, EngineStats, Event, Explained, FinishReason, Grammar, GrammarError,
    Grammars, Request, ScoredToken, Source, SourceTotals, SubmitError, Summary, Timings, TokenEvent,
    TokenLogprob, Usage,
};
use foretoken_model::chat::ChatInput;
use foretoken_server::{
    CacheControl, ChatPrompt, Codec, Generator, ModelFacts, Served, Server, ServerConfig, ToolFormat,
};
use serde_json::Value;
use tower::ServiceExt;

use super::fake_cache::FakeCache;

/// Token ids below this are bytes; this one is BOS.
pub(crate) const BOS: u32 = 256;
pub(crate) const VOCAB: usize = 300;
pub(crate) const CTX: usize = 4096;

/// The engine's scripted behaviour.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// One token per piece, then the end, as if by the first stop text if the request has one. Choices after the first append their index as the last piece.
    Say(Vec<&'static str>, FinishReason),
    /// The same as a replay: all tokens in one event.
    Replay(Vec<&'static str>),
    /// One token, then nothing until the client disconnects.
    Hang,
    /// Reads the prompt, then nothing until the client disconnects.
    HangBeforeToken,
    /// One token per 20 ms, this many.
    Slow(usize),
    /// Ends without a summary, as after a crash.
    Die,
    /// Rejects the request.
    Refuse(SubmitError),
}

pub(crate) fn say(pieces: &[&'static str]) -> Script {
    Script::Say(pieces.to_vec(), FinishReason::Stop)
}

pub(crate) struct Engine {
    script: Mutex<Script>,
    pub(crate) seen: Mutex<Vec<Request>>,
    /// Answers dropped before their end.
    pub(crate) left: AtomicUsize,
    pub(crate) draining: AtomicBool,
    /// The last prompt of each tenant.
    cached: Mutex<HashMap<String, Vec<u32>>>,
    /// Requests that were explained.
    pub(crate) asked: Mutex<Vec<Request>>,
    pub(crate) cache: FakeCache,
}

impl Engine {
    pub(crate) fn last(&self) -> Request {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }

    pub(crate) async fn until_left(&self, times: usize) {
        for _ in 0..200 {
            if self.left.load(Ordering::SeqCst) == times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} answers were dropped, not {times}", self.left.load(Ordering::SeqCst));
    }
}

struct Handle(Arc<Engine>);

impl Generator for Handle {
    fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        let script = self.0.script.lock().unwrap().clone();
        if let Script::Refuse(error) = script {
            return Err(error);
        }
        let choice = self.0.seen.lock().unwrap().len();
        self.0.seen.lock().unwrap().push(request.clone());
        self.0.cached.lock().unwrap().insert(request.tenant.clone(), request.prompt.clone());
        let (sender, answer) = Answer::channel(1000);
        request.progress.record(4.min(request.prompt.len()), request.prompt.len());
        let engine = Arc::clone(&self.0);
        tokio::spawn(async move {
            let (count, pause) = match &script {
                Script::Say(pieces, _) | Script::Replay(pieces) => (pieces.len(), None),
                Script::Slow(count) => (*count, Some(Duration::from_millis(20))),
                Script::Hang | Script::Die => (1, None),
                Script::HangBeforeToken => (0, None),
                Script::Refuse(_) => (0, None),
            };
            let mut written = 0;
            let mut tokens = (0..count).map(|at| match &script {
                Script::Say(pieces, _) | Script::Replay(pieces) => token(pieces[at], &mut written, &request),
                _ => token("x", &mut written, &request),
            });
            let together = if matches!(script, Script::Replay(_)) { usize::MAX } else { 1 };
            let next =
                || Some(tokens.by_ref().take(together).collect::<Vec<_>>()).filter(|next| !next.is_empty());
            for tokens in std::iter::from_fn(next) {
                if sender.send(Event::Tokens(tokens)).await.is_err() {
                    engine.left.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
            }
            let replayed = matches!(script, Script::Replay(_));
            let reason = match script {
                Script::Hang | Script::HangBeforeToken => {
                    sender.closed().await;
                    engine.left.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                Script::Die => return,
                Script::Say(_, reason) => reason,
                _ => FinishReason::Stop,
            };
            let text = if choice > 0 { choice.to_string() } else { String::new() };
            let stopped_by = request.stop.first().filter(|_| reason == FinishReason::Stop).cloned();
            let summary = Summary { replayed, stopped_by, ..summary(&request, count, text, reason) };
            let _ = sender.send(Event::Done(summary)).await;
        });
        Ok(answer)
    }

    fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        // What can be enforced does not depend on the vocabulary.
        Grammars::of_bytes().compile(constraint)
    }

    fn explain(&self, request: &Request) -> Explained {
        self.0.asked.lock().unwrap().push(request.clone());
        let cached = self.0.cached.lock().unwrap().get(&request.tenant).cloned().unwrap_or_default();
        let agreed = cached.iter().zip(&request.prompt).take_while(|(a, b)| a == b).count();
        let closest = Closest { agreed, cached: cached[agreed..].to_vec() };
        Explained { closest, memory: agreed, disk: 0, shared: Some(0) }
    }

    fn stats(&self) -> EngineStats {
        let mut drafts = DraftTotals { drafts: 3, credit_spent_ms: 500.0, ..DraftTotals::default() };
        drafts.sources[2] = SourceTotals { proposed: 12, accepted: 5, seconds: 0.25 };
        drafts.accepted_at[0] = 2;
        EngineStats {
            running: 3,
            prompt_tokens_total: 70,
            finished_stop_total: 2,
            drafts,
            ..EngineStats::default()
        }
    }

    fn cache(&self) -> &dyn CacheControl {
        &self.0.cache
    }

    fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }
}

/// A token of the answer after `written` bytes of it.
fn token(text: &str, written: &mut usize, request: &Request) -> TokenEvent {
    let scored = |text: &str, logprob| ScoredToken { id: 7, logprob, bytes: text.as_bytes().to_vec() };
    let logprob = request.logprobs.map(|top| TokenLogprob {
        chosen: scored(text, -0.5),
        top: [scored("best", -0.25), scored("worst", f32::NEG_INFINITY)].into_iter().take(top).collect(),
    });
    let span = *written..*written + text.len();
    *written = span.end;
    let span = (!text.is_empty()).then_some(span);
    // Words of a prediction were drafted from it.
    let source = (!text.is_empty()
        && !request.prediction.is_empty()
        && request
            .prediction
            .windows(text.len())
            .any(|ids| ids.iter().zip(text.bytes()).all(|(id, byte)| *id == u32::from(byte))))
    .then_some(Source::Prediction);
    TokenEvent { id: 7, text: text.into(), logprob: logprob.filter(|_| span.is_some()), span, source }
}

fn summary(request: &Request, count: usize, text: String, reason: FinishReason) -> Summary {
    let prompt = request.prompt.len();
    let hit = 4.min(prompt);
    Summary {
        reason,
        text,
        usage: Usage { prompt_tokens: prompt, cache_hit_tokens: hit, completion_tokens: count },
        timings: Timings {
            queue_ms: 1.0,
            cache_n: hit,
            prompt_n: prompt - hit,
            prompt_ms: 10.0,
            predicted_n: count,
            predicted_ms: 20.0,
            ..Timings::default()
        },
        saved_ms: 5.0,
        ..Summary::default()
    }
}

/// Tokens are bytes. A conversation is rendered as `role:content;` per message.
struct Bytes;

impl Codec for Bytes {
    fn encode(&self, text: &str, add_bos: bool, _parse_special: bool) -> Vec<u32> {
        add_bos.then_some(BOS).into_iter().chain(text.bytes().map(u32::from)).collect()
    }

    fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn render(&self, input: &ChatInput) -> Result<ChatPrompt, String> {
        let mut text = String::new();
        for message in &input.messages {
            let content = message["content"].as_str().unwrap_or_default();
            match content {
                "raise" => return Err("chat template, line 3: roles must alternate".into()),
                "panic" => panic!("the template crashed"),
                _ => {}
            }
            text.push_str(&format!("{}:{content};", message["role"].as_str().unwrap_or_default()));
        }
        if let Some(tools) = &input.tools {
            text.push_str(&tools.to_string());
        }
        let opens_reasoning = input.extra.get("enable_thinking") == Some(&Value::Bool(true));
        Ok(ChatPrompt { tokens: self.encode(&text, true, true), opens_reasoning })
    }
}

pub(crate) fn served(script: Script) -> (Served, Arc<Engine>) {
    let engine = Arc::new(Engine {
        script: Mutex::new(script),
        seen: Mutex::new(Vec::new()),
        left: AtomicUsize::new(0),
        draining: AtomicBool::new(false),
        cached: Mutex::default(),
        asked: Mutex::default(),
        cache: FakeCache::default(),
    });
    let served = Served {
        name: "tiny".into(),
        fingerprint: "0123456789abcdef".into(),
        facts: ModelFacts {
            architecture: "llama".into(),
            bytes: 9,
            template: "{{ tools }}".into(),
            bos: "<s>".into(),
            eos: "</s>".into(),
            parameters: 134_515_008,
            ..ModelFacts::default()
        },
        ctx: CTX,
        tool_format: ToolFormat::hermes(),
        created: 1_700_000_000,
        store: Arc::new(Store::in_memory(StoreConfig::default(), Arc::new(SystemClock::new()))),
        generator: Arc::new(Handle(Arc::clone(&engine))),
        codec: Arc::new(Bytes),
    };
    (served, engine)
}

/// A server that is ready.
pub(crate) fn start(config: ServerConfig, script: Script) -> (Server, Arc<Engine>) {
    let server = Server::new(config).unwrap();
    let (served, engine) = served(script);
    server.ready(served);
    (server, engine)
}

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    /// The payloads of a stream. Checks the framing and that `[DONE]` is the end.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let body = self.text.strip_suffix("\n\n").unwrap();
        let mut payloads: Vec<&str> =
            body.split("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(payloads.pop(), Some("[DONE]"));
        payloads.iter().map(|payload| serde_json::from_str(payload).unwrap()).collect()
    }
}

pub(crate) async fn send(server: &Server, request: HttpRequest<Body>) -> Reply {
    let response = server.router().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Reply { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

pub(crate) async fn get(server: &Server, path: &str) -> Reply {
    send(server, HttpRequest::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn post(server: &Server, path: &str, body: &Value) -> Reply {
    let request = HttpRequest::post(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    send(server, request).await
}
