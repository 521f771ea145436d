//! `/v1/responses`: conversations as items, responses whole and streamed, errors.

use foretoken_engine::FinishReason;
use foretoken_server::ServerConfig;
use serde_json::{Value, json};

use crate::fake_server::{Engine, Reply, Script, post, say, start};

const PATH: &str = "/v1/responses";

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "input": "Hi"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn weather() -> Value {
    json!([
        {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": true},
        {"type": "web_search"},
        {"type": "namespace", "name": "more", "tools": []},
    ])
}

fn prompt(engine: &Engine) -> String {
    let bytes: Vec<u8> = engine.last().prompt.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    String::from_utf8(bytes).unwrap()
}

/// The data of a stream's events. Checks that it repeats the name, and the numbers.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let event = |(at, event): (usize, &str)| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name.strip_prefix("event: ").unwrap());
        assert_eq!(data["sequence_number"], at);
        data
    };
    reply.text.strip_suffix("\n\n").unwrap().split("\n\n").enumerate().map(event).collect()
}

#[tokio::test]
async fn a_whole_response_has_every_field() {
    let (server, engine) = start(ServerConfig::default(), say(&["Hel", "lo"]));
    let reply = post(&server, PATH, &ask(json!({"instructions": "Be brief.", "temperature": 0.5}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    assert_eq!(prompt(&engine), "system:Be brief.;user:Hi;");
    assert!(body["id"].as_str().unwrap().starts_with("resp_"));
    for (field, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("model", json!("tiny")),
        ("instructions", json!("Be brief.")),
        ("temperature", json!(0.5)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("store", json!(false)),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    let item = &body["output"][0];
    assert!(item["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    let part = json!({"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []});
    assert_eq!(item["content"], json!([part]));
    assert_eq!(
        body["usage"],
        json!({
            "input_tokens": 26,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 28,
        })
    );
    assert_eq!(body["cost"]["currency"], "USD");
}

#[tokio::test]
async fn a_stream_has_items_in_order_and_ends_with_the_whole_response() {
    let pieces = [
        "<think>why",
        "</think>",
        "so ",
        "<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":",
        "\"Rome\"}}</tool_call>",
    ];
    let (server, _) = start(ServerConfig::default(), say(&pieces));
    let reply = post(&server, PATH, &ask(json!({"stream": true, "tools": weather()}))).await;
    let events = events(&reply);
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let response = &events.last().unwrap()["response"];
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(response["output"].as_array().unwrap().iter().collect::<Vec<_>>(), done);
    assert_eq!(done[0]["content"], json!([{"type": "reasoning_text", "text": "why"}]));
    assert_eq!(done[1]["content"][0]["text"], "so");
    assert_eq!((&done[2]["name"], &done[2]["arguments"]), (&json!("weather"), &json!("{\"city\":\"Rome\"}")));
    assert!(done[2]["call_id"].as_str().unwrap().starts_with("call_"));
    for (event, output) in [(&events[4], 0), (&events[10], 1), (&events[15], 2)] {
        assert_eq!((&event["output_index"], &event["item_id"]), (&json!(output), &done[output]["id"]));
    }
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
    assert_eq!(events[0]["response"]["id"], response["id"]);
    assert_eq!(events[0]["response"]["usage"], Value::Null);
}

#[tokio::test]
async fn items_become_turns() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let text = |kind: &str, text: &str| json!([{"type": kind, "text": text}]);
    let body = ask(json!({
        "tools": weather(),
        "input": [
            {"type": "message", "role": "developer", "content": text("input_text", "a")},
            {"role": "user", "content": "b"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": text("reasoning_text", "hm"), "encrypted_content": null},
            {"type": "message", "role": "assistant", "content": text("output_text", "c"), "id": "msg_1", "status": "completed"},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
            {"type": "function_call_output", "call_id": "call_2", "output": text("input_text", "rain")},
        ],
    }));
    let reply = post(&server, PATH, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let tools =
        json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]);
    assert_eq!(prompt(&engine), format!("developer:a;user:b;assistant:c;tool:sun;tool:rain;{tools}"));
    assert_eq!(reply.json()["tools"], weather(), "they are repeated as they were sent");
}

#[tokio::test]
async fn a_response_that_a_limit_cut_is_incomplete() {
    let script = || Script::Say(vec!["a", "b"], FinishReason::Length);
    let (server, engine) = start(ServerConfig::default(), script());
    let body = post(&server, PATH, &ask(json!({"max_output_tokens": 2}))).await.json();
    assert_eq!(engine.last().max_tokens, Some(2));
    assert_eq!(
        (&body["status"], &body["incomplete_details"]),
        (&json!("incomplete"), &json!({"reason": "max_output_tokens"}))
    );
    assert_eq!(body["output"][0]["status"], "incomplete");
    let events = events(&post(&server, PATH, &ask(json!({"stream": true}))).await);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.incomplete"), &json!("incomplete"))
    );
}

#[tokio::test]
async fn log_probabilities_are_included_on_request() {
    let (server, _) = start(ServerConfig::default(), say(&["<think>x</think>", "a"]));
    let body = ask(
        json!({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "top_logprobs": 1}),
    );
    let output = post(&server, PATH, &body).await.json()["output"].clone();
    let listed = &output[1]["content"][0]["logprobs"];
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["token"]), (1, &json!("a")));
    assert_eq!(listed[0]["top_logprobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_done_is_named() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let image = json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]);
    for (extra, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
        (json!({"input": image}), "input[0].content[0].type"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.schema"),
        (json!({"text": {"format": {"type": "yaml"}}}), "text.format.type"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
    ] {
        let reply = post(&server, PATH, &ask(extra.clone())).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{extra}");
    }
}

#[tokio::test]
async fn an_error_in_a_stream_is_an_event() {
    let (server, _) = start(ServerConfig::default(), Script::Die);
    let events = events(&post(&server, PATH, &ask(json!({"stream": true}))).await);
    assert_eq!(
        (&events.last().unwrap()["type"], &events.last().unwrap()["code"]),
        (&json!("error"), &json!("internal_error"))
    );
}
