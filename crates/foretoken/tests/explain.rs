//! Cache miss explanations, from the real server and on the command line.

mod common;

use std::fs;
use std::path::Path;

use common::{Server, stdout_of};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const DRY: &str = "/v1/cache/explain";

/// A conversation under a system prompt of several blocks with a date near its end.
fn conversation(date: &str) -> Value {
    let rules = "You answer briefly, politely and always in plain English. ".repeat(20);
    let messages = json!([
        {"role": "system", "content": format!("{rules}Today is {date}. Be kind.")},
        {"role": "user", "content": "Name three rivers."},
    ]);
    json!({"messages": messages, "max_tokens": 4, "temperature": 0})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
    body
}

fn start(data: &Path, more: &[&str]) -> Server {
    let model = stdout_of(&["pull", "smollm2"]);
    let data = data.to_str().expect("UTF-8");
    Server::start(&[&["--model", model.trim(), "--data-dir", data][..], more].concat())
}

fn hit(answer: &Value) -> u64 {
    answer["usage"]["prompt_cache_hit_tokens"].as_u64().expect("a count")
}

/// Checks that the report names the changed date; returns the hit tokens in memory and on disk.
fn assert_names_the_date(report: &Value) -> (u64, u64) {
    assert_eq!(report["cause"], "date", "{report}");
    let message = report["message"].as_str().expect("a sentence");
    assert!(message.contains("'2026-11-24' here, '2026-11-23' in what is cached"), "{message}");
    let divergence = &report["divergence"];
    assert_eq!(divergence["field"], "messages[0].content");
    let text = conversation("2026-11-24")["messages"][0]["content"].as_str().expect("a text").to_owned();
    let offset = divergence["offset"].as_u64().expect("a number") as usize;
    let rest: String = text.chars().skip(offset).collect();
    assert_eq!(rest, "4. Be kind.");
    let shown = divergence["prompt"].as_str().expect("a text");
    assert!(shown.starts_with("4. Be kind.") && shown.contains("Name three rivers."), "{shown}");
    let shown = divergence["cached"].as_str().expect("a text");
    assert!(shown.starts_with("3. Be kind."), "{shown}");
    let tier = |name: &str| report["tiers"][name].as_u64().expect("a count");
    (tier("memory"), tier("disk"))
}

#[test]
fn a_changed_date_is_named_from_memory_and_after_a_restart_from_disk() {
    let data = tempfile::tempdir().expect("a folder");
    let explain = json!({"cache": {"explain": true, "write": false}});
    let mut server = start(data.path(), &[]);
    let first = server.ask(CHAT, &with(conversation("2026-11-23"), json!({"cache": {"explain": true}})));
    assert_eq!(first["cache"]["cause"], "nothing_cached");
    let second = server.ask(CHAT, &with(conversation("2026-11-24"), explain.clone()));
    let (memory, _) = assert_names_the_date(&second["cache"]);
    assert_eq!(memory, hit(&second), "the dry run predicted the hit");
    assert!(memory > 64);
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let server = start(data.path(), &[]);
    let (memory, disk) = assert_names_the_date(&server.ask(DRY, &conversation("2026-11-24")));
    assert_eq!(memory, 0);
    let answer = server.ask(CHAT, &with(conversation("2026-11-24"), explain));
    assert_eq!((disk, disk % 64), (hit(&answer), 0));
    assert!(disk >= 64);
}

#[test]
fn a_dry_run_changes_nothing() {
    let (asked, unasked) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (asked, unasked) = (start(asked.path(), &[]), start(unasked.path(), &[]));
    let queries = asked.metric("vllm:prefix_cache_queries_total");
    assert_eq!(asked.ask(DRY, &conversation("2026-11-23"))["cause"], "nothing_cached");
    for server in [&asked, &unasked] {
        assert_eq!(hit(&server.ask(CHAT, &conversation("2026-11-23"))), 0, "the dry run cached nothing");
    }
    asked.ask(DRY, &conversation("2026-11-24"));
    let hits = [&asked, &unasked].map(|server| hit(&server.ask(CHAT, &conversation("2026-11-24"))));
    assert_eq!(hits[0], hits[1]);
    let counted = asked.metric("vllm:prefix_cache_queries_total") - queries;
    assert_eq!(counted, unasked.metric("vllm:prefix_cache_queries_total"), "nor was it counted as a query");
}

#[test]
fn another_tenant_learns_nothing() {
    let (used, unused) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let keys = ["--api-key", "victim", "--api-key", "spy"];
    let (used, unused) = (start(used.path(), &keys), start(unused.path(), &keys));
    let ask = |server: &Server, key: &str, path: &str, body: &Value| {
        let bearer = format!("Bearer {key}");
        server.send("POST", path, &body.to_string(), &[("Authorization", &bearer)]).finish().json()
    };
    let secret = conversation("2026-11-23");
    ask(&used, "victim", CHAT, &secret);
    let own = ask(&used, "victim", DRY, &secret);
    assert!(own["hit_tokens"].as_u64().is_some_and(|hit| hit > 64), "the victim's prompt is cached: {own}");
    for probe in [&secret, &conversation("2026-11-24"), &with(secret.clone(), json!({"user_id": "victim"}))] {
        let (seen, control) = (ask(&used, "spy", DRY, probe), ask(&unused, "spy", DRY, probe));
        assert_eq!(seen, control);
        assert_eq!((&seen["cause"], &seen["hit_tokens"]), (&json!("nothing_cached"), &json!(0)));
    }
}

#[test]
fn two_files_are_compared_without_a_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, body: &Value| {
        let path = dir.path().join(name);
        fs::write(&path, body.to_string()).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (a, b) = (file("a.json", &conversation("2026-11-23")), file("b.json", &conversation("2026-11-24")));
    let text = stdout_of(&["cache", "explain", &a, &b]);
    assert!(
        text.contains("messages[0].content, character") && text.contains("A date or time differs"),
        "{text}"
    );
    let report: Value =
        serde_json::from_str(&stdout_of(&["cache", "explain", &a, &b, "--json"])).expect("JSON");
    assert_eq!(
        (&report["cause"], &report["divergence"]["field"]),
        (&json!("date"), &json!("messages[0].content"))
    );
    assert_eq!(report.get("tiers"), None, "no cache was asked");
    let broken = file("broken.json", &json!([1]));
    let output = common::run(&["cache", "explain", &a, &broken]);
    assert!(!output.status.success() && common::stderr(&output).contains("must hold a JSON object"));
}
