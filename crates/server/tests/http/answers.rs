//! A streamed answer, a whole one and a replayed one are the same, in every dialect: text, calls, log-probabilities and
//! token counts.

use foretoken_engine::FinishReason;
use foretoken_server::ServerConfig;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fake_server::{Script, post, start};

const WORDS: [&str; 14] = [
    "<think>",
    "</think>",
    "</thi",
    "nk>\n\nso",
    "<tool_call>",
    "</tool_call>",
    "{\"name\":\"f\",",
    "\"arguments\":{\"a\": 1}}",
    "<tool_call>{\"name\":\"g\"}</tool_call>",
    " ",
    "\n",
    "é",
    "a",
    "",
];

/// Extends the values of a message by those of a delta: texts are appended, calls continued by their index.
fn add(message: &mut Map<String, Value>, delta: &Value) {
    for (key, value) in delta.as_object().unwrap() {
        match (message.get_mut(key), value) {
            (Some(Value::String(text)), Value::String(more)) if key != "role" => text.push_str(more),
            (_, Value::Array(calls)) => {
                let list = message.entry(key).or_insert_with(|| json!([])).as_array_mut().unwrap();
                for call in calls {
                    let index = call["index"].as_u64().unwrap() as usize;
                    if index == list.len() {
                        list.push(json!({"function": {"name": call["function"]["name"], "arguments": ""}}));
                    }
                    let mut text = list[index]["function"]["arguments"].as_str().unwrap().to_owned();
                    text.push_str(call["function"]["arguments"].as_str().unwrap());
                    list[index]["function"]["arguments"] = text.into();
                }
            }
            (_, value) => drop(message.insert(key.clone(), value.clone())),
        }
    }
}

/// Message, log-probabilities, finish reason and completion tokens of a whole response.
fn of_whole(body: &Value) -> Value {
    let choice = &body["choices"][0];
    let mut message = choice["message"].as_object().unwrap().clone();
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        *call = json!({"function": call["function"]});
    }
    if message["content"].is_null() {
        message["content"] = "".into();
    }
    let logprobs = [&choice["logprobs"]["reasoning_content"], &choice["logprobs"]["content"]];
    let logprobs: Vec<&Value> =
        logprobs.into_iter().flat_map(|list| list.as_array().into_iter().flatten()).collect();
    json!([message, logprobs, choice["finish_reason"], body["usage"]])
}

/// The same of a stream.
fn of_stream(events: &[Value]) -> Value {
    let (mut message, mut finish) = (Map::new(), Value::Null);
    let mut logprobs = [Vec::new(), Vec::new()];
    for event in events {
        let Some(choice) = event["choices"].get(0) else { continue };
        add(&mut message, &choice["delta"]);
        for (list, name) in logprobs.iter_mut().zip(["reasoning_content", "content"]) {
            list.extend(choice["logprobs"][name].as_array().cloned().unwrap_or_default());
        }
        finish = choice["finish_reason"].clone();
    }
    json!([message, logprobs.concat(), finish, events.last().unwrap()["usage"]])
}

/// The log-probabilities' tokens spell the content, apart from what tokens at its edges have of tags.
fn assert_describes_the_text(answer: &Value) {
    let tokens: String =
        answer[1].as_array().unwrap().iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    for part in ["reasoning_content", "content"] {
        let text = answer[0][part].as_str().unwrap_or_default();
        let words = text.split_whitespace().filter(|word| !word.contains('<') && !word.contains('>'));
        for word in words {
            assert!(tokens.contains(word), "{word:?} has no log-probabilities: {answer}");
        }
    }
    if answer[0]["content"] == "" && answer[0].get("reasoning_content").is_none() {
        assert_eq!(tokens, "", "{answer}");
    }
}

async fn ask(script: Script, tools: bool, stream: bool) -> Value {
    let (server, _) = start(ServerConfig::default(), script);
    let mut body = json!({
        "messages": [{"role": "user", "content": "Hi"}], "logprobs": true, "top_logprobs": 1, "stream": stream,
    });
    if tools {
        body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    }
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    let reply = post(&server, "/v1/chat/completions", &body).await;
    if stream { of_stream(&reply.events()) } else { of_whole(&reply.json()) }
}

/// The data of a stream's named events.
fn data(text: &str) -> Vec<Value> {
    let events = text.split("\n\n").filter_map(|event| event.split_once("data: "));
    events.map(|(_, data)| serde_json::from_str(data).unwrap()).collect()
}

async fn send(path: &str, mut body: Value, script: Script, tools: Value, stream: bool) -> String {
    let (server, _) = start(ServerConfig::default(), script);
    body["stream"] = stream.into();
    if !tools.is_null() {
        body["tools"] = tools;
    }
    let reply = post(&server, path, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.text
}

/// Blocks, reason and usage of a message. Ids are left out, and input that is not complete.
async fn message(script: Script, tools: bool, stream: bool) -> Value {
    let body = json!({"max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]});
    let tools = if tools { json!([{"name": "f", "input_schema": {}}]) } else { Value::Null };
    let text = send("/v1/messages", body, script, tools, stream).await;
    if !stream {
        let mut message: Value = serde_json::from_str(&text).unwrap();
        for block in message["content"].as_array_mut().unwrap() {
            block.as_object_mut().unwrap().remove("id");
        }
        return json!([message["content"], message["stop_reason"], message["usage"]]);
    }
    let (mut blocks, mut end) = (Vec::new(), Value::Null);
    let mut input = String::new();
    for event in data(&text) {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                let mut block = event["content_block"].clone();
                block.as_object_mut().unwrap().remove("id");
                blocks.push(block);
                input.clear();
            }
            "content_block_delta" => {
                let (block, delta) = (blocks.last_mut().unwrap(), &event["delta"]);
                input.push_str(delta["partial_json"].as_str().unwrap_or_default());
                for field in ["text", "thinking", "signature"] {
                    if let Some(more) = delta[field].as_str() {
                        block[field] = (block[field].as_str().unwrap().to_owned() + more).into();
                    }
                }
            }
            "content_block_stop" if !input.is_empty() => {
                blocks.last_mut().unwrap()["input"] =
                    serde_json::from_str(&input).unwrap_or_else(|_| json!({}));
            }
            "message_delta" => end = event,
            _ => {}
        }
    }
    json!([blocks, end["delta"]["stop_reason"], end["usage"]])
}

/// Items, status and usage of a response, without ids.
async fn response(script: Script, tools: bool, stream: bool) -> Value {
    let tools = if tools { json!([{"type": "function", "name": "f"}]) } else { Value::Null };
    let include = ["message.output_text.logprobs"];
    let text = send("/v1/responses", json!({"input": "Hi", "include": include}), script, tools, stream).await;
    let mut response: Value = match stream {
        true => data(&text).pop().unwrap()["response"].take(),
        false => serde_json::from_str(&text).unwrap(),
    };
    for item in response["output"].as_array_mut().unwrap() {
        for id in ["id", "call_id"] {
            item.as_object_mut().unwrap().remove(id);
        }
    }
    json!([response["output"], response["status"], response["usage"]])
}

proptest! {
    #[test]
    fn streamed_whole_and_replayed_answers_are_the_same(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..12),
        tools: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let computed = || Script::Say(words.clone(), FinishReason::Stop);
            let replayed = || Script::Replay(words.clone());
            let whole = ask(computed(), tools, false).await;
            assert_describes_the_text(&whole);
            assert_eq!(whole, ask(computed(), tools, true).await, "streamed");
            let mut replay = ask(replayed(), tools, false).await;
            assert_eq!(replay, ask(replayed(), tools, true).await, "replayed and streamed");
            // A replay's prompt is a hit.
            replay[3]["prompt_cache_hit_tokens"] = whole[3]["prompt_cache_hit_tokens"].clone();
            replay[3]["prompt_cache_miss_tokens"] = whole[3]["prompt_cache_miss_tokens"].clone();
            replay[3]["prompt_tokens_details"] = whole[3]["prompt_tokens_details"].clone();
            assert_eq!(whole, replay, "replayed");
            assert_eq!(message(computed(), tools, false).await, message(computed(), tools, true).await);
            assert_eq!(response(computed(), tools, false).await, response(computed(), tools, true).await);
        });
    }
}
