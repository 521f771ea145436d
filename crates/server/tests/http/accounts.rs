//! Prices, the ledger, balances and usage.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use foretoken_cache::SystemClock;
use foretoken_cache::store::{GroupBy, Store, StoreConfig, UsageGroup};
use foretoken_engine::FinishReason;
use foretoken_server::{ApiKey, Prices, Rates, ServeError, Server, ServerConfig};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake_server::{Engine, Reply, Script, get, post, say, send, served};

const TEXT: &str = "/v1/completions";

/// A ready server and its database.
fn start(config: ServerConfig, script: Script) -> (Server, Arc<Engine>, Arc<Store>) {
    let store = Arc::new(Store::in_memory(StoreConfig::default(), Arc::new(SystemClock::new())));
    let (server, engine) = on(&store, config, script);
    (server, engine, store)
}

fn on(store: &Arc<Store>, config: ServerConfig, script: Script) -> (Server, Arc<Engine>) {
    let server = Server::new(config).unwrap();
    let (mut model, engine) = served(script);
    model.store = Arc::clone(store);
    server.ready(model);
    (server, engine)
}

/// Two named accounts and an operator.
fn keyed(prepaid: &[&str]) -> ServerConfig {
    let named_keys = vec!["alice=sk-a".parse().unwrap(), "bob=sk-b".parse().unwrap()];
    ServerConfig {
        api_keys: vec![ApiKey::new("sk-a"), ApiKey::new("sk-b")],
        named_keys,
        admin_keys: vec![ApiKey::new("root")],
        prepaid: prepaid.iter().map(|text| text.parse().unwrap()).collect(),
        ..ServerConfig::default()
    }
}

async fn with_key(server: &Server, key: &str, path: &str, body: Option<Value>) -> Reply {
    let request = Request::builder().uri(path).header("authorization", format!("Bearer {key}"));
    let request = match body {
        Some(body) => request
            .method("POST")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    send(server, request.unwrap()).await
}

fn only_row(store: &Store) -> UsageGroup {
    store.flush();
    let groups = store.usage(None, 0, u64::MAX, GroupBy::None).unwrap();
    assert_eq!(groups.iter().map(|group| group.requests).sum::<u64>(), 1);
    groups[0].clone()
}

/// Checks the sum and returns hit, miss and output.
fn counts(usage: &Value) -> (u64, u64, u64) {
    let number = |name: &str| usage[name].as_u64().unwrap();
    let (hit, miss) = (number("prompt_cache_hit_tokens"), number("prompt_cache_miss_tokens"));
    assert_eq!(hit + miss, number("prompt_tokens"));
    assert_eq!(number("prompt_tokens") + number("completion_tokens"), number("total_tokens"));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], hit);
    (hit, miss, number("completion_tokens"))
}

#[tokio::test]
async fn a_response_has_exact_cost_and_savings_in_money_and_seconds() {
    let (server, _, _) = start(ServerConfig::default(), say(&["a", "b", "c"]));
    let body = post(&server, TEXT, &json!({"prompt": "123456789"})).await.json();
    assert_eq!(counts(&body["usage"]), (4, 6, 3));
    // 4 x 14 + 6 x 140 + 3 x 280 = 1736; 4 x 126 = 504.
    let cost = json!({
        "currency": "USD", "price": "0.000001736", "saved_money": "0.000000504", "saved_seconds": 0.005,
        "replayed": false,
    });
    assert_eq!(body["cost"], cost);
}

#[tokio::test]
async fn the_last_chunk_has_the_same_cost_with_and_without_usage() {
    for options in [json!({}), json!({"stream_options": {"include_usage": true}})] {
        let (server, _, store) = start(ServerConfig::default(), say(&["a", "b", "c"]));
        let mut body = json!({"prompt": "123456789", "stream": true});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let events = post(&server, TEXT, &body).await.events();
        let (last, others) = events.split_last().unwrap();
        assert_eq!(last["cost"]["price"], "0.000001736");
        assert_eq!(last["cost"]["saved_money"], "0.000000504");
        assert!(others.iter().all(|chunk| chunk.get("cost").is_none()));
        if body.get("stream_options").is_some() {
            assert_eq!(counts(&last["usage"]), (4, 6, 3));
        }
        assert_eq!(only_row(&store).sum.price, 1736);
    }
}

#[tokio::test]
async fn several_choices_and_prompts_are_one_row_with_the_sums_of_usage() {
    for stream in [false, true] {
        let (server, _, store) = start(ServerConfig::default(), say(&["a", "b"]));
        let body = json!({
            "prompt": ["12345", "1234567"], "n": 3, "stream": stream,
            "stream_options": if stream { json!({"include_usage": true}) } else { Value::Null },
        });
        let reply = post(&server, TEXT, &body).await;
        let answer = if stream { reply.events().pop().unwrap() } else { reply.json() };
        // A prompt counts once, its tokens from the cache too; every choice has two tokens.
        assert_eq!(counts(&answer["usage"]), (8, 6, 12));
        let row = only_row(&store);
        assert_eq!((row.sum.hit, row.sum.miss, row.sum.output), (8, 6, 12));
        assert_eq!(row.sum.price, 8 * 14 + 6 * 140 + 12 * 280);
        assert_eq!((row.sum.saved, row.sum.saved_ms), (8 * 126, 10));
        assert_eq!(answer["cost"]["price"], "0.000004312");
    }
}

#[tokio::test]
async fn a_ledger_row_has_tokens_times_and_names_of_its_request() {
    let (server, _, store) = start(keyed(&[]), say(&["<think>", "hm", "</think>", "yes"]));
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "user_id": "u1"});
    let answer = with_key(&server, "sk-a", "/v1/chat/completions", Some(body)).await.json();
    store.flush();
    let group = |group_by| store.usage(None, 0, u64::MAX, group_by).unwrap()[0].clone();
    let names = [GroupBy::Model, GroupBy::Tenant, GroupBy::User].map(|by| group(by).group);
    assert_eq!(names, ["tiny", "alice", "alice/u1"]);
    let sum = group(GroupBy::None).sum;
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], sum.reasoning);
    assert_eq!((sum.reasoning, sum.output), (3, 4));
    assert_eq!((sum.queue_ms, sum.prompt_ms), (1, 10));
    assert!(sum.time_ms > 1_700_000_000_000);
}

#[tokio::test]
async fn a_replay_is_billed_as_all_hit_plus_output() {
    let (server, _, store) = start(ServerConfig::default(), Script::Replay(vec!["a", "b"]));
    let body = post(&server, TEXT, &json!({"prompt": "123456789"})).await.json();
    assert_eq!(counts(&body["usage"]), (10, 0, 2));
    assert_eq!((&body["cost"]["replayed"], &body["cost"]["price"]), (&json!(true), &json!("0.0000007")));
    let row = only_row(&store);
    assert_eq!((row.replayed, row.sum.price, row.sum.saved), (1, 10 * 14 + 2 * 280, 10 * 126));
}

#[tokio::test]
async fn a_disconnected_client_is_billed_for_tokens_received() {
    let (server, engine, store) = start(ServerConfig::default(), Script::Hang);
    let request = Request::post(TEXT)
        .header("content-type", "application/json")
        .body(Body::from(json!({"prompt": "x", "stream": true}).to_string()));
    let mut stream = server.router().oneshot(request.unwrap()).await.unwrap().into_body().into_data_stream();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    engine.until_left(1).await;
    let row = only_row(&store);
    // The prompt is one byte and BOS, and cached.
    assert_eq!((row.sum.hit, row.sum.miss, row.sum.output, row.sum.price), (2, 0, 1, 2 * 14 + 280));
}

#[tokio::test]
async fn a_client_that_disconnects_before_its_first_token_is_billed_for_the_prompt_read() {
    for (path, n, choices) in [(TEXT, 1, 1), (TEXT, 3, 3), ("/v1/cache/prewarm", 1, 1)] {
        let (server, engine, store) = start(ServerConfig::default(), Script::HangBeforeToken);
        let body = json!({"prompt": "123456789", "n": n}).to_string();
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body));
        let response = server.router().oneshot(request.unwrap());
        assert!(tokio::time::timeout(Duration::from_millis(50), response).await.is_err());
        engine.until_left(choices).await;
        // Four tokens are cached; the prompt counts once, however many choices it has.
        let row = only_row(&store);
        assert_eq!((row.sum.hit, row.sum.miss, row.sum.output), (4, 6, 0), "{path} {n}");
        assert_eq!(row.sum.price, 4 * 14 + 6 * 140);
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_and_crashes_are_recorded_and_rejected_requests_are_not() {
    let config = ServerConfig { request_timeout_s: 5, ..ServerConfig::default() };
    let (server, _, store) = start(config, Script::Hang);
    assert_eq!(post(&server, TEXT, &json!({"prompt": "x"})).await.status, 408);
    assert_eq!(only_row(&store).sum.output, 1);
    let (server, _, store) = start(ServerConfig::default(), Script::Die);
    assert_eq!(post(&server, TEXT, &json!({"prompt": "x"})).await.status, 500);
    assert_eq!(only_row(&store).sum.output, 1);
    let failed = Script::Say(vec!["a"], FinishReason::Error("out of memory".into()));
    let (server, _, store) = start(ServerConfig::default(), failed);
    assert_eq!(post(&server, TEXT, &json!({"prompt": "x"})).await.status, 500);
    assert_eq!(only_row(&store).sum.output, 1);
    let (server, _, store) = start(ServerConfig::default(), say(&["a"]));
    assert_eq!(post(&server, TEXT, &json!({"prompt": "x", "n": 0})).await.status, 400);
    store.flush();
    assert_eq!(store.usage(None, 0, u64::MAX, GroupBy::None).unwrap(), []);
}

#[tokio::test]
async fn prices_are_those_at_the_time_of_arrival() {
    // Whatever the hour is, one of these covers it.
    let hours = ["00:00-12:00=0,0,1", "12:00-24:00=0,0,1"].map(|text| text.parse().unwrap());
    let prices = Prices { rates: Rates::default(), hours: hours.to_vec() };
    let (server, _, _) = start(ServerConfig { prices, ..ServerConfig::default() }, say(&["a"]));
    let body = post(&server, TEXT, &json!({"prompt": "123456789"})).await.json();
    assert_eq!(body["cost"]["price"], "0.000001");
    assert_eq!(body["cost"]["saved_money"], "0.00");
}

#[tokio::test]
async fn an_account_without_balance_gets_402_before_any_work() {
    let (server, engine, _) = start(keyed(&["alice=0.000003"]), say(&["a", "b", "c"]));
    let body = || Some(json!({"prompt": "123456789"}));
    // 1736 of 3000 nano-dollars, then 3472: what has begun is finished.
    for _ in 0..2 {
        assert_eq!(with_key(&server, "sk-a", TEXT, body()).await.status, 200);
    }
    let chat = json!({"messages": [{"role": "user", "content": "raise"}]});
    for (path, body) in [(TEXT, body()), ("/chat/completions", Some(chat))] {
        let reply = with_key(&server, "sk-a", path, body).await;
        assert_eq!(reply.status, 402);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("billing_error"), &json!("insufficient_balance"))
        );
        assert!(error["message"].as_str().unwrap().starts_with("Insufficient Balance"), "{error}");
    }
    assert_eq!(engine.seen.lock().unwrap().len(), 2);
    assert_eq!(with_key(&server, "sk-b", TEXT, body()).await.status, 200);
    assert_eq!(with_key(&server, "sk-a", "/v1/models", None).await.status, 200);
}

#[tokio::test]
async fn a_balance_has_deepseeks_shape_and_survives_a_restart() {
    let (server, _, store) = start(keyed(&["alice=0.000003"]), say(&["a", "b", "c"]));
    let balance = |available: bool, total: &str| {
        json!({"is_available": available, "balance_infos": [{
            "currency": "USD", "total_balance": total, "granted_balance": "0.00", "topped_up_balance": total,
        }]})
    };
    let body = || Some(json!({"prompt": "123456789"}));
    for path in ["/user/balance", "/v1/user/balance"] {
        assert_eq!(with_key(&server, "sk-a", path, None).await.json(), balance(true, "0.000003"));
        assert_eq!(with_key(&server, "sk-b", path, None).await.json(), balance(true, "0.00"));
    }
    assert_eq!(get(&server, "/user/balance").await.status, 401);
    with_key(&server, "sk-a", TEXT, body()).await;
    with_key(&server, "sk-a", TEXT, body()).await;
    let spent = balance(false, "-0.000000472");
    assert_eq!(with_key(&server, "sk-a", "/user/balance", None).await.json(), spent);
    store.flush();

    let (server, _) = on(&store, keyed(&["alice=0.000003"]), say(&["a"]));
    assert_eq!(with_key(&server, "sk-a", "/user/balance", None).await.json(), spent);
    assert_eq!(with_key(&server, "sk-a", TEXT, body()).await.status, 402);
    let (server, _) = on(&store, keyed(&["alice=1"]), say(&["a"]));
    assert_eq!(with_key(&server, "sk-a", TEXT, body()).await.status, 200);
}

#[tokio::test]
async fn balances_are_per_account_not_per_user() {
    let (server, _, _) = start(keyed(&["alice=0.000001"]), say(&["a", "b", "c"]));
    let body = |user: &str| Some(json!({"prompt": "123456789", "user_id": user}));
    assert_eq!(with_key(&server, "sk-a", TEXT, body("u1")).await.status, 200);
    assert_eq!(with_key(&server, "sk-a", TEXT, body("u2")).await.status, 402);
}

#[tokio::test]
async fn usage_is_limited_to_the_own_account_except_for_the_operator() {
    let (server, _, _) = start(keyed(&[]), say(&["a", "b", "c"]));
    let body = |user: &str| Some(json!({"prompt": "123456789", "user_id": user}));
    for (key, user) in [("sk-a", "u1"), ("sk-a", "u2"), ("sk-b", "")] {
        with_key(&server, key, TEXT, body(user)).await;
    }
    let groups = async |key: &str, query: &str| {
        let reply = with_key(&server, key, &format!("/v1/usage?{query}"), None).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let data = reply.json()["data"].as_array().unwrap().clone();
        data.iter()
            .map(|row| (row["group"].as_str().unwrap().into(), row["requests"].as_u64().unwrap()))
            .collect()
    };
    let own: Vec<(String, u64)> = groups("sk-a", "group_by=tenant").await;
    assert_eq!(own, [("alice".into(), 2)]);
    let all: Vec<(String, u64)> = groups("root", "group_by=user").await;
    assert_eq!(all, [("alice/u1".into(), 1), ("alice/u2".into(), 1), ("bob".into(), 1)]);
    let one: Vec<(String, u64)> = groups("root", "group_by=none&tenant=bob").await;
    assert_eq!(one, [(String::new(), 1)]);
    let own: Vec<(String, u64)> = groups("sk-b", "tenant=bob").await;
    assert_eq!(own, [(String::new(), 1)]);
    let other = with_key(&server, "sk-b", "/usage?tenant=alice", None).await;
    assert_eq!((other.status.as_u16(), &other.json()["error"]["code"]), (403, &json!("admin_required")));
}

#[tokio::test]
async fn usage_is_exact_money_and_adds_up() {
    let (server, _, _) = start(ServerConfig::default(), say(&["a", "b", "c"]));
    for _ in 0..3 {
        post(&server, TEXT, &json!({"prompt": "123456789"})).await;
    }
    let report = get(&server, "/v1/usage?group_by=day&from=2020-01-01&to=2999-12-31").await.json();
    let day = &report["data"][0];
    assert_eq!(day["group"].as_str().unwrap().len(), 10);
    assert_eq!((&day["price"], &day["saved_money"]), (&json!("0.000005208"), &json!("0.000001512")));
    assert_eq!((&day["saved_seconds"], &day["prompt_tokens"]), (&json!(0.015), &json!(30)));
    assert_eq!(report["total"]["price"], day["price"]);
    let nothing = get(&server, "/v1/usage?to=2020-01-01").await.json();
    assert_eq!((&nothing["data"], &nothing["total"]["requests"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn invalid_usage_parameters_are_named() {
    let (server, _, _) = start(ServerConfig::default(), say(&["a"]));
    for (query, param) in [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("from=2026-11-24&to=2026-11-01", "to"),
        ("group_by=week", "group_by"),
        ("form=2026-11-24", "form"),
        ("from=1&from=2", "from"),
    ] {
        let reply = get(&server, &format!("/v1/usage?{query}")).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{query}");
    }
}

#[tokio::test]
async fn money_saved_time_and_the_database_are_on_the_metrics_page() {
    let (server, _, store) = start(ServerConfig::default(), say(&["a", "b", "c"]));
    post(&server, TEXT, &json!({"prompt": "123456789"})).await;
    store.flush();
    let page = get(&server, "/metrics").await.text;
    for line in [
        "foretoken_ledger_requests_total{model_name=\"tiny\"} 1",
        "foretoken_price_nanodollars_total{model_name=\"tiny\"} 1736",
        "foretoken_saved_nanodollars_total{model_name=\"tiny\"} 504",
        "foretoken_saved_prefill_seconds_total{model_name=\"tiny\"} 0.005",
        "foretoken_response_store_queries_total{model_name=\"tiny\"} 0",
        "foretoken_database_writes_dropped_total{model_name=\"tiny\"} 0",
        "foretoken_database_faults_total{model_name=\"tiny\",kind=\"write\"} 0",
        "foretoken_response_store_evicted_total{model_name=\"tiny\",reason=\"age\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "no {line} in\n{page}");
    }
}

#[tokio::test]
async fn a_slow_database_delays_no_response() {
    // A queue of one: what does not fit is dropped and counted, nothing waits.
    let config = StoreConfig { queue: 1, ..StoreConfig::default() };
    let store = Arc::new(Store::in_memory(config, Arc::new(SystemClock::new())));
    let (server, _) = on(&store, ServerConfig::default(), say(&["a"]));
    for _ in 0..50 {
        let body = json!({"prompt": "x"});
        let ask = post(&server, TEXT, &body);
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), ask).await.unwrap().status, 200);
    }
    store.flush();
    let written = store.usage(None, 0, u64::MAX, GroupBy::None).unwrap()[0].requests;
    let dropped = store.counters().dropped_queue_full.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(written + dropped, 50);
}

#[test]
fn accounts_that_contradict_themselves_do_not_start() {
    let refused = |config| matches!(Server::new(config), Err(ServeError::Accounts(_)));
    assert!(refused(keyed(&["carol=1"])));
    let rates = Rates { hit: "1".parse().unwrap(), ..Rates::default() };
    assert!(refused(ServerConfig { prices: Prices { rates, hours: vec![] }, ..ServerConfig::default() }));
}
