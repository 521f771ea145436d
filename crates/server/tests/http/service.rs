//! Keys, health, metrics, models, tokenising, CORS.

use axum::body::Body;
use axum::http::Request;
use foretoken_server::{ApiKey, ServeError, Server, ServerConfig};
use serde_json::json;

use crate::fake_server::{BOS, CTX, get, post, say, send, served, start};

#[tokio::test]
async fn keys_guard_everything_but_health() {
    let keyed = ServerConfig { api_keys: vec![ApiKey::new("sk-1")], ..ServerConfig::default() };
    let (server, _) = start(keyed.clone(), say(&["a"]));
    assert_eq!(get(&server, "/health").await.status, 200);
    for path in ["/v1/models", "/models", "/metrics"] {
        let reply = get(&server, path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
        let with = |key: &str| {
            Request::get(path).header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap()
        };
        assert_eq!(send(&server, with("sk-2")).await.status, 401);
        assert_eq!(send(&server, with("sk-1")).await.status, 200);
    }
    assert_eq!(post(&server, "/v1/completions", &json!({"prompt": "x"})).await.status, 401);

    let (server, _) = start(ServerConfig { metrics_open: true, ..keyed }, say(&["a"]));
    assert_eq!(get(&server, "/metrics").await.status, 200);
}

#[tokio::test]
async fn health_follows_the_phases() {
    let server = Server::new(ServerConfig::default()).unwrap();
    let reply = get(&server, "/health").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["status"]), (503, &json!("loading")));
    let reply = post(&server, "/v1/completions", &json!({"prompt": "x"})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (503, &json!("loading_model")));
    assert_eq!(reply.headers["retry-after"], "1");
    assert_eq!(get(&server, "/v1/models").await.status, 503);

    let (model, engine) = served(say(&["a"]));
    server.ready(model);
    assert_eq!(get(&server, "/health").await.json(), json!({"status": "ok"}));

    server.drain();
    let reply = get(&server, "/health").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["status"]), (503, &json!("draining")));
    let reply = post(&server, "/v1/completions", &json!({"prompt": "x"})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (503, &json!("draining")));
    assert!(engine.draining.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn metrics_use_vllms_names() {
    let (server, _) = start(ServerConfig::default(), say(&["a", "b", "c"]));
    post(&server, "/v1/completions", &json!({"prompt": "123456789"})).await;
    post(&server, "/v1/completions", &json!({"prompt": "x", "n": 0})).await;
    get(&server, "/nowhere").await;
    let reply = get(&server, "/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        reply.text.contains("# TYPE vllm:prompt_tokens_total counter\n") && !reply.text.contains("# EOF")
    );
    let open = Request::get("/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
    let open = send(&server, open.body(Body::empty()).unwrap()).await;
    assert!(open.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(open.text.contains("# TYPE vllm:prompt_tokens counter\n") && open.text.ends_with("# EOF\n"));
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 3.0",
        "vllm:num_requests_waiting{model_name=\"tiny\"} 0.0",
        "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.0",
        "vllm:prompt_tokens_total{model_name=\"tiny\"} 70",
        "vllm:generation_tokens_total{model_name=\"tiny\"} 0",
        "vllm:num_preemptions_total{model_name=\"tiny\"} 0",
        "vllm:prefix_cache_queries_total{model_name=\"tiny\"} 0",
        "vllm:prefix_cache_hits_total{model_name=\"tiny\"} 0",
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"} 2",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
        "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"} 2",
        "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\"} 1",
        "vllm:request_queue_time_seconds_sum{model_name=\"tiny\"} 0.001",
        "vllm:request_prompt_tokens_bucket{model_name=\"tiny\",le=\"10.0\"} 1",
        "vllm:request_generation_tokens_sum{model_name=\"tiny\"} 3.0",
        "foretoken_steps_total{model_name=\"tiny\"} 0",
        "foretoken_http_requests_total{route=\"/v1/completions\",method=\"POST\",status=\"200\"} 1",
        "foretoken_http_requests_total{route=\"unknown\",method=\"GET\",status=\"404\"} 1",
        "foretoken_requests_rejected_total{reason=\"invalid_value\"} 1",
    ] {
        assert!(reply.text.lines().any(|found| found == line), "no {line} in\n{}", reply.text);
    }
}

#[tokio::test]
async fn models_are_listed_under_their_first_name() {
    let config =
        ServerConfig { model_names: vec!["org/main".into(), "alias".into()], ..ServerConfig::default() };
    let (server, _) = start(config, say(&["a"]));
    let card = json!({
        "id": "org/main", "object": "model", "created": 1_700_000_000, "owned_by": "foretoken",
        "max_model_len": CTX, "aliases": ["alias"],
    });
    for path in ["/v1/models", "/models"] {
        assert_eq!(get(&server, path).await.json(), json!({"object": "list", "data": [card]}));
    }
    for path in ["/v1/models/org/main", "/v1/models/org%2Fmain", "/models/alias"] {
        assert_eq!(get(&server, path).await.json(), card, "{path}");
    }
}

#[tokio::test]
async fn clients_of_llama_cpp_and_vllm_find_what_they_ask_for() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let props = get(&server, "/props").await.json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], CTX);
    assert_eq!((&props["model_alias"], &props["chat_template"]), (&json!("tiny"), &json!("{{ tools }}")));
    assert_eq!((&props["bos_token"], &props["eos_token"]), (&json!("<s>"), &json!("</s>")));
    // Three requests run on the scripted engine.
    let slots = get(&server, "/slots").await.json();
    let busy: Vec<_> = slots.as_array().unwrap().iter().map(|slot| slot["is_processing"] == true).collect();
    assert_eq!(busy, [true, true, true, false]);
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let prompt = post(&server, "/apply-template", &body).await.json();
    assert_eq!(prompt, json!({"prompt": "user:Hi;"}));
    assert_eq!(get(&server, "/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(get(&server, "/ping").await.status, 200);
    assert_eq!(post(&server, "/ping", &json!({})).await.status, 200);
}

#[tokio::test]
async fn text_round_trips_through_tokens() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let tokens = async |body| post(&server, "/v1/tokenize", &body).await.json();
    let wanted = json!({"tokens": [BOS, 72, 105], "count": 3, "max_model_len": CTX});
    assert_eq!(tokens(json!({"prompt": "Hi"})).await, wanted);
    assert_eq!(tokens(json!({"content": "Hi"})).await["tokens"], json!([72, 105]));
    assert_eq!(tokens(json!({"content": "Hi", "add_special": true})).await, wanted);
    assert_eq!(tokens(json!({"messages": [{"role": "user", "content": "Hi"}]})).await["count"], 9);
    assert_eq!(tokens(json!({"text": "Hi"})).await["error"]["param"], "prompt");
    let text = post(&server, "/detokenize", &json!({"tokens": [72, 105]})).await.json();
    assert_eq!(text, json!({"prompt": "Hi", "content": "Hi"}));
    let reply = post(&server, "/detokenize", &json!({"tokens": [72, 300]})).await.json();
    assert_eq!(reply["error"]["param"], "tokens[1]");
}

#[tokio::test]
async fn cors_is_off_unless_an_origin_is_configured() {
    let preflight = || {
        Request::options("/v1/chat/completions")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .body(Body::empty())
            .unwrap()
    };
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let reply = send(&server, preflight()).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (403, &json!("origin_not_allowed")));
    assert!(!reply.headers.contains_key("access-control-allow-origin"));

    let origins = vec!["https://app.example".to_owned()];
    let config =
        ServerConfig { cors_origins: origins, api_keys: vec![ApiKey::new("k")], ..ServerConfig::default() };
    let (server, _) = start(config, say(&["a"]));
    let reply = send(&server, preflight()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(reply.headers["access-control-allow-headers"], "authorization,content-type");

    let broken = ServerConfig { cors_origins: vec!["\n".into()], ..ServerConfig::default() };
    assert!(matches!(Server::new(broken), Err(ServeError::Origin(_))));
}
