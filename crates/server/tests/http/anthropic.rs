//! `/v1/messages`: conversations, answers whole and streamed, errors, and what agents send.

use axum::body::Body;
use axum::http::Request as HttpRequest;
use foretoken_engine::FinishReason;
use foretoken_server::{ApiKey, ServerConfig};
use serde_json::{Value, json};

use crate::fake_server::{Engine, Reply, Script, post, say, send, start};

const PATH: &str = "/v1/messages";

fn ask(extra: Value) -> Value {
    let mut body =
        json!({"model": "tiny", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn weather() -> Value {
    json!([{"name": "weather", "description": "tells it", "input_schema": {"type": "object"}}])
}

/// Names and data of a stream's events. Checks that the data repeats the name.
fn events(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        let name = name.strip_prefix("event: ").unwrap();
        assert_eq!(data["type"], name);
        (name.to_owned(), data)
    };
    reply.text.strip_suffix("\n\n").unwrap().split("\n\n").map(event).collect()
}

fn prompt(engine: &Engine) -> String {
    let bytes: Vec<u8> = engine.last().prompt.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_message_has_every_field() {
    let (server, engine) = start(ServerConfig::default(), say(&["Hel", "lo"]));
    let reply = post(&server, "/v1/messages?beta=true", &ask(json!({"system": "Be brief."}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(reply.headers.contains_key("request-id"));
    let mut body = reply.json();
    assert!(body["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(body["cost"]["currency"], "USD");
    for ours in ["id", "timings", "cost"] {
        body.as_object_mut().unwrap().remove(ours);
    }
    assert_eq!(prompt(&engine), "system:Be brief.;user:Hi;");
    assert_eq!(
        body,
        json!({
            "type": "message",
            "role": "assistant",
            "model": "tiny",
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": {
                // 26 with BOS, of which 4 were cached; they fill no block.
                "input_tokens": 22,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 4,
                "output_tokens": 2,
                "output_tokens_details": {"thinking_tokens": 0},
            },
        })
    );
}

#[tokio::test]
async fn whole_blocks_that_missed_are_written_to_the_cache() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let message = ask(json!({"messages": [{"role": "user", "content": "x".repeat(200)}]}));
    let usage = post(&server, PATH, &message).await.json()["usage"].clone();
    // "user:" and ";" and BOS make 207 tokens: three blocks of 64, of which 4 tokens were cached.
    assert_eq!(
        (&usage["cache_read_input_tokens"], &usage["cache_creation_input_tokens"], &usage["input_tokens"]),
        (&json!(4), &json!(188), &json!(15))
    );
    let unwritten = ask(json!({"cache": {"write": false}, "messages": message["messages"]}));
    let usage = post(&server, PATH, &unwritten).await.json()["usage"].clone();
    assert_eq!((&usage["cache_creation_input_tokens"], &usage["input_tokens"]), (&json!(0), &json!(203)));
}

#[tokio::test]
async fn a_stream_has_blocks_in_order() {
    let pieces = [
        "wh",
        "y",
        "</think>",
        "\n",
        "so ",
        "<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":",
        "\"Rome\"}}</tool_call>",
    ];
    let (server, _) = start(ServerConfig::default(), say(&pieces));
    let body = ask(
        json!({"stream": true, "tools": weather(), "thinking": {"type": "enabled", "budget_tokens": 1024}}),
    );
    let reply = post(&server, PATH, &body).await;
    let events = events(&reply);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let delta = "content_block_delta";
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            delta,
            delta,
            delta,
            "content_block_stop",
            "content_block_start",
            delta,
            "content_block_stop",
            "content_block_start",
            delta,
            delta,
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let start = &events[0].1["message"];
    assert_eq!((&start["content"], &start["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!(start["usage"]["cache_read_input_tokens"], 4);
    let blocks: Vec<&Value> = events
        .iter()
        .filter(|(name, _)| name == "content_block_start")
        .map(|(_, data)| &data["content_block"])
        .collect();
    assert_eq!(blocks[0]["type"], "thinking");
    assert_eq!(*blocks[1], json!({"type": "text", "text": ""}));
    assert_eq!(
        (&blocks[2]["type"], &blocks[2]["name"], &blocks[2]["input"]),
        (&json!("tool_use"), &json!("weather"), &json!({}))
    );
    assert!(blocks[2]["id"].as_str().unwrap().starts_with("toolu_"));
    let json: String = events.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(json, "{\"city\":\"Rome\"}");
    let end = &events[events.len() - 2].1;
    assert_eq!(end["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    assert_eq!(end["usage"]["output_tokens"], 7);
    assert_eq!(end["usage"]["output_tokens_details"]["thinking_tokens"], 3);
    assert!(end["timings"].is_object() && end["cost"].is_object());
}

#[tokio::test]
async fn conversations_become_turns() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let text = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "1h"}});
    let body = ask(json!({
        "system": [text("One."), text("Two.")],
        "tools": weather(),
        "cache_control": {"type": "ephemeral"},
        "messages": [
            {"role": "user", "content": [text("a"), text(""), text("b")]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "c"},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sun"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": true},
                {"type": "text", "text": "d"},
            ]},
            {"role": "system", "content": "e"},
        ],
    }));
    let reply = post(&server, PATH, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let tools = json!([{"type": "function", "function": {
        "name": "weather", "description": "tells it", "parameters": {"type": "object"},
    }}]);
    let turns = "system:One.\n\nTwo.;user:a\n\nb;assistant:c;tool:sun;tool:error;user:d;system:e;";
    assert_eq!(prompt(&engine), format!("{turns}{tools}"));

    let prefill = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I say"}]);
    assert_eq!(post(&server, PATH, &ask(json!({"messages": prefill}))).await.status, 200);
    assert_eq!(prompt(&engine), "user:Hi;I say");

    let none = ask(json!({"tools": weather(), "tool_choice": {"type": "none"}}));
    assert_eq!(post(&server, PATH, &none).await.status, 200);
    assert_eq!(prompt(&engine), "user:Hi;");
}

#[tokio::test]
async fn parameters_reach_the_engine() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let body = ask(json!({"temperature": 0.5, "top_k": 4, "top_p": 0.9, "stop_sequences": ["x", "y"]}));
    assert_eq!(post(&server, PATH, &body).await.json()["stop_reason"], "stop_sequence");
    let request = engine.last();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.5, 4, 0.9));
    assert_eq!((request.max_tokens, request.stop), (Some(50), vec!["x".to_owned(), "y".into()]));
}

#[tokio::test]
async fn every_end_has_a_reason() {
    let call = "<tool_call>{\"name\":\"weather\"}</tool_call>";
    let one = json!({"type": "auto", "disable_parallel_tool_use": true});
    for (script, extra, reason, sequence, blocks) in [
        (say(&["a"]), json!({}), "end_turn", Value::Null, 1),
        (say(&["a"]), json!({"stop_sequences": ["END"]}), "stop_sequence", json!("END"), 1),
        (Script::Say(vec!["a"], FinishReason::Length), json!({}), "max_tokens", Value::Null, 1),
        (say(&[call, call]), json!({"tools": weather()}), "tool_use", Value::Null, 2),
        (say(&[call, call]), json!({"tools": weather(), "tool_choice": one}), "tool_use", Value::Null, 1),
    ] {
        let (server, _) = start(ServerConfig::default(), script);
        let body = post(&server, PATH, &ask(extra.clone())).await.json();
        assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!(reason), &sequence), "{extra}");
        assert_eq!(body["content"].as_array().unwrap().len(), blocks, "{extra}");
    }
}

#[tokio::test]
async fn arguments_that_are_cut_off_keep_their_complete_members() {
    let cut = "<tool_call>{\"name\":\"weather\",\"arguments\":{\"a\":[1,2],\"b\":\"c, d";
    let (server, _) = start(ServerConfig::default(), Script::Say(vec![cut], FinishReason::Length));
    let body = post(&server, PATH, &ask(json!({"tools": weather()}))).await.json();
    assert_eq!(
        (&body["content"][0]["input"], &body["stop_reason"]),
        (&json!({"a": [1, 2]}), &json!("max_tokens"))
    );
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_used() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let mut body = ask(json!({"system": "Be brief.", "tools": weather()}));
    let usage = post(&server, PATH, &body).await.json()["usage"].clone();
    body.as_object_mut().unwrap().remove("max_tokens");
    let count = post(&server, "/v1/messages/count_tokens?beta=true", &body).await.json();
    let used = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
    let used = used + usage["cache_creation_input_tokens"].as_u64().unwrap();
    assert_eq!(count, json!({"input_tokens": used}));
}

#[tokio::test]
async fn errors_have_anthropics_shape_wherever_they_arise() {
    let keyed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..ServerConfig::default() };
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let (locked, _) = start(keyed, say(&["a"]));
    let (full, _) = start(
        ServerConfig::default(),
        Script::Refuse(foretoken_engine::SubmitError::QueueFull { retry_after_s: 3 }),
    );
    let long = json!([{"role": "user", "content": "x".repeat(5000)}]);
    let media = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
    let call = json!({"type": "tool_use", "id": "x", "name": "f", "input": {}});
    let call = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": [call]}]);
    for (server, body, status, kind, words) in [
        (&server, json!({"messages": []}), 400, "invalid_request_error", "messages"),
        (&server, ask(json!({"max_tokens": null})), 400, "invalid_request_error", "'max_tokens' is missing"),
        (&server, ask(json!({"messages": long})), 400, "invalid_request_error", "prompt is too long: "),
        (
            &server,
            ask(json!({"messages": media})),
            400,
            "invalid_request_error",
            "messages[0].content[0].type",
        ),
        (&server, ask(json!({"messages": call})), 400, "invalid_request_error", "results of the calls"),
        (&server, ask(json!({"model": "claude"})), 404, "not_found_error", "claude"),
        (
            &server,
            ask(json!({"tool_choice": {"type": "maybe"}})),
            400,
            "invalid_request_error",
            "tool_choice.type",
        ),
        (
            &server,
            ask(json!({"cache": {"explain": true}})),
            400,
            "invalid_request_error",
            "/v1/cache/explain",
        ),
        (&locked, ask(json!({})), 401, "authentication_error", "x-api-key"),
        (&full, ask(json!({})), 429, "rate_limit_error", "try again in 3 s"),
    ] {
        let reply = post(server, PATH, &body).await;
        assert_eq!(reply.status, status, "{}", reply.text);
        let error = reply.json();
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!(kind)), "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{error}");
    }
    let with_key = HttpRequest::post(PATH).header("x-api-key", "k").header("anthropic-version", "2023-06-01");
    let with_key = with_key.body(Body::from(ask(json!({})).to_string())).unwrap();
    assert_eq!(send(&locked, with_key).await.status, 200);
}

#[tokio::test]
async fn an_error_in_a_stream_is_an_event() {
    let (server, _) = start(ServerConfig::default(), Script::Die);
    let reply = post(&server, PATH, &ask(json!({"stream": true}))).await;
    let events = events(&reply);
    let (name, data) = events.last().unwrap();
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("api_error")));
}

#[tokio::test]
async fn sessions_of_an_agent_share_a_cache_and_accounts_do_not() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let sent = async |account: &str, session: char, checksum: &str| {
        let uuid = format!("{0}{0}{0}{0}{0}{0}{0}{0}-0000-4000-8000-000000000000", session);
        let header =
            format!("x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch={checksum};");
        let body = ask(json!({
            "system": [{"type": "text", "text": header}, {"type": "text", "text": "You are an agent."}],
            "metadata": {"user_id": format!("user_{account}_account_{account}_session_{uuid}")},
        }));
        let reply = post(&server, PATH, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        (engine.last().tenant, prompt(&engine))
    };
    let first = sent("a", '1', "a5145").await;
    assert_eq!(first, sent("a", '2', "b1234").await);
    assert_eq!(first.1, "system:You are an agent.;user:Hi;");
    assert_ne!(first.0, sent("b", '1', "a5145").await.0);
}

#[tokio::test]
async fn the_root_answers_a_probe() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let reply = send(&server, HttpRequest::head("/").body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, ""));
}
