//! Ollama's API: chat, generate, the model, errors, streams of lines.

use foretoken_engine::{FinishReason, SubmitError};
use foretoken_server::{ApiKey, ServerConfig};
use serde_json::{Value, json};

use crate::fake_server::{BOS, CTX, Reply, Script, get, post, say, start};

const CALLS: &[&str] = &[
    "<think>",
    "hm ",
    "so</think>\n",
    "Look: <tool_",
    "call>\n{\"name\": \"weather\", \"argu",
    "ments\": {\"city\": \"Rome\"}}\n</tool_call>",
];

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
}

fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    reply
        .text
        .strip_suffix('\n')
        .unwrap()
        .split('\n')
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_chat_streams_lines_unless_told_otherwise_and_ends_with_counts_and_nanoseconds() {
    let (server, engine) = start(ServerConfig::default(), say(&["Hel", "lo"]));
    let mut body = json!({"model": "tiny:latest", "messages": [{"role": "user", "content": "hi"}]});
    let lines = lines(&post(&server, "/api/chat", &body).await);
    let texts: Vec<&Value> = lines.iter().map(|line| &line["message"]["content"]).collect();
    assert_eq!(texts, ["Hel", "lo", ""]);
    assert_eq!(lines[0]["message"]["role"], "assistant");
    assert_eq!(lines.iter().map(|line| line["done"] == true).collect::<Vec<_>>(), [false, false, true]);
    let end = &lines[2];
    assert_eq!((&end["done_reason"], &end["model"]), (&json!("stop"), &json!("tiny")));
    assert_eq!((&end["prompt_eval_count"], &end["eval_count"]), (&json!(9), &json!(2)));
    assert_eq!(
        (&end["prompt_eval_duration"], &end["eval_duration"]),
        (&json!(10_000_000), &json!(20_000_000))
    );
    assert!(end["total_duration"].as_u64().unwrap() > 0);
    assert_eq!(end["timings"]["cache_n"], 4);
    assert_eq!(engine.last().max_tokens, None);

    body["stream"] = false.into();
    let whole = post(&server, "/api/chat", &body).await.json();
    // Every answer of the scripted engine but the first ends with its number.
    assert_eq!(whole["message"], json!({"role": "assistant", "content": "Hello1"}));
    assert_eq!((&whole["done"], &whole["eval_count"]), (&json!(true), &json!(2)));
    assert!(whole["created_at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn reasoning_and_whole_calls_have_fields_of_their_own() {
    let (server, _) = start(ServerConfig::default(), say(CALLS));
    let mut body =
        json!({"messages": [{"role": "user", "content": "hi"}], "tools": weather(), "stream": false});
    let call = json!({"function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}});
    let whole = post(&server, "/api/chat", &body).await.json();
    assert_eq!(
        whole["message"],
        json!({"role": "assistant", "content": "Look:", "thinking": "hm so", "tool_calls": [call]})
    );
    assert_eq!(whole["done_reason"], "stop");

    body["stream"] = true.into();
    let lines = lines(&post(&server, "/api/chat", &body).await);
    let joined =
        |field: &str| -> String { lines.iter().filter_map(|line| line["message"][field].as_str()).collect() };
    assert_eq!((joined("thinking").as_str(), joined("content").as_str()), ("hm so", "Look:1"));
    // What follows the call is the number of the scripted engine's second answer.
    let calls: Vec<&Value> = lines.iter().filter_map(|line| line["message"].get("tool_calls")).collect();
    assert_eq!(calls, [&json!([call])]);
}

#[tokio::test]
async fn options_reach_the_sampler() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let options = json!({
        "temperature": 0.25, "top_k": 7, "top_p": 0.5, "min_p": 0.125, "repeat_penalty": 1.5, "repeat_last_n": -1,
        "presence_penalty": 0.5, "frequency_penalty": 0.75, "seed": 11, "num_predict": 6, "stop": ["x", "y"],
        "num_ctx": 2048,
    });
    let body = json!({"prompt": "hi", "options": options, "stream": false});
    assert_eq!(post(&server, "/api/generate", &body).await.status, 200);
    let request = engine.last();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p), (0.25, 7, 0.5, 0.125));
    assert_eq!((sampling.repetition_penalty, sampling.repetition_window), (1.5, usize::MAX));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (0.5, 0.75));
    assert_eq!((sampling.seed, request.max_tokens), (Some(11), Some(6)));
    assert_eq!(request.stop, ["x", "y"]);
    for unlimited in [-1, -2] {
        let body = json!({"prompt": "hi", "options": {"num_predict": unlimited}, "stream": false});
        assert_eq!(post(&server, "/api/generate", &body).await.status, 200);
        assert_eq!(engine.last().max_tokens, None);
    }
}

#[tokio::test]
async fn generate_renders_a_conversation_and_raw_does_not() {
    let (server, engine) =
        start(ServerConfig::default(), Script::Say(vec!["<think>a"], FinishReason::Length));
    let prompt = |text: &str| -> Vec<u32> { [BOS].into_iter().chain(text.bytes().map(u32::from)).collect() };
    let body = json!({"prompt": "hi", "system": "be kind", "stream": false});
    let whole = post(&server, "/api/generate", &body).await.json();
    assert_eq!(engine.last().prompt, prompt("system:be kind;user:hi;"));
    assert_eq!((&whole["response"], &whole["thinking"]), (&json!(""), &json!("a")));
    assert_eq!(whole["done_reason"], "length");

    let whole =
        post(&server, "/api/generate", &json!({"prompt": "hi", "raw": true, "stream": false})).await.json();
    assert_eq!(engine.last().prompt, prompt("hi"));
    assert_eq!(whole["response"], "<think>a1");
}

#[tokio::test]
async fn a_conversation_with_calls_and_results_is_read() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "thinking": "hm",
         "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
        {"role": "assistant", "content": "It is"},
    ]);
    let reply = post(&server, "/api/chat", &json!({"messages": messages, "stream": false})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let text: String = engine.last().prompt.iter().filter_map(|&id| char::from_u32(id)).skip(1).collect();
    // The last turn is continued.
    assert_eq!(text, "user:hi;assistant:;tool:sunny;It is");
}

#[tokio::test]
async fn the_model_is_listed_shown_and_loaded() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    for path in ["/api/tags", "/api/ps"] {
        let model = get(&server, path).await.json()["models"][0].clone();
        assert_eq!(
            (&model["name"], &model["model"], &model["size"]),
            (&json!("tiny"), &json!("tiny"), &json!(9))
        );
        assert_eq!(model["digest"], "0123456789abcdef");
        assert_eq!(model["details"]["family"], "llama");
        assert_eq!(model["details"]["parameter_size"], "134.52M");
    }
    assert_eq!(get(&server, "/api/ps").await.json()["models"][0]["context_length"], CTX);
    for body in [json!({"model": "tiny"}), json!({"name": "tiny:latest"})] {
        let shown = post(&server, "/api/show", &body).await.json();
        assert_eq!(shown["model_info"]["general.parameter_count"], 134_515_008);
        assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    }
    let version = get(&server, "/api/version").await.json();
    assert!(version["version"].as_str().unwrap().split('.').all(|part| part.parse::<u32>().is_ok()));

    let loaded = post(&server, "/api/generate", &json!({"model": "tiny"})).await.json();
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let loaded = post(&server, "/api/chat", &json!({"messages": []})).await.json();
    assert_eq!((&loaded["done_reason"], &loaded["message"]["content"]), (&json!("load"), &json!("")));
    assert!(engine.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn errors_are_texts_whatever_refuses() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let error = |reply: Reply| (reply.status.as_u16(), reply.json()["error"].as_str().unwrap().to_owned());
    let (status, text) =
        error(post(&server, "/api/chat", &json!({"model": "other", "messages": [{}]})).await);
    assert!(status == 404 && text.contains("'other' is not served here"), "{text}");
    let message = json!({"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]});
    let (status, text) = error(post(&server, "/api/chat", &message).await);
    assert!(status == 400 && text.starts_with("'messages[0].images'"), "{text}");
    let (status, text) = error(
        post(&server, "/api/generate", &json!({"prompt": "x", "options": {"repeat_penalty": -1}})).await,
    );
    assert!(status == 400 && text.starts_with("'options.repeat_penalty'"), "{text}");
    let (status, text) =
        error(post(&server, "/api/chat", &json!({"messages": [{"role": "robot", "content": "x"}]})).await);
    assert!(status == 400 && text.contains("\"robot\""), "{text}");
    assert_eq!(error(get(&server, "/api/nowhere").await).0, 404);
    let keyed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..ServerConfig::default() };
    let (server, _) = start(keyed, say(&["a"]));
    for path in ["/api/tags", "/api/version"] {
        assert_eq!(error(get(&server, path).await).0, 401);
    }
    let (server, _) =
        start(ServerConfig::default(), Script::Refuse(SubmitError::QueueFull { retry_after_s: 3 }));
    let reply = post(&server, "/api/generate", &json!({"prompt": "x"})).await;
    assert_eq!(reply.headers["retry-after"], "3");
    assert_eq!(error(reply).0, 429);
    let (server, _) = start(ServerConfig::default(), Script::Die);
    let lines = lines(&post(&server, "/api/generate", &json!({"prompt": "x"})).await);
    assert_eq!(lines[0]["response"], "x");
    assert!(lines[1]["error"].as_str().unwrap().contains("before the answer was complete"));
}
