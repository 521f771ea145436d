//! Any request: it is answered or refused in the API's error shape, and never by a failure of the server.
//!
//! The input is a request as text: `METHOD PATH`, header lines, an empty line, the body. It goes to the routes as
//! hyper would hand it over; the engine behind them is scripted, and its tokens are bytes. The first line may start
//! with `!`, then the server asks for a key.

#[path = "../http/fake_cache.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a helper of other tests")]
mod fake_cache;
#[path = "../http/fake_server.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a helper of other tests")]
mod fake_server;

use std::cell::RefCell;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use foretoken_engine::FinishReason;
use foretoken_model::chat::ChatInput;
use foretoken_server::{ApiKey, ChatPrompt, Codec, Server, ServerConfig};
use serde_json::Value;
use tower::ServiceExt;

use fake_server::Script;

/// What the engine says: reasoning, text, a call, and the beginning of another.
const ANSWER: &[&str] = &[
    "<think>",
    "so",
    "</think>",
    "Hi ",
    "é",
    "<tool_call>\n{\"name\": \"f\", ",
    "\"arguments\": {\"a\": [1]}}",
    "\n</tool_call>",
    "<tool_call>{",
];
/// Inputs after which the servers are made anew: their ledgers remember requests.
const INPUTS: usize = 500;

struct World {
    runtime: tokio::runtime::Runtime,
    open: Server,
    keyed: Server,
    inputs: usize,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    fn new() -> World {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
        let keyed = ServerConfig { api_keys: vec![ApiKey::new("sk-fuzz")], ..ServerConfig::default() };
        let [open, keyed] = [ServerConfig::default(), keyed].map(|config| {
            let server = Server::new(config).unwrap();
            let (mut served, _) = fake_server::served(Script::Say(ANSWER.to_vec(), FinishReason::Stop));
            served.codec = Arc::new(Bytes(served.codec));
            server.ready(served);
            server
        });
        World { runtime, open, keyed, inputs: 0 }
    }
}

/// The tokenizer of the HTTP tests without the words that make its template fail.
struct Bytes(Arc<dyn Codec>);

impl Codec for Bytes {
    fn encode(&self, text: &str, add_bos: bool, parse_special: bool) -> Vec<u32> {
        self.0.encode(text, add_bos, parse_special)
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.0.decode(ids)
    }

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn render(&self, input: &ChatInput) -> Result<ChatPrompt, String> {
        let text = Value::Array(input.messages.clone()).to_string();
        Ok(ChatPrompt { tokens: self.encode(&text, true, true), opens_reasoning: input.tools.is_some() })
    }
}

/// The entry function of the fuzz target.
pub(crate) fn run(data: &[u8]) {
    let (keyed, data) = match data.strip_prefix(b"!") {
        Some(data) => (true, data),
        None => (false, data),
    };
    let Some(request) = request(data) else { return };
    WORLD.with_borrow_mut(|slot| {
        if slot.as_ref().is_some_and(|world| world.inputs >= INPUTS) {
            *slot = None;
        }
        let world = slot.get_or_insert_with(World::new);
        world.inputs += 1;
        let server = if keyed { &world.keyed } else { &world.open };
        world.runtime.block_on(exchange(server, request));
    });
}

/// The request that `data` spells; `None` where hyper would not let it through.
fn request(data: &[u8]) -> Option<Request<Body>> {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |end| (&data[..end], &data[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let builder = Request::builder().method(first.next()?).uri(first.next()?);
    let mut request = builder.body(Body::from(body.to_vec())).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

async fn exchange(server: &Server, request: Request<Body>) {
    let is_head = request.method() == "HEAD";
    let path = request.uri().path();
    let is_ollama = path == "/api" || path.starts_with("/api/");
    let is_anthropic = ["/messages", "/v1/messages"].iter().any(|of| path.starts_with(of));
    let response = server.router().oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let body = to_bytes(response.into_body(), 64 << 20).await.unwrap();
    let text = std::str::from_utf8(&body).expect("an answer is UTF-8");
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
    if status.is_client_error() || status.is_server_error() {
        if is_head {
            return;
        }
        let error: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{status}: {error} in {text:?}"));
        if is_ollama {
            assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()), "{status}: {text}");
            return;
        }
        let has = |field: &str| error["error"][field].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("message") && has("type") && (is_anthropic || has("code")), "{status}: {text}");
        return;
    }
    match kind.as_deref() {
        Some("application/json") if !is_head => {
            let _: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
        }
        Some("application/x-ndjson") => assert_lines(text),
        Some("text/event-stream") if is_anthropic => assert_named_stream(text),
        Some("text/event-stream") => assert_stream(text),
        _ => {}
    }
}

/// Every event but the last is JSON in one line.
fn assert_stream(text: &str) {
    let mut events: Vec<&str> = text.strip_suffix("\n\n").expect("a whole event").split("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
    for event in events {
        let payload = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}"));
        let parsed: Result<Value, _> = serde_json::from_str(payload);
        assert!(parsed.is_ok_and(|event| event.get("error").is_none()), "{payload:?}");
    }
}

/// Every line is JSON; the last one, and no other, is the end.
fn assert_lines(text: &str) {
    let lines: Vec<&str> = text.strip_suffix('\n').expect("a whole line").split('\n').collect();
    for (at, line) in lines.iter().enumerate() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        assert_eq!(value["done"], at + 1 == lines.len(), "{text}");
    }
}

/// Every event is JSON in one line with the event's name in it; the last ends the message.
fn assert_named_stream(text: &str) {
    let mut last = String::new();
    for event in text.strip_suffix("\n\n").expect("a whole event").split("\n\n") {
        let lines = event
            .split_once('\n')
            .and_then(|(name, data)| Some((name.strip_prefix("event: ")?, data.strip_prefix("data: ")?)));
        let (name, data) = lines.unwrap_or_else(|| panic!("{event:?}"));
        let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data:?}"));
        assert_eq!(data["type"], name, "{event:?}");
        last = name.to_owned();
    }
    assert_eq!(last, "message_stop", "{text}");
}
