//! Life of a cache entry, with the real server and the real command: prewarm, pin, list, verify, clear.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use common::{Response, Server};
use serde_json::{Value, json};

const TEXT: &str = "/v1/completions";

/// A server on the shared model, with two accounts and an operator.
fn start(data: &Path, more: &[&str]) -> Server {
    let model = common::stdout_of(&["pull", "smollm2"]).trim().to_owned();
    let mut args = vec!["--model", &model, "--data-dir", data.to_str().expect("UTF-8")];
    args.extend(["--account", "alice=sk-a", "--account", "bob=sk-b", "--admin-key", "root"]);
    args.extend(more);
    Server::start(&args)
}

fn send(server: &Server, method: &str, key: &str, path: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {key}");
    server.send(method, path, &body.to_string(), &[("Authorization", &bearer)]).finish()
}

fn post(server: &Server, key: &str, path: &str, body: &Value) -> Value {
    let response = send(server, "POST", key, path, body);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

fn info(server: &Server) -> Value {
    let response = send(server, "GET", "root", "/v1/cache", &json!({}));
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

/// About 9 tokens per item.
fn text(topic: &str, items: usize) -> String {
    (0..items).map(|i| format!("{topic} {i} costs {} coins. ", i * 7 % 31)).collect()
}

/// Requests one token; returns the hit tokens and whether the response was replayed.
fn ask(server: &Server, key: &str, prompt: &str) -> (u64, bool) {
    let body = json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": true});
    let answer = post(server, key, TEXT, &body);
    let hit = answer["usage"]["prompt_cache_hit_tokens"].as_u64().expect("a count");
    (hit, answer["cost"]["replayed"].as_bool().expect("a boolean"))
}

/// Waits for the store's writer thread.
fn is_replayed_eventually(server: &Server, key: &str, prompt: &str) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        ask(server, key, prompt).1
    })
}

fn command(data: &Path, args: &[&str]) -> std::process::Output {
    common::run(&[&["cache"], args, &["--data-dir", data.to_str().expect("UTF-8")]].concat())
}

fn json_of(data: &Path, args: &[&str]) -> Value {
    let output = command(data, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", common::stderr(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn files(data: &Path) -> Vec<PathBuf> {
    let folders =
        std::fs::read_dir(data.join("blocks")).expect("a folder").map(|entry| entry.expect("an entry"));
    let folders = folders.filter(|folder| folder.file_name().len() == 2);
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder"));
    files.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn a_prewarmed_prompt_hits_and_leaves_no_cached_response() {
    let data = tempfile::tempdir().expect("a folder");
    let server = start(data.path(), &["--responses", "always"]);
    let prompt = text("Bread", 40);
    let report = post(&server, "sk-a", "/v1/cache/prewarm", &json!({"prompt": prompt}));
    let tokens = report["tokens"].as_u64().expect("a count");
    assert_eq!((&report["hit"], report["computed"].as_u64()), (&json!(0), Some(tokens)));
    assert_eq!(report["blocks"].as_u64(), Some(tokens.div_ceil(64)));
    assert_eq!(info(&server)["responses"]["entries"], 0);
    let again = post(&server, "sk-a", "/v1/cache/prewarm", &json!({"prompt": prompt}));
    assert_eq!(again["hit"].as_u64(), Some(tokens - 1), "all but the token whose logits are wanted");
    assert_eq!(ask(&server, "sk-b", &prompt), (0, false), "another tenant does not hit it");
    assert_eq!(ask(&server, "sk-a", &prompt), (tokens - 1, false));
    assert!(is_replayed_eventually(&server, "sk-a", &prompt));
}

#[test]
fn a_pinned_prompt_survives_eviction_pressure() {
    let data = tempfile::tempdir().expect("a folder");
    // 1.4 MiB a block: about 45 of them, of which a context takes 16.
    let bounds = ["--cache-ram", "64MiB", "--ctx", "1024", "--cache-disk", "0", "--pin-share", "100"];
    let server = start(data.path(), &bounds);
    let (pinned, loose) = (text("Bread", 60), text("Milk", 60));
    let report = post(&server, "sk-a", "/v1/cache/pin", &json!({"prompt": pinned, "ttl_s": 600}));
    let tokens = report["tokens"].as_u64().expect("a count");
    assert_eq!(report["pinned_tokens"].as_u64(), Some(tokens));
    assert_eq!(info(&server)["tiers"][0]["pinned_blocks"].as_u64(), Some(tokens.div_ceil(64)));
    ask(&server, "sk-a", &loose);
    // A new text each time: an earlier one would be replayed.
    let press = |round: &str| {
        (0..6).for_each(|i| assert!(!ask(&server, "sk-b", &text(&format!("{round}{i}"), 75)).1));
    };
    press("One");
    assert!(info(&server)["tiers"][0]["evicted"]["room"].as_u64() > Some(0), "there was pressure");
    assert_eq!(ask(&server, "sk-a", &pinned).0, tokens - 1);
    assert_eq!(ask(&server, "sk-a", &format!("{loose} ")).0, 0);

    // Too large a pin on top is refused, and says how much is left.
    let large = text("Salt", 95);
    let mut refused = None;
    for i in 0..4 {
        let body = json!({"prompt": format!("{i} {large}"), "ttl_s": 600});
        let response = send(&server, "POST", "sk-b", "/v1/cache/pin", &body);
        if response.status != 200 {
            refused = Some(response.error(409));
            break;
        }
    }
    let error = refused.expect("memory is not that large");
    let message = error["message"].as_str().expect("a text");
    assert!(message.contains("all tenants together may pin") && message.contains("--cache-ram"), "{message}");
    // A whole context still runs beside the pins.
    assert!(!ask(&server, "sk-b", &text("Rye", 95)).1);

    let unpinned = post(&server, "sk-a", "/v1/cache/unpin", &json!({"prompt": pinned}));
    assert_eq!(unpinned["blocks"].as_u64(), Some(tokens.div_ceil(64)));
    press("Two");
    assert_eq!(ask(&server, "sk-a", &format!("{pinned} ")).0, 0);
}

#[test]
fn deleted_entries_miss_and_are_not_replayed_also_after_a_restart() {
    let data = tempfile::tempdir().expect("a folder");
    let mut server = start(data.path(), &[]);
    let prompt = text("Bread", 40);
    for key in ["sk-a", "sk-b"] {
        assert_eq!(ask(&server, key, &prompt), (0, false));
        assert!(is_replayed_eventually(&server, key, &prompt));
    }
    for (key, status) in [("sk-a", 403), ("wrong", 401)] {
        send(&server, "DELETE", key, "/v1/cache?account=alice", &json!({})).error(status);
    }
    assert!(ask(&server, "sk-a", &prompt).1, "a refused deletion deletes nothing");
    let report = send(&server, "DELETE", "root", "/v1/cache?account=alice", &json!({})).json();
    assert!(report["blocks"]["disk"].as_u64() > Some(4), "{report}");
    assert_eq!(ask(&server, "sk-a", &prompt), (0, false));
    assert!(ask(&server, "sk-b", &prompt).1, "bob keeps his");

    send(&server, "DELETE", "root", "/v1/cache?all=true", &json!({}));
    assert!(files(data.path()).is_empty());
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let server = start(data.path(), &[]);
    assert_eq!(ask(&server, "sk-b", &prompt), (0, false));
}

#[test]
fn the_command_does_on_a_server_what_the_routes_do() {
    let data = tempfile::tempdir().expect("a folder");
    let server = start(data.path(), &["--cache-disk", "0"]);
    let url = format!("http://{}", server.address());
    let file = data.path().join("messages.json");
    let messages =
        json!([{"role": "system", "content": text("Bread", 30)}, {"role": "user", "content": "Hi"}]);
    std::fs::write(&file, messages.to_string()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (client, operator) =
        (["--server", &url, "--api-key", "sk-a"], ["--server", &url, "--admin-key", "root"]);

    let pin = json_of(data.path(), &[&["pin", file, "--ttl", "60"], &client[..]].concat());
    assert_eq!((&pin["ttl_s"], &pin["pinned_tokens"]), (&json!(60), &pin["tokens"]));
    let warm = json_of(data.path(), &[&["prewarm", file], &client[..]].concat());
    assert_eq!(warm["computed"], 1);
    let chat = json!({"messages": messages, "max_tokens": 1});
    let answer = post(&server, "sk-a", "/v1/chat/completions", &chat);
    assert_eq!(answer["usage"]["prompt_cache_miss_tokens"], 1);
    let list = json_of(data.path(), &[&["ls"], &operator[..]].concat());
    assert_eq!((&list["total"], &list["data"][0]["tokens"]), (&json!(1), &pin["tokens"]));
    assert!(list["data"][0]["pinned_s"].as_u64() <= Some(60) && list["data"][0]["pinned_s"].is_u64());
    let stat = command(data.path(), &[&["stat"], &operator[..]].concat());
    let table = String::from_utf8(stat.stdout).expect("UTF-8");
    assert!(table.lines().any(|line| line.starts_with("memory")), "{table}");
    let unpin = json_of(data.path(), &[&["unpin", file], &client[..]].concat());
    assert_eq!(unpin["blocks"], pin["blocks"]);
    let refused = command(data.path(), &[&["clear", "--all"], &client[..]].concat());
    assert!(!refused.status.success() && common::stderr(&refused).contains("operator's key"));
    let cleared = json_of(data.path(), &[&["clear", "--tenant", "alice"], &operator[..]].concat());
    assert_eq!(cleared["blocks"]["memory"], pin["blocks"]);
    assert_eq!(json_of(data.path(), &[&["ls"], &operator[..]].concat())["total"], 0);
}

#[test]
fn the_command_works_on_a_folder_without_a_server() {
    let data = tempfile::tempdir().expect("a folder");
    let mut server = start(data.path(), &[]);
    ask(&server, "sk-a", &text("Bread", 40));
    ask(&server, "sk-b", &text("Milk", 40));
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let there = files(data.path());
    let stat = json_of(data.path(), &["stat"]);
    let disk = &stat["tiers"][0];
    assert_eq!((disk["blocks"].as_u64(), &disk["scopes"]), (Some(there.len() as u64), &json!(2)));
    assert_eq!(stat["responses"]["entries"], 2);
    let list = json_of(data.path(), &["ls"]);
    assert_eq!(list["total"], 2, "a prefix per prompt: {list}");
    assert_eq!(json_of(data.path(), &["verify"])["good"].as_u64(), Some(there.len() as u64));

    let mut bytes = std::fs::read(&there[0]).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&there[0], bytes).expect("written");
    let output = command(data.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.contains("moved to quarantine") && said.contains("(corrupt)"), "{said}");
    assert!(!there[0].exists());
    assert_eq!(json_of(data.path(), &["verify"])["good"].as_u64(), Some(there.len() as u64 - 1));

    let pin = command(data.path(), &["pin", "-"]);
    assert!(
        !pin.status.success() && common::stderr(&pin).contains("running server"),
        "{}",
        common::stderr(&pin)
    );
    let scope = list["data"][0]["scope"].as_str().expect("a name");
    assert!(!command(data.path(), &["clear"]).status.success());
    let cleared = json_of(data.path(), &["clear", "--scope", scope]);
    let deleted = cleared["blocks"]["disk"].as_u64().expect("a count");
    assert!(deleted > 0 && deleted < there.len() as u64);
    let stat = json_of(data.path(), &["stat"]);
    assert_eq!((&stat["tiers"][0]["scopes"], &stat["responses"]["entries"]), (&json!(1), &json!(1)));
    json_of(data.path(), &["clear", "--all"]);
    let stat = json_of(data.path(), &["stat"]);
    assert_eq!((&stat["tiers"][0]["blocks"], &stat["responses"]["entries"]), (&json!(0), &json!(0)));
    assert!(files(data.path()).is_empty());

    let empty = tempfile::tempdir().expect("a folder");
    let output = command(empty.path(), &["stat"]);
    assert!(common::stderr(&output).contains("no server has cached anything"), "{}", common::stderr(&output));
}
