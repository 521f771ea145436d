//! `/v1/cache`: who may ask for what, and what reaches the cache.

use axum::body::Body;
use axum::http::Request;
use foretoken_server::{ApiKey, Server, ServerConfig};
use serde_json::{Value, json};

use crate::fake_server::{Reply, get, post, say, send, start};

async fn ask(server: &Server, method: &str, key: &str, path: &str, body: Option<Value>) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    send(server, request.header("content-type", "application/json").body(body).unwrap()).await
}

fn keyed() -> ServerConfig {
    ServerConfig {
        api_keys: vec![ApiKey::new("sk-a"), ApiKey::new("sk-b")],
        named_keys: vec!["alice=sk-a".parse().unwrap()],
        admin_keys: vec![ApiKey::new("root")],
        ..ServerConfig::default()
    }
}

fn tenant(key: &str, user: &str) -> String {
    // As printed by `ApiKey`, without its prefix.
    let hash = format!("{:?}", ApiKey::new(key));
    format!("{}/{user}", hash.strip_prefix("blake3:").unwrap())
}

#[tokio::test]
async fn prewarming_prefills_a_prompt_without_a_response() {
    let (server, engine) = start(ServerConfig::default(), say(&["x"]));
    let body =
        json!({"messages": [{"role": "user", "content": "Hi"}], "user_id": "u", "cache": {"read": false}});
    let report = post(&server, "/v1/cache/prewarm", &body).await.json();
    let tokens = "user:Hi;".len() + 1;
    let expected =
        json!({"object": "cache.prewarm", "tokens": tokens, "blocks": 1, "hit": 4, "computed": tokens - 4});
    assert_eq!(report, expected);
    let request = engine.last();
    assert_eq!((request.max_tokens, request.tenant.as_str(), request.forgettable), (Some(1), "/u", true));
    assert_eq!(request.speculation.enabled, Some(false));
    assert!(request.cache.read && request.cache.write);
    let report = post(&server, "/cache/prewarm", &json!({"prompt": [1, 2, 3]})).await.json();
    assert_eq!((&report["tokens"], engine.last().prompt), (&json!(3), vec![1, 2, 3]));
}

#[tokio::test]
async fn prewarming_is_in_the_ledger_without_output() {
    let (server, _) = start(ServerConfig::default(), say(&["x"]));
    post(&server, "/v1/cache/prewarm", &json!({"prompt": "123456789"})).await;
    let total = get(&server, "/v1/usage").await.json()["total"].clone();
    assert_eq!(
        (&total["requests"], &total["prompt_tokens"], &total["completion_tokens"]),
        (&json!(1), &json!(10), &json!(0))
    );
}

#[tokio::test]
async fn a_pin_belongs_to_the_caller_and_expires() {
    let (server, engine) = start(keyed(), say(&["x"]));
    let body = json!({"prompt": "abc", "ttl_s": 60});
    let report = ask(&server, "POST", "sk-a", "/v1/cache/pin", Some(body)).await.json();
    assert_eq!(
        (&report["pinned_tokens"], &report["ttl_s"], &report["tokens"]),
        (&json!(4), &json!(60), &json!(4))
    );
    let body = json!({"prompt": "abc", "user_id": "u"});
    ask(&server, "POST", "sk-b", "/v1/cache/pin", Some(body.clone())).await;
    ask(&server, "POST", "sk-b", "/v1/cache/unpin", Some(body)).await;
    let orders = [
        format!("pin {} 4 60", tenant("sk-a", "")),
        format!("pin {} 4 3600", tenant("sk-b", "u")),
        format!("unpin {} 4", tenant("sk-b", "u")),
    ];
    assert_eq!(engine.cache.orders(), orders);
    for (body, param) in [
        (json!({"prompt": "abc", "ttl_s": 0}), "ttl_s"),
        (json!({"prompt": "abc", "ttl_s": 604_801}), "ttl_s"),
        (json!({"ttl_s": 5}), "messages"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"messages": []}), "messages"),
    ] {
        let reply = ask(&server, "POST", "sk-a", "/v1/cache/pin", Some(body.clone())).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{body}");
    }
}

#[tokio::test]
async fn a_pin_above_the_limit_is_rejected_before_prefill() {
    let (server, engine) = start(ServerConfig::default(), say(&["x"]));
    let reply = post(&server, "/v1/cache/pin", &json!({"prompt": "x".repeat(200)})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (409, &json!("pin_limit")));
    assert!(reply.text.contains("64 tokens of the 100 that one tenant may pin"), "{}", reply.text);
    assert!(engine.seen.lock().unwrap().is_empty() && engine.cache.orders().is_empty());
}

#[tokio::test]
async fn only_the_operator_inspects_or_clears_other_tenants() {
    let (server, engine) = start(keyed(), say(&["x"]));
    for (method, path) in [
        ("GET", "/v1/cache"),
        ("GET", "/v1/cache/entries"),
        ("POST", "/v1/cache/verify"),
        ("DELETE", "/v1/cache?all=true"),
    ] {
        for (key, status) in [("", 401), ("sk-wrong", 401), ("sk-a", 403), ("root", 200)] {
            let reply = ask(&server, method, key, path, Some(json!({}))).await;
            assert_eq!(reply.status.as_u16(), status, "{method} {path} {key}: {}", reply.text);
        }
    }
    assert_eq!(engine.cache.orders(), ["clear everyone"]);
}

#[tokio::test]
async fn clearing_an_account_clears_all_its_users() {
    let (server, engine) = start(keyed(), say(&["x"]));
    for (key, user) in [("sk-a", json!(null)), ("sk-a", json!("u1")), ("sk-b", json!("u2"))] {
        let body = json!({"prompt": "abc", "user_id": user});
        assert_eq!(ask(&server, "POST", key, "/v1/completions", Some(body)).await.status, 200);
    }
    let delete = async |query: &str| {
        let reply = ask(&server, "DELETE", "root", &format!("/v1/cache?{query}"), None).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        (reply.json(), engine.cache.orders())
    };
    let (report, orders) = delete("account=alice").await;
    assert_eq!(orders, [format!("clear {}", tenant("sk-a", "")), format!("clear {}", tenant("sk-a", "u1"))]);
    assert_eq!(report, json!({"object": "cache.deleted", "tenants": 2, "blocks": {"memory": 4, "disk": 6}}));
    let (_, orders) = delete("account=alice&user_id=new").await;
    assert_eq!(orders, [format!("clear {}", tenant("sk-a", "new"))]);
    let (report, orders) = delete("user_id=u2").await;
    assert_eq!((&report["tenants"], orders.len()), (&json!(3), 3), "with each of the three keys");
    for (query, param) in [
        ("", "all"),
        ("?all=1", "all"),
        ("?all=true&user_id=u", "all"),
        ("?account=nobody", "account"),
        ("?user=u", "user"),
        ("?user_id=u&user_id=v", "user_id"),
    ] {
        let reply = ask(&server, "DELETE", "root", &format!("/v1/cache{query}"), None).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{query}");
    }
    assert!(engine.cache.orders().is_empty());
}

#[tokio::test]
async fn statistics_listing_and_verification_are_reported() {
    let (server, _) = start(ServerConfig::default(), say(&["x"]));
    let info = get(&server, "/v1/cache").await.json();
    assert_eq!((&info["hit_rate"], &info["responses"]), (&json!(0.25), &json!({"entries": 2, "bytes": 30})));
    let memory = &info["tiers"][0];
    assert_eq!((&memory["tier"], &memory["hit_rate"]), (&json!("memory"), &json!(0.25)));
    assert_eq!(memory["evicted"], json!({"room": 7, "cleared": 0}));
    assert_eq!(info["tiers"].as_array().unwrap().len(), 1, "tiers that are there");
    let list = get(&server, "/v1/cache/entries?limit=1").await.json();
    assert_eq!((&list["total"], list["data"].as_array().unwrap().len()), (&json!(2), 1));
    assert_eq!(list["data"][0]["tokens"], 130, "the latest used first");
    let all = get(&server, "/v1/cache/entries").await.json();
    assert_eq!((&all["data"][1]["pinned_s"], &all["data"][0].get("pinned_s")), (&json!(5), &None));
    let report = post(&server, "/v1/cache/verify", &json!({})).await;
    assert_eq!(report.json()["bad"], json!([{"file": "name", "fault": "corrupt"}]));
    assert!(!report.text.contains("folder"), "no path of the machine");
}

#[tokio::test]
async fn tiers_and_drafters_are_on_the_metrics_page() {
    let (server, _) = start(ServerConfig::default(), say(&["x"]));
    let page = get(&server, "/metrics").await.text;
    for line in [
        "foretoken_cache_queries_total{tier=\"memory\",model_name=\"tiny\"} 400",
        "foretoken_cache_hits_total{tier=\"memory\",model_name=\"tiny\"} 100",
        "foretoken_cache_evicted_blocks_total{tier=\"memory\",cause=\"room\",model_name=\"tiny\"} 7",
        "vllm:kv_block_lifetime_seconds_count{model_name=\"tiny\"} 0",
        "vllm:kv_block_reuse_gap_seconds_bucket{le=\"+Inf\",model_name=\"tiny\"} 0",
        "vllm:spec_decode_num_drafts_total{model_name=\"tiny\"} 3",
        "vllm:spec_decode_num_draft_tokens_total{model_name=\"tiny\"} 12",
        "vllm:spec_decode_num_accepted_tokens_total{model_name=\"tiny\"} 5",
        "vllm:spec_decode_num_accepted_tokens_per_pos_total{position=\"0\",model_name=\"tiny\"} 2",
        "foretoken_spec_decode_accepted_tokens_total{drafter=\"memory\",model_name=\"tiny\"} 5.0",
        "foretoken_spec_decode_credit_spent_seconds_total{model_name=\"tiny\"} 0.5",
    ] {
        let (name, labels) = line.split_once('{').unwrap();
        let (labels, value) = labels.split_once("} ").unwrap();
        let found = page.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| {
                rest.starts_with('{')
                    && labels.split(',').all(|label| rest.contains(label))
                    && rest.ends_with(&format!("}} {value}"))
            })
        });
        assert!(found.is_some(), "{line} is not in\n{page}");
    }
}
