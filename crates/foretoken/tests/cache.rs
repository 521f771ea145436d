//! The context cache end to end: restarts, kills, tenants, and requests that want none of it.

mod common;

use std::path::Path;
use std::time::Duration;

use common::Server;
use serde_json::{Value, json};

const TEXT: &str = "/v1/completions";

/// A prompt of several blocks.
fn prompt() -> String {
    (0..120).map(|i| format!("Item {i} costs {} coins. ", i * 7 % 31)).collect()
}

fn body(more: &Value) -> Value {
    let mut body = json!({"prompt": prompt(), "max_tokens": 12, "temperature": 0, "ignore_eos": true});
    for (key, value) in more.as_object().expect("fields") {
        body[key] = value.clone();
    }
    body
}

/// Text and cached tokens of an answer.
fn ask(server: &Server, more: &Value) -> (String, u64) {
    read(&server.ask(TEXT, &body(more)))
}

fn read(answer: &Value) -> (String, u64) {
    let text = answer["choices"][0]["text"].as_str().expect("a text").to_owned();
    let usage = &answer["usage"];
    let hit = usage["prompt_cache_hit_tokens"].as_u64().expect("a count");
    assert_eq!(Some(hit), usage["prompt_tokens_details"]["cached_tokens"].as_u64());
    let miss = usage["prompt_cache_miss_tokens"].as_u64().expect("a count");
    assert_eq!(Some(hit + miss), usage["prompt_tokens"].as_u64());
    (text, hit)
}

/// The shared model, and blocks in a folder of the test's own.
fn start(data: &Path, more: &[&str]) -> Server {
    let models = common::data_dir().join("models");
    if !data.join("models").exists() {
        std::os::unix::fs::symlink(models, data.join("models")).expect("a link");
    }
    let mut args = vec!["--data-dir", data.to_str().expect("UTF-8")];
    args.extend(more);
    Server::start(&args)
}

fn folder() -> tempfile::TempDir {
    // The model must be there before folders link to it.
    common::stdout_of(&["pull", "smollm2"]);
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_restarted_server_starts_from_what_it_had_read() {
    let data = folder();
    // Without replays, which look at no prefix.
    let no_replay = ["--responses", "off"];
    let mut server = start(data.path(), &no_replay);
    let (cold, none) = ask(&server, &json!({}));
    let (warm, all) = ask(&server, &json!({}));
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let (again, restored) = ask(&start(data.path(), &no_replay), &json!({}));
    assert_eq!((&cold, &cold), (&warm, &again));
    assert_eq!(none, 0);
    assert!(all > 64 && restored > 64 && restored <= all, "{all} and {restored}");
}

#[test]
fn a_killed_server_leaves_nothing_that_changes_an_answer() {
    let data = folder();
    let (expected, _) = ask(&start(data.path(), &["--cache-disk", "0"]), &json!({}));
    for _ in 0..3 {
        // Dropped: killed while blocks may still be on their way to the disk.
        let server = start(data.path(), &[]);
        assert_eq!(ask(&server, &json!({})).0, expected);
    }
}

#[test]
fn a_request_that_wants_no_cache_leaves_and_finds_nothing() {
    let data = folder();
    let server = start(data.path(), &["--cache-disk", "0"]);
    let no_write = json!({"cache": {"write": false}});
    assert_eq!(ask(&server, &no_write).1, 0);
    let (text, hit) = ask(&server, &json!({}));
    assert_eq!(hit, 0, "the first request wrote nothing");
    assert_eq!(ask(&server, &json!({"cache": {"read": false}})), (text, 0));
    let header = [("Cache-Control", "no-cache")];
    let sent = server.send("POST", TEXT, &body(&json!({})).to_string(), &header).finish();
    assert_eq!(read(&sent.json()).1, 0);
    assert!(ask(&server, &json!({})).1 > 64);
}

#[test]
fn one_user_sees_nothing_of_another() {
    let data = folder();
    let server = start(data.path(), &["--cache-disk", "0"]);
    let hit = |user: &str| ask(&server, &json!({"user_id": user})).1;
    assert_eq!((hit("a"), hit("b")), (0, 0));
    assert!(hit("a") > 64);
}

#[test]
fn prefix_counters_are_exported() {
    let data = folder();
    let server = start(data.path(), &["--cache-disk", "0"]);
    ask(&server, &json!({}));
    // The same prompt, but not the same request: that would be replayed without a look at the prefix.
    let (_, hit) = ask(&server, &json!({"max_tokens": 13}));
    server.wait_for("vllm:prefix_cache_hits_total", hit as f64, Duration::from_secs(5));
    assert!(server.metric("vllm:prefix_cache_queries_total") > hit as f64);
}

#[test]
fn a_data_folder_that_cannot_be_made_costs_the_disk_cache_only() {
    let data = folder();
    let model = common::stdout_of(&["pull", "smollm2"]);
    let file = data.path().join("file");
    std::fs::write(&file, b"in the way").expect("written");
    let below = file.join("data");
    let server = Server::start(&["--data-dir", below.to_str().expect("UTF-8"), "--model", model.trim()]);
    assert_eq!(ask(&server, &json!({})).1, 0);
    assert!(ask(&server, &json!({})).1 > 64);
}
