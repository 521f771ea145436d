//! `/v1/completions`: kinds of prompts, echo, log-probabilities, streaming.

use foretoken_server::ServerConfig;
use serde_json::{Value, json};

use crate::fake_server::{BOS, post, say, start};

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn every_kind_of_prompt_is_read() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let cases: [(Value, Vec<Vec<u32>>); 4] = [
        (json!("Hi"), vec![vec![BOS, 72, 105]]),
        (json!(["H", "i"]), vec![vec![BOS, 72], vec![BOS, 105]]),
        (json!([72, 105]), vec![vec![72, 105]]),
        (json!([[72], [105, 106]]), vec![vec![72], vec![105, 106]]),
    ];
    for (prompt, wanted) in cases {
        engine.seen.lock().unwrap().clear();
        let reply = post(&server, PATH, &json!({"prompt": prompt})).await;
        assert_eq!(reply.status, 200, "{prompt}: {}", reply.text);
        let seen: Vec<_> = engine.seen.lock().unwrap().iter().map(|request| request.prompt.clone()).collect();
        assert_eq!(seen, wanted);
        assert_eq!(engine.last().max_tokens, Some(16));
    }
}

#[tokio::test]
async fn choices_are_numbered_prompt_by_prompt() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    let body = json!({"prompt": ["12345", "1234567"], "n": 2, "echo": true});
    let body = post(&server, PATH, &body).await.json();
    assert_eq!(body["object"], "text_completion");
    let choices = body["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["12345a", "12345a1", "1234567a2", "1234567a3"]);
    assert_eq!(choices[3]["index"], 3);
    // Each prompt counts once: 6 + 8 with BOS, of which 4 each were cached.
    let usage = &body["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(14), &json!(4)));
    assert_eq!(
        (&usage["prompt_cache_hit_tokens"], &usage["prompt_cache_miss_tokens"]),
        (&json!(8), &json!(6))
    );
}

#[tokio::test]
async fn logprobs_have_the_legacy_shape() {
    let (server, _) = start(ServerConfig::default(), say(&["é", "b"]));
    let body = post(&server, PATH, &json!({"prompt": "x", "logprobs": 1})).await.json();
    assert_eq!(
        body["choices"][0]["logprobs"],
        json!({
            "tokens": ["é", "b"],
            "token_logprobs": [-0.5, -0.5],
            "top_logprobs": [{"best": -0.25, "é": -0.5}, {"best": -0.25, "b": -0.5}],
            "text_offset": [0, 1],
        })
    );
}

#[tokio::test]
async fn text_offsets_continue_across_chunks() {
    let (server, _) = start(ServerConfig::default(), say(&["ab", "", "c"]));
    let events = post(&server, PATH, &json!({"prompt": "x", "logprobs": 0, "stream": true})).await.events();
    let choices: Vec<&Value> = events.iter().map(|event| &event["choices"][0]).collect();
    assert_eq!(choices[0]["text"], "ab");
    assert_eq!(choices[1]["text"], "c");
    assert_eq!(choices[1]["logprobs"]["text_offset"], json!([2]));
    assert_eq!(*choices[2], json!({"index": 0, "text": "", "logprobs": null, "finish_reason": "stop"}));
    assert_eq!(choices.len(), 3);
}

#[tokio::test]
async fn echo_comes_first_in_a_stream() {
    let (server, _) = start(ServerConfig::default(), say(&["b"]));
    let body = json!({"prompt": [97, 97], "echo": true, "stream": true});
    let events = post(&server, PATH, &body).await.events();
    assert_eq!(events[0]["choices"][0]["text"], "aab");
}

#[tokio::test]
async fn reasoning_tags_are_plain_text_here() {
    let (server, _) = start(ServerConfig::default(), say(&["<think>a</think>"]));
    let body = post(&server, PATH, &json!({"prompt": "x"})).await.json();
    assert_eq!(body["choices"][0]["text"], "<think>a</think>");
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
}
