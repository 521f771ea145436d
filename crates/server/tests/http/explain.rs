//! `cache: {explain: true}` and `/v1/cache/explain`.

use axum::body::Body;
use axum::http::Request;
use foretoken_server::{ApiKey, Server, ServerConfig};
use serde_json::{Value, json};

use crate::fake_server::{Reply, post, say, send, start};

const CHAT: &str = "/v1/chat/completions";
const DRY: &str = "/v1/cache/explain";

fn chat(system: &str, more: Value) -> Value {
    let messages = json!([{"role": "system", "content": system}, {"role": "user", "content": "Hi"}]);
    let mut body = json!({"model": "tiny", "messages": messages});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn explaining(system: &str) -> Value {
    chat(system, json!({"cache": {"explain": true}}))
}

async fn post_as(server: &Server, key: &str, path: &str, body: &Value) -> Reply {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {key}"))
        .body(Body::from(body.to_string()))
        .unwrap();
    send(server, request).await
}

#[tokio::test]
async fn a_response_explains_its_cache_miss() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let first = post(&server, CHAT, &explaining("Today is 2026-11-23.")).await.json();
    assert_eq!(first["cache"]["cause"], "nothing_cached");
    let second = post(&server, CHAT, &explaining("Today is 2026-11-24.")).await.json();
    let report = &second["cache"];
    assert_eq!((&report["cause"], &report["hit_tokens"]), (&json!("date"), &json!(26)));
    let divergence = &report["divergence"];
    assert_eq!(divergence["field"], "messages[0].content");
    assert_eq!((&divergence["token"], &divergence["offset"]), (&json!(26), &json!(18)));
    assert_eq!(
        (&divergence["prompt"], &divergence["cached"]),
        (&json!("4.;user:Hi;"), &json!("3.;user:Hi;"))
    );
}

#[tokio::test]
async fn the_report_is_only_sent_on_request() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    for more in [json!({}), json!({"cache": {"explain": false}}), json!({"cache": {"read": true}})] {
        assert_eq!(post(&server, CHAT, &chat("x", more)).await.json().get("cache"), None);
    }
    assert!(engine.asked.lock().unwrap().is_empty(), "nor is the cache asked");
}

#[tokio::test]
async fn a_stream_has_the_report_in_its_last_chunk() {
    let (server, _) = start(ServerConfig::default(), say(&["a", "b"]));
    for options in [json!(null), json!({"include_usage": true})] {
        let mut body = explaining("x");
        body["stream"] = true.into();
        body["stream_options"] = options;
        let events = post(&server, CHAT, &body).await.events();
        let told: Vec<bool> = events.iter().map(|event| event.get("cache").is_some()).collect();
        assert_eq!(told.iter().rposition(|told| *told), Some(events.len() - 1));
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
    }
}

#[tokio::test]
async fn a_dry_run_accepts_both_bodies_and_submits_nothing() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    post(&server, CHAT, &chat("Today is 2026-11-23.", json!({}))).await;
    let report = post(&server, DRY, &chat("Today is 2026-11-24.", json!({"stream": true}))).await.json();
    assert_eq!(report["cause"], "date");
    let report = post(&server, "/cache/explain", &json!({"prompt": "system:other"})).await.json();
    assert_eq!(report["divergence"]["field"], "prompt");
    assert_eq!(engine.seen.lock().unwrap().len(), 1, "no request was started");
}

#[tokio::test]
async fn another_key_or_user_sees_nothing() {
    let key = |text: &str| ApiKey::parse(text).unwrap();
    let config = ServerConfig { api_keys: vec![key("one"), key("two")], ..ServerConfig::default() };
    let (server, _) = start(config, say(&["a"]));
    post_as(&server, "one", CHAT, &chat("secret", json!({}))).await;
    let cause = async |key: &str, more: Value| {
        post_as(&server, key, DRY, &chat("secret", more)).await.json()["cause"].clone()
    };
    assert_eq!(cause("one", json!({})).await, "cached");
    assert_eq!(cause("two", json!({})).await, "nothing_cached");
    assert_eq!(cause("one", json!({"user_id": "u"})).await, "nothing_cached");
    assert_eq!(post_as(&server, "three", DRY, &chat("secret", json!({}))).await.status, 401);
}

#[tokio::test]
async fn a_request_that_bypasses_the_cache_is_reported_so() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let report = post(&server, DRY, &chat("x", json!({"cache": {"read": false}}))).await.json();
    assert_eq!(report["cause"], "not_read");
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let cases = [
        (CHAT, chat("x", json!({"cache": {"explain": 1}})), "cache.explain"),
        ("/v1/completions", json!({"prompt": ["a", "b"], "cache": {"explain": true}}), "prompt"),
        (DRY, json!({"prompt": ["a", "b"]}), "prompt"),
        (DRY, json!({}), "prompt"),
        (DRY, json!({"messages": []}), "messages"),
        (DRY, json!({"prompt": "x".repeat(5000)}), "prompt"),
    ];
    for (path, body, param) in cases {
        let reply = post(&server, path, &body).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{body}");
    }
    let reply = post(&server, DRY, &json!({"model": "other", "prompt": "x"})).await;
    assert_eq!(reply.status, 404);
}
