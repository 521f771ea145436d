//! The HTTP API end to end: the built binary, the default model, raw requests.

mod common;

use std::time::Duration;

use common::{PATIENCE, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
/// Dropping a client must be noticed within one step; this allows for a slow, busy machine.
const SOON: Duration = Duration::from_secs(5);

fn question(more: Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Name three rivers in Europe."}],
        "max_tokens": 24,
        "temperature": 0,
    });
    merge(&mut body, more);
    body
}

fn counting(more: Value) -> Value {
    let mut body = json!({"prompt": "one two three four five six", "max_tokens": 16, "temperature": 0});
    merge(&mut body, more);
    body
}

fn merge(body: &mut Value, more: Value) {
    for (key, value) in more.as_object().expect("fields") {
        body[key] = value.clone();
    }
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text")
}

/// A request that runs until it is cancelled, neither cached nor replayed: a response cached by an earlier test run
/// would be replayed.
fn endless() -> Value {
    let cache = json!({"read": false, "write": false});
    counting(json!({"max_tokens": 6000, "ignore_eos": true, "stream": true, "cache": cache}))
}

#[test]
fn models_are_listed_under_their_alias() {
    let server = Server::start(&["--alias", "tiny"]);
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "tiny");
    assert_eq!(server.get("/v1/models/tiny").json()["id"], "tiny");
    server.get("/v1/models/other").error(404);
}

#[test]
fn without_an_alias_the_model_is_named_by_its_reference() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "smollm2");
}

#[test]
fn a_chat_answer_has_text_usage_and_timings() {
    let server = Server::start(&[]);
    let answer = server.ask(CHAT, &question(json!({})));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(text(&answer).len() > 10, "{answer}");
    let usage = &answer["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("no {name} in {usage}"));
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert_eq!(count("prompt_cache_hit_tokens") + count("prompt_cache_miss_tokens"), count("prompt_tokens"));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64());
    assert_eq!(answer["timings"]["predicted_n"], usage["completion_tokens"]);
}

#[test]
fn a_stream_has_the_same_text_and_ends_with_usage_and_done() {
    // A replayed response comes in few pieces, and accepted draft tokens join pieces too.
    let server = Server::start(&["--responses", "off", "--speculation", "off"]);
    let whole = server.ask(CHAT, &question(json!({})));
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.open(CHAT, &question(more)).events();
    let pieces = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.clone().collect::<String>(), text(&whole));
    assert!(pieces.count() > 4, "the answer comes in pieces");
    let [.., finish, usage] = &events[..] else { panic!("too few events: {events:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
}

#[test]
fn a_seed_gives_the_same_text_alone_and_beside_others() {
    let server = Server::start(&[]);
    let seeded = question(json!({"temperature": 1.0, "seed": 7, "max_tokens": 32}));
    let alone = server.ask(CHAT, &seeded);
    let other = server.ask(CHAT, &question(json!({"temperature": 1.0, "seed": 8, "max_tokens": 32})));
    assert_ne!(text(&alone), text(&other), "another seed gives another text");
    let _noise: Vec<_> = (0..3).map(|_| server.open(TEXT, &endless())).collect();
    server.wait_for("vllm:num_requests_running", 3.0, PATIENCE);
    assert_eq!(text(&server.ask(CHAT, &seeded)), text(&alone));
}

#[test]
fn a_stop_text_ends_the_answer_before_itself() {
    let server = Server::start(&[]);
    let whole = server.ask(TEXT, &counting(json!({})))["choices"][0].clone();
    let whole = whole["text"].as_str().expect("a text");
    let word = whole.split_whitespace().nth(2).expect("several words");
    let (before, _) = whole.split_once(word).expect("the word is there");
    let stopped = server.ask(TEXT, &counting(json!({"stop": [word]})));
    assert_eq!(stopped["choices"][0]["text"], before);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[test]
fn max_tokens_ends_an_answer_with_length() {
    let server = Server::start(&[]);
    let answer = server.ask(TEXT, &counting(json!({"max_tokens": 5, "ignore_eos": true})));
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn logprobs_rank_the_chosen_token_first_when_greedy() {
    let server = Server::start(&[]);
    let answer = server.ask(CHAT, &question(json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 6})));
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    assert_eq!(tokens.len(), 6);
    let mut joined = String::new();
    for token in &tokens {
        let top = token["top_logprobs"].as_array().expect("a list");
        let scores: Vec<f64> = top.iter().filter_map(|t| t["logprob"].as_f64()).collect();
        assert_eq!(scores.len(), 3);
        assert!(scores[0] <= 0.0 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        assert_eq!(top[0]["token"], token["token"]);
        assert_eq!(top[0]["logprob"], token["logprob"]);
        joined += token["token"].as_str().expect("a text");
    }
    assert_eq!(joined, text(&answer));
}

#[test]
fn n_answers_differ_and_are_numbered() {
    let server = Server::start(&[]);
    let answer = server.ask(CHAT, &question(json!({"n": 3, "temperature": 1.2, "seed": 1})));
    let choices = answer["choices"].as_array().expect("a list");
    let numbers: Vec<u64> = choices.iter().filter_map(|c| c["index"].as_u64()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let texts: Vec<&Value> = choices.iter().map(|c| &c["message"]["content"]).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
}

#[test]
fn tokens_of_a_text_turn_back_into_it() {
    let server = Server::start(&[]);
    let text = "Grüße aus 東京, naïve 🙂";
    let tokens = server.ask("/v1/tokenize", &json!({"prompt": text, "add_special_tokens": false}));
    assert!(tokens["tokens"].as_array().is_some_and(|tokens| tokens.len() > 4), "{tokens}");
    let back = server.ask("/v1/detokenize", &json!({"tokens": tokens["tokens"]}));
    assert_eq!(back["prompt"], text);
}

#[test]
fn bad_requests_say_what_is_wrong_and_where() {
    let server = Server::start(&["--ctx", "256"]);
    let error = server.post(CHAT, &question(json!({"temperature": -1}))).error(400);
    assert_eq!(error["param"], "temperature");
    let error = server.post(CHAT, &json!({"messages": "hello"})).error(400);
    assert_eq!(error["param"], "messages");
    server.post(CHAT, &question(json!({"model": "gpt-4"}))).error(404);
    server.get("/v1/nothing").error(404);
    server.send("POST", CHAT, "{\"messages\": [", &[]).finish().error(400);
    let long = server.post(TEXT, &counting(json!({"prompt": "word ".repeat(400)}))).error(400);
    assert!(long["message"].as_str().is_some_and(|text| text.contains("256")), "{long}");
    // The server still works.
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let server = Server::start(&["--max-body", "4KiB"]);
    server.post(TEXT, &counting(json!({"prompt": "x".repeat(8 << 10)}))).error(413);
}

#[test]
fn a_key_is_required_where_one_is_set() {
    let server = Server::start(&["--api-key", "right", "--api-key", "other"]);
    let with = |key: &str| {
        let header = format!("Bearer {key}");
        server.send("GET", "/v1/models", "", &[("Authorization", &header)]).finish()
    };
    server.get("/v1/models").error(401);
    with("wrong").error(401);
    assert_eq!(with("right").status, 200);
    assert_eq!(with("other").status, 200);
}

#[test]
fn a_full_queue_is_answered_429_with_retry_after() {
    let server = Server::start(&["--max-running", "1", "--max-waiting", "1"]);
    let _running = server.open(TEXT, &endless());
    server.wait_for("vllm:num_requests_running", 1.0, PATIENCE);
    let _waiting = server.open(TEXT, &endless());
    server.wait_for("vllm:num_requests_waiting", 1.0, PATIENCE);
    // A replayed response does not queue.
    let refused = server.post(TEXT, &counting(json!({"cache": {"read": false}})));
    refused.error(429);
    let seconds: u64 =
        refused.header("retry-after").and_then(|s| s.parse().ok()).expect("a number of seconds");
    assert!(seconds >= 1);
}

#[test]
fn a_disconnected_client_frees_its_slot() {
    let server = Server::start(&["--max-running", "1"]);
    let mut running = server.open(TEXT, &endless());
    assert!(running.event().is_some());
    drop(running);
    server.wait_for("vllm:num_requests_running", 0.0, SOON);
    server.ask(TEXT, &counting(json!({})));
}

#[test]
fn sigterm_finishes_running_requests_and_rejects_new_ones() {
    let mut server = Server::start(&[]);
    let mut running =
        server.open(TEXT, &counting(json!({"max_tokens": 300, "ignore_eos": true, "stream": true})));
    assert!(running.event().is_some());
    server.terminate();
    let events = running.events();
    let finished = events.iter().any(|event| event["choices"][0]["finish_reason"] == "length");
    assert!(finished, "the answer was cut off: {:?}", events.last());
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let mut server = Server::start(&["--grace", "600"]);
    let mut running = server.open(TEXT, &endless());
    assert!(running.event().is_some());
    server.terminate();
    server.terminate();
    assert_eq!(server.wait(), Some(0));
}
