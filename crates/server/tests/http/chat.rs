//! `/v1/chat/completions`: shapes, streaming, reasoning, tools, parameters.

use foretoken_engine::FinishReason;
use foretoken_server::ServerConfig;
use serde_json::{Value, json};

use crate::fake_server::{Script, post, say, start};

const PATH: &str = "/v1/chat/completions";

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn streaming(extra: Value) -> Value {
    let mut body = ask(extra);
    body["stream"] = true.into();
    body
}

/// The deltas of a choice, merged.
fn joined(events: &[Value], choice: usize, field: &str) -> String {
    let deltas = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
    let mine = deltas.filter(|delta| delta["index"] == choice);
    mine.filter_map(|delta| delta["delta"][field].as_str()).collect()
}

#[tokio::test]
async fn an_answer_shows_who_drafted_it_if_asked() {
    let (server, _) = start(ServerConfig::default(), say(&["<think>so", "</think>", "Hel", "lo ", "you"]));
    let prediction = json!({"type": "content", "content": "Hello "});
    let extra = json!({"prediction": prediction, "speculation": {"show": true}});
    let stretch = |text: &str, by: Value| json!({"text": text, "by": by});
    let [content, reasoning] = [
        json!([stretch("Hello ", json!("prediction")), stretch("you", Value::Null)]),
        json!([stretch("so", Value::Null)]),
    ];
    let events = post(&server, PATH, &streaming(extra.clone())).await.events();
    let shown = |field: &str| -> Vec<Value> {
        let drafted = events.iter().filter_map(|event| event["choices"][0]["drafted"][field].as_array());
        drafted.flatten().cloned().collect()
    };
    let text = |stretches: &[Value]| -> String {
        stretches.iter().filter_map(|stretch| stretch["text"].as_str()).collect()
    };
    assert_eq!(text(&shown("content")), "Hello you");
    assert_eq!(shown("content").last(), Some(&stretch("you", Value::Null)));
    assert_eq!(Value::from(shown("reasoning_content")), reasoning);

    let (server, _) = start(ServerConfig::default(), say(&["<think>so", "</think>", "Hel", "lo ", "you"]));
    let choice = post(&server, PATH, &ask(extra)).await.json()["choices"][0].clone();
    assert_eq!(choice["drafted"], json!({"content": content, "reasoning_content": reasoning}));
    let plain = post(&server, PATH, &ask(json!({"prediction": prediction}))).await.json();
    assert_eq!(plain["choices"][0].get("drafted"), None);
    let body = json!({"prompt": "x", "prediction": prediction, "speculation": {"show": true}});
    let text = post(&server, "/v1/completions", &body).await.json();
    assert_eq!(text["choices"][0]["drafted"][1], stretch("Hello ", json!("prediction")));
    for path in ["/v1/messages", "/api/chat", "/v1/responses"] {
        let mut body = ask(json!({"max_tokens": 5, "input": "x", "speculation": {"show": true}}));
        let reply = post(&server, path, &body).await;
        assert!(reply.status == 400 && reply.text.contains("'speculation.show'"), "{path}: {}", reply.text);
        body["speculation"]["show"] = false.into();
        let status = post(&server, path, &body).await.status;
        assert_eq!(status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_whole_response_has_every_field() {
    let (server, _) = start(ServerConfig::default(), say(&["Hel", "", "lo"]));
    let reply = post(&server, PATH, &ask(json!({}))).await;
    assert_eq!(reply.status, 200);
    assert!(reply.headers.contains_key("x-request-id"));
    let mut body = reply.json();
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    body["id"] = "".into();
    body["created"] = 0.into();
    assert_eq!(
        body,
        json!({
            "id": "",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny",
            "system_fingerprint": "fp_0123456789ab",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 3,
                "total_tokens": 12,
                "prompt_cache_hit_tokens": 4,
                "prompt_cache_miss_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
            "timings": {
                "cache_n": 4,
                "prompt_n": 5,
                "prompt_ms": 10.0,
                "prompt_per_token_ms": 2.0,
                "prompt_per_second": 500.0,
                "predicted_n": 3,
                "predicted_ms": 20.0,
                "predicted_per_token_ms": 20.0 / 3.0,
                "predicted_per_second": 150.0,
            },
            "cost": {
                "currency": "USD",
                "price": "0.000001596",
                "saved_money": "0.000000504",
                "saved_seconds": 0.005,
                "replayed": false,
            },
        })
    );
}

#[tokio::test]
async fn a_stream_starts_with_the_role_and_ends_with_reason_and_timings() {
    let (server, _) = start(ServerConfig::default(), say(&["Hel", "", "lo"]));
    let reply = post(&server, "/chat/completions", &streaming(json!({}))).await;
    assert_eq!(reply.headers["x-accel-buffering"], "no");
    let events = reply.events();
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert_eq!(
        events[0]["choices"],
        json!([{
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": null,
            "finish_reason": null,
        }])
    );
    assert_eq!(events[1]["choices"][0]["delta"], json!({"content": "Hel"}));
    assert_eq!(events[2]["choices"][0]["delta"], json!({"content": "lo"}));
    let end = json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]);
    assert_eq!(events[3]["choices"], end);
    assert_eq!(events[3]["timings"]["predicted_n"], 3);
    assert_eq!(events.len(), 4);
    for event in &events {
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(event.get("usage"), None);
    }
}

#[tokio::test]
async fn usage_is_sent_in_a_last_chunk_without_choices_on_request() {
    let (server, _) = start(ServerConfig::default(), say(&["a", "b"]));
    let body = streaming(json!({"stream_options": {"include_usage": true}, "n": 2}));
    let mut events = post(&server, PATH, &body).await.events();
    let last = events.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    // Two choices of one prompt: the prompt counts once.
    assert_eq!(last["usage"]["prompt_tokens"], 9);
    assert_eq!(last["usage"]["completion_tokens"], 4);
    assert_eq!(last["timings"]["predicted_n"], 4);
    for event in &events {
        assert_eq!(event["usage"], Value::Null);
        assert_eq!(event.get("timings"), None);
        assert_eq!(event["choices"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn choices_have_seeds_of_their_own() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let body = post(&server, PATH, &ask(json!({"n": 3, "seed": 5}))).await.json();
    let texts: Vec<&str> =
        (0..3).map(|at| body["choices"][at]["message"]["content"].as_str().unwrap()).collect();
    // The summary's text belongs to the answer.
    assert_eq!(texts, ["a", "a1", "a2"]);
    let seeds: Vec<_> = engine.seen.lock().unwrap().iter().map(|request| request.sampling.seed).collect();
    assert_eq!(seeds, [Some(5), Some(6), Some(7)]);
    let events = post(&server, PATH, &streaming(json!({"n": 2}))).await.events();
    assert_eq!(joined(&events, 1, "content"), "a4");
    assert_eq!(engine.last().sampling.seed, None);
}

#[tokio::test]
async fn a_length_limit_has_its_own_finish_reason() {
    let script = Script::Say(vec!["a"], FinishReason::Length);
    let (server, _) = start(ServerConfig::default(), script);
    let body = post(&server, PATH, &ask(json!({"max_tokens": 1}))).await.json();
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn reasoning_is_separated_and_counted() {
    let (server, _) = start(ServerConfig::default(), say(&["<th", "ink>", "why", "</think>", "\n\n", "so"]));
    let body = post(&server, PATH, &ask(json!({}))).await.json();
    let message = &body["choices"][0]["message"];
    assert_eq!(*message, json!({"role": "assistant", "content": "so", "reasoning_content": "why"}));
    // The tags count; the white space after them does not.
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 4);

    let events = post(&server, PATH, &streaming(json!({}))).await.events();
    assert_eq!(joined(&events, 0, "reasoning_content"), "why");
    assert_eq!(joined(&events, 0, "content"), "so1");
}

#[tokio::test]
async fn tokens_of_one_event_are_one_chunk_but_reasoning_and_content_are_two() {
    let script = Script::Replay(vec!["<think>", "wh", "y", "</think>", "\n\n", "s", "o"]);
    let (server, _) = start(ServerConfig::default(), script);
    let events = post(&server, PATH, &streaming(json!({"logprobs": true}))).await.events();
    let with = |field: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["choices"][0]["delta"][field].as_str().is_some_and(|s| !s.is_empty()))
            .collect()
    };
    let ([thought], [answer]) = (&with("reasoning_content")[..], &with("content")[..]) else {
        panic!("one chunk of each: {events:?}");
    };
    assert_eq!(thought["choices"][0]["delta"], json!({"reasoning_content": "why"}));
    assert_eq!(answer["choices"][0]["delta"], json!({"content": "so"}));
    let count = |event: &Value, field: &str| event["choices"][0]["logprobs"][field].as_array().map(Vec::len);
    assert_eq!((count(thought, "content"), count(thought, "reasoning_content")), (Some(0), Some(2)));
    assert_eq!((count(answer, "content"), count(answer, "reasoning_content")), (Some(2), None));
}

#[tokio::test]
async fn a_prompt_that_opens_reasoning_starts_the_response_in_it() {
    let (server, _) = start(ServerConfig::default(), say(&["why", "</think>", "so"]));
    for body in [
        ask(json!({"thinking": {"type": "enabled"}})),
        ask(json!({"chat_template_kwargs": {"enable_thinking": true}, "thinking": {"type": "disabled"}})),
    ] {
        let message = post(&server, PATH, &body).await.json()["choices"][0]["message"].clone();
        assert_eq!(message["reasoning_content"], "why");
    }
    let message = post(&server, PATH, &ask(json!({"thinking": {"type": "disabled"}}))).await.json();
    assert_eq!(message["choices"][0]["message"]["content"], "why</think>so2");
}

fn weather_tool() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
}

#[tokio::test]
async fn tool_calls_are_parsed_if_tools_were_given() {
    let pieces = [
        "Let me see.\n",
        "<tool_",
        "call>\n{\"name\": \"weather\", ",
        "\"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
    ];
    let (server, engine) = start(ServerConfig::default(), say(&pieces));
    let body = post(&server, PATH, &ask(json!({"tools": weather_tool()}))).await.json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "Let me see.");
    let call = &choice["message"]["tool_calls"][0];
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(call["type"], "function");
    assert_eq!(call["function"], json!({"name": "weather", "arguments": "{\"city\":\"Rome\"}"}));
    assert_eq!(call.get("index"), None);
    let prompt: Vec<u8> = engine.last().prompt.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    assert!(String::from_utf8(prompt).unwrap().contains("weather"));

    for untouched in [json!({}), json!({"tools": weather_tool(), "tool_choice": "none"})] {
        let choice = post(&server, PATH, &ask(untouched)).await.json()["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "stop");
        assert!(choice["message"]["content"].as_str().unwrap().starts_with(&pieces.concat()));
    }
}

#[tokio::test]
async fn an_answer_continues_a_last_message_of_the_assistant() {
    let (server, engine) = start(ServerConfig::default(), say(&[" more"]));
    let messages = |last: Value| json!([{"role": "user", "content": "Hi"}, last]);
    let turn = json!({"role": "assistant", "content": "I say"});
    let prefix = json!({"role": "assistant", "content": "I say", "prefix": true});
    for body in [
        json!({"messages": messages(prefix.clone())}),
        json!({"messages": messages(turn.clone()), "continue_final_message": true, "add_generation_prompt": false}),
    ] {
        let reply = post(&server, PATH, &body).await;
        let prompt: Vec<u8> = engine.last().prompt.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
        assert_eq!(String::from_utf8(prompt).unwrap(), "user:Hi;I say");
        let text = reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        assert!(text.starts_with(" more"), "what the client has is not repeated: {text}");
    }
    let reasons = json!({"messages": messages(prefix.clone()), "thinking": {"type": "enabled"}});
    let first = json!({"messages": [prefix, {"role": "user", "content": "Hi"}]});
    let users = json!({"messages": [{"role": "user", "content": "Hi"}], "continue_final_message": true});
    for (body, param) in
        [(reasons, "messages"), (first, "messages[0].prefix"), (users, "continue_final_message")]
    {
        let reply = post(&server, PATH, &body).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{body}");
    }
}

#[tokio::test]
async fn one_call_is_returned_if_parallel_calls_are_off() {
    let call = "<tool_call>{\"name\":\"weather\"}</tool_call>";
    let (server, _) = start(ServerConfig::default(), say(&[call, call]));
    for (parallel, count) in [(json!(true), 2), (json!(null), 2), (json!(false), 1)] {
        let body = ask(json!({"tools": weather_tool(), "parallel_tool_calls": parallel}));
        let message = post(&server, PATH, &body).await.json()["choices"][0]["message"].clone();
        assert_eq!(message["tool_calls"].as_array().unwrap().len(), count, "{parallel}");
    }
}

#[tokio::test]
async fn streamed_tool_calls_are_whole_and_indexed() {
    let call = "<tool_call>{\"name\":\"weather\"}</tool_call>";
    let (server, _) =
        start(ServerConfig::default(), say(&["<tool_call>{\"na", "me\":\"weather\"}</tool_call>", call]));
    let events = post(&server, PATH, &streaming(json!({"tools": weather_tool()}))).await.events();
    let calls: Vec<&Value> =
        events.iter().filter_map(|e| e["choices"][0]["delta"].get("tool_calls")).collect();
    assert_eq!(calls.len(), 2);
    for (index, call) in calls.iter().enumerate() {
        assert_eq!(call[0]["index"], index);
        assert_eq!(call[0]["function"], json!({"name": "weather", "arguments": "{}"}));
    }
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(joined(&events, 0, "content"), "");
}

#[tokio::test]
async fn logprobs_have_openais_shape() {
    let (server, engine) = start(ServerConfig::default(), say(&["a", "b"]));
    let body = post(&server, PATH, &ask(json!({"logprobs": true, "top_logprobs": 2}))).await.json();
    let logprobs = &body["choices"][0]["logprobs"];
    assert_eq!(logprobs["content"].as_array().unwrap().len(), 2);
    assert_eq!(logprobs["refusal"], Value::Null);
    assert_eq!(
        logprobs["content"][0],
        json!({
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [
                {"token": "best", "logprob": -0.25, "bytes": [98, 101, 115, 116]},
                {"token": "worst", "logprob": -9999.0, "bytes": [119, 111, 114, 115, 116]},
            ],
        })
    );
    let body = post(&server, PATH, &ask(json!({"logprobs": true}))).await.json();
    assert_eq!(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    assert_eq!(engine.last().logprobs, Some(0));
}

#[tokio::test]
async fn streamed_logprobs_are_those_of_the_text_alone() {
    let pieces =
        ["<think>", "x", "</think>", "\n", "a", "", " b ", "<tool_call>{\"name\":\"weather\"}</tool_call>"];
    let (server, _) = start(ServerConfig::default(), say(&pieces));
    let body = streaming(json!({"logprobs": true, "tools": weather_tool()}));
    let events = post(&server, PATH, &body).await.events();
    let listed = |field: &str| -> Vec<String> {
        let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"][field].as_array());
        lists.flatten().map(|entry| entry["token"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (listed("reasoning_content"), listed("content")),
        (vec!["x".into()], vec!["a".into(), " b ".into()])
    );
    assert_eq!(
        (joined(&events, 0, "reasoning_content"), joined(&events, 0, "content")),
        ("x".into(), "a b".into())
    );
}

#[tokio::test]
async fn parameters_reach_the_engine() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let body = ask(json!({
        "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "presence_penalty": 1, "frequency_penalty": -1.5,
        "repeat_penalty": 1.1, "repeat_last_n": -1, "logit_bias": {"65": -100, "66": 2.5}, "seed": -1,
        "stop": ["\n", "END"], "stop_token_ids": [10], "max_completion_tokens": 7, "max_tokens": 9,
        "ignore_eos": true, "skip_special_tokens": false, "unknown_field": {"a": 1}, "user": null,
        "response_format": {"type": "text"}, "tool_choice": "auto",
    }));
    assert_eq!(post(&server, PATH, &body).await.status, 200);
    let request = engine.last();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p), (0.5, 40, 0.9, 0.05));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.5));
    assert_eq!((sampling.repetition_penalty, sampling.repetition_window), (1.1, usize::MAX));
    assert_eq!(sampling.logit_bias, [(65, -100.0), (66, 2.5)]);
    assert_eq!(sampling.seed, Some(u64::MAX));
    assert_eq!((request.stop, request.stop_ids), (vec!["\n".to_owned(), "END".into()], vec![10]));
    assert_eq!((request.max_tokens, request.ignore_eos, request.show_control), (Some(7), true, true));

    assert_eq!(post(&server, PATH, &ask(json!({"stop": "x", "top_k": -1}))).await.status, 200);
    let request = engine.last();
    assert_eq!((request.stop, request.max_tokens, request.sampling.top_k), (vec!["x".to_owned()], None, 0));
}

#[tokio::test]
async fn text_parts_and_earlier_tool_calls_are_accepted() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let body = json!({"messages": [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]});
    assert_eq!(post(&server, PATH, &body).await.status, 200);
}
