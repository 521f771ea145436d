//! Everything that is refused, and in which shape.

use std::io::Write;

use axum::body::Body;
use axum::http::Request;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use foretoken_engine::{FinishReason, SubmitError};
use foretoken_server::ServerConfig;
use serde_json::{Value, json};

use crate::fake_server::{CTX, Reply, Script, get, post, say, send, start};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// Checks the shape and gives back status, param and code.
fn refused(reply: &Reply) -> (u16, String, String) {
    let body = reply.json();
    let error = body["error"].as_object().unwrap();
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    assert!(error["message"].as_str().unwrap().len() > 15, "{error:?}");
    assert!(error["type"].is_string());
    let param = error["param"].as_str().unwrap_or("-").to_owned();
    (reply.status.as_u16(), param, error["code"].as_str().unwrap().to_owned())
}

async fn bad_fields(path: &str, base: Value, cases: &[(&str, Value)]) {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    assert_eq!(post(&server, path, &base).await.status, 200);
    for (param, fields) in cases {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = post(&server, path, &body).await;
        let (status, named, code) = refused(&reply);
        assert_eq!((status, named.as_str()), (400, *param), "{fields}: {}", reply.text);
        let codes = ["invalid_value", "unsupported_value", "missing_required_parameter"];
        assert!(codes.contains(&code.as_str()), "{code}");
    }
    assert_eq!(engine.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_shared_fields_are_named() {
    let base = json!({"prompt": "x"});
    let many: Vec<String> = (0..17).map(|at| at.to_string()).collect();
    let cases = [
        ("temperature", json!({"temperature": "hot"})),
        ("temperature", json!({"temperature": -0.1})),
        ("temperature", json!({"temperature": 1e300})),
        ("top_p", json!({"top_p": 1.5})),
        ("top_p", json!({"top_p": 0})),
        ("min_p", json!({"min_p": -1})),
        ("top_k", json!({"top_k": 1.5})),
        ("top_k", json!({"top_k": -2})),
        ("presence_penalty", json!({"presence_penalty": 3})),
        ("frequency_penalty", json!({"frequency_penalty": -3})),
        ("repetition_penalty", json!({"repetition_penalty": 0})),
        ("repeat_last_n", json!({"repeat_last_n": -2})),
        ("logit_bias", json!({"logit_bias": 1})),
        ("logit_bias[0]", json!({"logit_bias": [1]})),
        ("logit_bias[1]", json!({"logit_bias": [[1, 1], [300, 1]]})),
        ("logit_bias[0]", json!({"logit_bias": [[1, true]]})),
        ("logit_bias[\"x\"]", json!({"logit_bias": {"x": 1}})),
        ("logit_bias[\"300\"]", json!({"logit_bias": {"300": 1}})),
        ("logit_bias[\"1\"]", json!({"logit_bias": {"1": 101}})),
        ("seed", json!({"seed": "a"})),
        ("stop", json!({"stop": 5})),
        ("stop", json!({"stop": ""})),
        ("stop", json!({"stop": many})),
        ("stop[1]", json!({"stop": ["a", 1]})),
        ("stop_token_ids[0]", json!({"stop_token_ids": [300]})),
        ("stop_token_ids", json!({"stop_token_ids": 1})),
        ("max_tokens", json!({"max_tokens": 0})),
        ("max_tokens", json!({"max_tokens": -2})),
        ("n_predict", json!({"n_predict": 0})),
        ("max_completion_tokens", json!({"max_completion_tokens": 2.5})),
        ("n", json!({"n": 0})),
        ("n", json!({"n": 17})),
        ("stream", json!({"stream": "yes"})),
        ("stream_options", json!({"stream_options": {"include_usage": true}})),
        ("stream_options", json!({"stream": true, "stream_options": 1})),
        ("stream_options.include_usage", json!({"stream": true, "stream_options": {"include_usage": 1}})),
        (
            "stream_options.continuous_usage_stats",
            json!({"stream": true, "stream_options": {"continuous_usage_stats": true}}),
        ),
        ("ignore_eos", json!({"ignore_eos": 1})),
        ("skip_special_tokens", json!({"skip_special_tokens": "no"})),
        ("response_format", json!({"response_format": "text"})),
        ("response_format.type", json!({"response_format": {}})),
        ("response_format.type", json!({"response_format": {"type": "xml"}})),
        (
            "response_format.json_schema.schema",
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
        ),
        ("grammar", json!({"grammar": "root ::= <x>"})),
        ("guided_json", json!({"guided_json": {"not": {}}})),
        ("model", json!({"model": 5})),
    ];
    bad_fields(TEXT, base, &cases).await;
}

#[tokio::test]
async fn invalid_completion_fields_are_named() {
    let prompts = vec!["a"; 65];
    let cases = [
        ("prompt", json!({"prompt": null})),
        ("prompt", json!({"prompt": 5})),
        ("prompt", json!({"prompt": []})),
        ("prompt", json!({"prompt": [[]]})),
        ("prompt", json!({"prompt": prompts})),
        ("prompt[1]", json!({"prompt": [1, 300]})),
        ("prompt[1]", json!({"prompt": [1, "a"]})),
        ("prompt[0][0]", json!({"prompt": [[-1]]})),
        ("prompt[1]", json!({"prompt": ["a", {}]})),
        ("suffix", json!({"suffix": "end"})),
        ("best_of", json!({"best_of": 2})),
        ("echo", json!({"echo": "yes"})),
        ("echo", json!({"echo": true, "logprobs": 1})),
        ("logprobs", json!({"logprobs": true})),
        ("logprobs", json!({"logprobs": 21})),
    ];
    bad_fields(TEXT, json!({"prompt": "x", "suffix": "", "best_of": 1}), &cases).await;
}

#[tokio::test]
async fn invalid_chat_fields_are_named() {
    let image = json!([{"type": "image_url", "image_url": {"url": "data:"}}]);
    let message = |fields: Value| json!({"messages": [fields]});
    let cases = [
        ("messages", json!({"messages": null})),
        ("messages", json!({"messages": []})),
        ("messages", json!({"messages": "hi"})),
        ("messages[0]", json!({"messages": ["hi"]})),
        ("messages[0].role", message(json!({"content": "a"}))),
        ("messages[0].role", message(json!({"role": "robot", "content": "a"}))),
        ("messages[0].content", message(json!({"role": "user"}))),
        ("messages[0].content", message(json!({"role": "assistant", "content": null}))),
        ("messages[0].content", message(json!({"role": "user", "content": 5}))),
        ("messages[0].content[0].type", message(json!({"role": "user", "content": image}))),
        ("messages[0].content[0].text", message(json!({"role": "user", "content": [{"type": "text"}]}))),
        ("messages[0].prefix", message(json!({"role": "assistant", "content": "a", "prefix": 1}))),
        ("logprobs", json!({"logprobs": 3})),
        ("top_logprobs", json!({"top_logprobs": 3})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": 21})),
        ("tools", json!({"tools": {}})),
        ("tools[0].type", json!({"tools": [{"type": "retrieval"}]})),
        ("tools[0].function", json!({"tools": [{"type": "function"}]})),
        ("tools[0].function.name", json!({"tools": [{"type": "function", "function": {}}]})),
        ("tool_choice", json!({"tool_choice": "required"})),
        ("tool_choice", json!({"tool_choice": "sometimes"})),
        ("thinking", json!({"thinking": true})),
        ("thinking.type", json!({"thinking": {"type": "maybe"}})),
        ("reasoning_effort", json!({"reasoning_effort": 5})),
        ("chat_template_kwargs", json!({"chat_template_kwargs": []})),
        ("add_generation_prompt", json!({"add_generation_prompt": 1})),
    ];
    bad_fields(CHAT, json!({"messages": [{"role": "user", "content": "x"}]}), &cases).await;
}

#[tokio::test]
async fn a_template_error_names_its_line() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let body = json!({"messages": [{"role": "user", "content": "raise"}]});
    let reply = post(&server, CHAT, &body).await;
    assert_eq!(refused(&reply), (400, "messages".into(), "template_error".into()));
    assert!(reply.text.contains("line 3: roles must alternate"));
    let body = json!({"messages": [{"role": "user", "content": "panic"}]});
    assert_eq!(refused(&post(&server, CHAT, &body).await), (500, "-".into(), "internal_error".into()));
}

#[tokio::test]
async fn invalid_bodies_are_rejected() {
    let (server, _) = start(ServerConfig { body_limit_bytes: 100, ..ServerConfig::default() }, say(&["a"]));
    let send = |kind: Option<&'static str>, body: Body| {
        let mut request = Request::post(TEXT);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let (server, request) = (&server, request.body(body).unwrap());
        async move { refused(&send(server, request).await) }
    };
    let json = Some("application/json; charset=utf-8");
    let malformed = (400, "-".to_owned(), "malformed_body".to_owned());
    for body in ["{\"prompt\": ", "[1]", "", "nul", "\"x\"", "{\"prompt\": \"\u{1}\"}"] {
        assert_eq!(send(json, body.into()).await, malformed, "{body}");
    }
    let missing = (400, "prompt".to_owned(), "missing_required_parameter".to_owned());
    for kind in [None, Some("application/x-www-form-urlencoded"), Some("application/vnd.api+json")] {
        assert_eq!(send(kind, "{}".into()).await, missing, "{kind:?}");
    }
    assert_eq!(send(Some("multipart/form-data; boundary=x"), "{}".into()).await.2, "unsupported_media_type");
    assert_eq!(send(Some("text/plain"), "{}".into()).await.0, 415);
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(100));
    let too_large = (413, "-".to_owned(), "body_too_large".to_owned());
    assert_eq!(send(json, long.clone().into()).await, too_large);
    // Without a declared length.
    let pieces =
        long.into_bytes().chunks(10).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>();
    let stream = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(send(json, stream).await, too_large);
}

fn compressed(encoding: &str, text: &str) -> Vec<u8> {
    let write = |mut writer: Box<dyn Write + '_>| writer.write_all(text.as_bytes()).unwrap();
    let mut out = Vec::new();
    match encoding {
        "gzip" => write(Box::new(GzEncoder::new(&mut out, Compression::default()))),
        "deflate" => write(Box::new(ZlibEncoder::new(&mut out, Compression::default()))),
        _ => write(Box::new(brotli::CompressorWriter::new(&mut out, 4096, 5, 22))),
    }
    out
}

#[tokio::test]
async fn compressed_bodies_are_decompressed_up_to_the_limit() {
    let config = ServerConfig { body_limit_bytes: 10_000, ..ServerConfig::default() };
    let (server, engine) = start(config, say(&["a"]));
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = Request::post(TEXT)
            .header("content-type", "application/json")
            .header("content-encoding", encoding)
            .body(Body::from(body));
        send(&server, request.unwrap()).await
    };
    let text = |len: usize| json!({"prompt": "x".repeat(len)}).to_string();
    for encoding in ["gzip", "deflate", "br"] {
        let reply = send(encoding, compressed(encoding, &text(100))).await;
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text);
        assert_eq!(engine.last().prompt.len(), 101);
        let bomb = compressed(encoding, &text(100_000));
        assert!(bomb.len() < 1000);
        assert_eq!(refused(&send(encoding, bomb).await).2, "body_too_large", "{encoding}");
        let torn = compressed(encoding, &text(100))[..10].to_vec();
        assert_eq!(refused(&send(encoding, torn).await).2, "malformed_body", "{encoding}");
    }
    assert_eq!(send("identity", text(100).into_bytes()).await.status, 200);
    for unknown in ["zstd", "gzip, gzip", "compress"] {
        let (status, _, code) = refused(&send(unknown, text(100).into_bytes()).await);
        assert_eq!((status, code.as_str()), (415, "unsupported_media_type"), "{unknown}");
    }
}

#[tokio::test]
async fn unknown_routes_methods_and_models_are_rejected() {
    let config = ServerConfig { model_names: vec!["main".into(), "alias".into()], ..ServerConfig::default() };
    let (server, _) = start(config, say(&["a"]));
    assert_eq!(refused(&get(&server, "/v2/nothing").await), (404, "-".into(), "unknown_url".into()));
    let reply = get(&server, CHAT).await;
    assert_eq!(refused(&reply), (405, "-".into(), "method_not_allowed".into()));
    assert_eq!(reply.headers["allow"], "POST");
    let reply = post(&server, TEXT, &json!({"prompt": "x", "model": "gpt-4"})).await;
    assert_eq!(refused(&reply), (404, "model".into(), "model_not_found".into()));
    assert!(reply.text.contains("'main', 'alias'"));
    assert_eq!(refused(&get(&server, "/v1/models/gpt-4").await).0, 404);
    let reply = post(&server, TEXT, &json!({"prompt": "x", "model": "alias"})).await;
    assert_eq!(reply.json()["model"], "main");
}

#[tokio::test]
async fn prompts_longer_than_the_context_are_rejected() {
    let exceeded = |param: &str| (400, param.to_owned(), "context_length_exceeded".to_owned());
    let config = ServerConfig { prompt_limit_tokens: Some(10), ..ServerConfig::default() };
    let (server, engine) = start(config, say(&["a"]));
    let reply = post(&server, TEXT, &json!({"prompt": "0123456789"})).await;
    assert_eq!(refused(&reply), exceeded("prompt"));
    assert!(reply.text.contains("11 tokens") && reply.text.contains("at most 10"));
    assert!(engine.seen.lock().unwrap().is_empty());

    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(CTX)}]});
    assert_eq!(refused(&post(&server, CHAT, &body).await), exceeded("messages"));

    let error = SubmitError::PromptTooLong { prompt: 9, ctx: 8 };
    let (server, _) = start(ServerConfig::default(), Script::Refuse(error));
    assert_eq!(refused(&post(&server, TEXT, &json!({"prompt": "x"})).await), exceeded("prompt"));
}

#[tokio::test]
async fn a_full_queue_sets_retry_after() {
    let error = SubmitError::QueueFull { retry_after_s: 7 };
    let (server, _) = start(ServerConfig::default(), Script::Refuse(error));
    for stream in [false, true] {
        let reply = post(&server, TEXT, &json!({"prompt": "x", "stream": stream})).await;
        assert_eq!(refused(&reply), (429, "-".into(), "queue_full".into()));
        assert_eq!(reply.headers["retry-after"], "7");
    }
    let (server, _) = start(ServerConfig::default(), Script::Refuse(SubmitError::Draining));
    let reply = post(&server, TEXT, &json!({"prompt": "x"})).await;
    assert_eq!(refused(&reply), (503, "-".into(), "draining".into()));
}

#[tokio::test]
async fn an_engine_failure_is_an_error_response() {
    let failed = Script::Say(vec!["a"], FinishReason::Error("out of memory".into()));
    for (script, word) in [(failed, "out of memory"), (Script::Die, "before the answer was complete")] {
        let (server, _) = start(ServerConfig::default(), script);
        let reply = post(&server, TEXT, &json!({"prompt": "x"})).await;
        assert_eq!(refused(&reply), (500, "-".into(), "internal_error".into()));
        assert!(reply.text.contains(word));
        let events = post(&server, TEXT, &json!({"prompt": "x", "stream": true})).await.events();
        assert_eq!(events[0]["choices"][0]["text"].as_str().map(str::len), Some(1));
        assert_eq!(events[1]["error"]["code"], "internal_error");
        assert_eq!(events.len(), 2);
    }
}

#[tokio::test]
async fn a_path_that_is_no_text_is_refused_like_everything_else() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let reply = get(&server, "/v1/models/%FF").await;
    assert_eq!(refused(&reply), (400, "path".into(), "invalid_value".into()));
}
