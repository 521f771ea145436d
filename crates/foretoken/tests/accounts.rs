//! Accounts end to end: the ledger over a restart and a kill, prepaid limits, and two ways to read usage.

mod common;

use std::path::Path;

use common::{Response, Server};
use serde_json::{Value, json};

const TEXT: &str = "/v1/completions";

/// A server on the shared model, with an account that has a name, one that has none, and an operator.
fn start(data: &Path, more: &[&str]) -> Server {
    let models = common::data_dir().join("models");
    if !data.join("models").exists() {
        std::os::unix::fs::symlink(models, data.join("models")).expect("a link");
    }
    let mut args = vec!["--data-dir", data.to_str().expect("UTF-8")];
    args.extend(["--account", "alice=sk-a", "--api-key", "sk-b", "--admin-key", "root", "--cache-disk", "0"]);
    args.extend(more);
    Server::start(&args)
}

fn folder() -> tempfile::TempDir {
    // The model must be there before folders link to it.
    common::stdout_of(&["pull", "smollm2"]);
    tempfile::tempdir().expect("a folder")
}

fn send(server: &Server, key: &str, path: &str, body: Option<&Value>) -> Response {
    let bearer = format!("Bearer {key}");
    let header = [("Authorization", bearer.as_str())];
    match body {
        Some(body) => server.send("POST", path, &body.to_string(), &header).finish(),
        None => server.send("GET", path, "", &header).finish(),
    }
}

fn get(server: &Server, key: &str, path: &str) -> Value {
    let response = send(server, key, path, None);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

/// Asks something that never stops by itself.
fn ask(server: &Server, key: &str, more: &Value) -> Response {
    let prompt = "Item 7 costs 3 coins. ".repeat(30);
    let mut body = json!({"prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": true});
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    send(server, key, TEXT, Some(&body))
}

fn usage_command(data: &Path, more: &[&str]) -> String {
    let args = [&["usage", "--data-dir", data.to_str().expect("UTF-8")], more].concat();
    common::stdout_of(&args)
}

/// Nano-dollars of an amount with a point.
fn nano(amount: &Value) -> u64 {
    let (whole, part) = amount.as_str().and_then(|text| text.split_once('.')).expect("an amount");
    format!("{whole}{part:0<9}").parse().expect("digits")
}

#[test]
fn the_ledger_survives_a_restart_and_both_ways_to_read_it_agree() {
    let data = folder();
    let mut server = start(data.path(), &[]);
    let mut price = 0;
    for (key, more) in [
        ("sk-a", json!({"user_id": "u1"})),
        ("sk-a", json!({"user_id": "u1"})),
        ("sk-a", json!({"n": 2})),
        ("sk-a", json!({"prompt": "Something else", "n": 2, "temperature": 1})),
        ("sk-b", json!({})),
    ] {
        let answer = ask(&server, key, &more).json();
        let (usage, cost) = (&answer["usage"], &answer["cost"]);
        let number = |name: &str| usage[name].as_u64().expect("a count");
        let (hit, miss) = (number("prompt_cache_hit_tokens"), number("prompt_cache_miss_tokens"));
        assert_eq!(hit + miss, number("prompt_tokens"));
        let output = number("completion_tokens");
        assert_eq!(nano(&cost["price"]), hit * 14 + miss * 140 + output * 280, "{answer}");
        assert_eq!(nano(&cost["saved_money"]), hit * 126, "{answer}");
        price += nano(&cost["price"]);
    }
    let before = get(&server, "root", "/v1/usage?group_by=tenant");
    assert_eq!(before["total"]["requests"], 5);
    assert_eq!(nano(&before["total"]["price"]), price);
    assert!(nano(&before["total"]["saved_money"]) > 0 && before["total"]["saved_seconds"].is_number());
    // The command reads beside the running server.
    let beside: Value =
        serde_json::from_str(&usage_command(data.path(), &["--json", "--by", "tenant"])).expect("JSON");
    assert_eq!(beside, before);
    server.terminate();
    assert_eq!(server.wait(), Some(0));

    let server = start(data.path(), &[]);
    assert_eq!(get(&server, "root", "/v1/usage?group_by=tenant"), before);
    let own = get(&server, "sk-a", "/v1/usage?group_by=user");
    let names: Vec<&str> = own["data"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["group"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["alice", "alice/u1"]);
    drop(server);

    // Killed; the rows are there.
    let csv = usage_command(data.path(), &["--csv", "--by", "tenant"]);
    let mut lines = csv.lines();
    let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
    for (line, row) in lines.zip(before["data"].as_array().expect("rows")) {
        for (name, cell) in head.iter().zip(line.split(',')) {
            let value = &row[name];
            assert_eq!(cell, value.as_str().map_or_else(|| value.to_string(), str::to_owned), "{name}");
        }
    }
    let table = usage_command(data.path(), &["--by", "tenant"]);
    let total = table.lines().last().expect("a total");
    assert!(
        total.starts_with("total") && total.contains(before["total"]["price"].as_str().expect("text")),
        "{table}"
    );
    assert!(!table.contains("sk-a") && !table.contains("sk-b"), "{table}");
}

#[test]
fn a_prepaid_account_gets_402_when_it_is_spent_also_after_a_kill() {
    let data = folder();
    // About 220 tokens at 140 nano-dollars are more than this.
    let limit = ["--prepaid", "alice=0.00002"];
    let server = start(data.path(), &limit);
    assert_eq!(get(&server, "sk-a", "/user/balance")["balance_infos"][0]["total_balance"], "0.00002");
    assert_eq!(ask(&server, "sk-a", &json!({})).status, 200);
    let error = ask(&server, "sk-a", &json!({})).error(402);
    assert!(
        error["message"].as_str().is_some_and(|text| text.starts_with("Insufficient Balance")),
        "{error}"
    );
    assert_eq!(ask(&server, "sk-b", &json!({})).status, 200);
    let balance = get(&server, "sk-a", "/user/balance");
    assert_eq!(balance["is_available"], false);
    // Waits until the row is written: reading usage does.
    assert_eq!(get(&server, "sk-a", "/v1/usage")["total"]["requests"], 1);
    drop(server);

    let server = start(data.path(), &limit);
    assert_eq!(get(&server, "sk-a", "/user/balance"), balance);
    ask(&server, "sk-a", &json!({})).error(402);
    drop(server);
    let server = start(data.path(), &["--prepaid", "alice=1"]);
    assert_eq!(ask(&server, "sk-a", &json!({})).status, 200);
}

#[test]
fn stopping_writes_the_last_row() {
    let data = folder();
    let mut server = start(data.path(), &[]);
    for _ in 0..20 {
        assert_eq!(ask(&server, "sk-a", &json!({"max_tokens": 1})).status, 200);
    }
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let report: Value = serde_json::from_str(&usage_command(data.path(), &["--json"])).expect("JSON");
    assert_eq!(report["total"]["requests"], 20);
}

#[test]
fn a_stream_that_the_client_leaves_is_in_the_ledger_with_what_had_come() {
    let data = folder();
    let server = start(data.path(), &[]);
    let body = json!({"prompt": "Once", "max_tokens": 4000, "ignore_eos": true, "stream": true}).to_string();
    let mut stream = server.send("POST", TEXT, &body, &[("Authorization", "Bearer sk-a")]);
    for _ in 0..3 {
        stream.event().expect("a token");
    }
    drop(stream);
    let start = std::time::Instant::now();
    let row = loop {
        let total = get(&server, "sk-a", "/v1/usage")["total"].clone();
        if total["requests"] == 1 {
            break total;
        }
        assert!(start.elapsed() < common::PATIENCE, "no row");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let output = row["completion_tokens"].as_u64().expect("a count");
    assert!((3..4000).contains(&output), "{row}");
    // The prompt is one token, which had been read.
    assert_eq!((&row["prompt_tokens"], nano(&row["price"])), (&json!(1), 140 + output * 280));
}

#[test]
fn usage_of_a_folder_without_a_ledger_says_so() {
    let data = tempfile::tempdir().expect("a folder");
    let output = common::run(&["usage", "--data-dir", data.path().to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(common::stderr(&output).contains("no server has kept a ledger"), "{}", common::stderr(&output));
    let output = common::run(&["usage", "--from", "yesterday"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(common::stderr(&output).contains("--from must be a date"), "{}", common::stderr(&output));
    assert_eq!(common::run(&["usage", "--by", "week"]).status.code(), Some(2));
}

#[test]
fn prices_and_accounts_that_make_no_sense_stop_the_start() {
    for (args, word) in [
        (["--price-hit", "0.2"], "a hit cannot cost more"),
        (["--prepaid", "nobody=1"], "no account 'nobody'"),
        (["--account", "admin=sk-secret"], "choose another"),
        (["--account", "sk-secret"], "NAME=KEY"),
        (["--price-hours", "10:00-11:00=1"], "three"),
    ] {
        let output = common::run(&[&["serve", "--port", "0"], &args[..]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        let error = common::stderr(&output);
        assert!(error.contains(word) && !error.contains("secret"), "{args:?}: {error}");
    }
}
