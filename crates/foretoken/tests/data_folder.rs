//! The data folder with the real server: everything in it is bounded, private, and there from the first start.
#![cfg(unix)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::Server;
use serde_json::{Value, json};

fn model() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families/llama.gguf");
    path.to_str().expect("UTF-8").to_owned()
}

fn start(data: &Path, more: &[&str]) -> Server {
    let (model, data) = (model(), data.to_str().expect("UTF-8"));
    Server::start(&[&["--model", &model, "--data-dir", data], more].concat())
}

fn ask(server: &Server, user: &str, prompt: &str) {
    let body =
        json!({"prompt": prompt, "user_id": user, "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    server.ask("/v1/completions", &body);
}

fn stat(data: &Path) -> Value {
    let data = data.to_str().expect("UTF-8");
    serde_json::from_str(&common::stdout_of(&["cache", "stat", "--json", "--data-dir", data])).expect("JSON")
}

/// Bytes and budget of a kind.
fn row(stat: &Value, kind: &str) -> (u64, u64) {
    let rows = stat["folder"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["kind"] == kind).unwrap_or_else(|| panic!("{kind} in {stat}"));
    (row["bytes"].as_u64().expect("bytes"), row["budget_bytes"].as_u64().expect("a budget"))
}

/// Every file and folder, but for downloads.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(walk(&path)),
            path => all.push(path),
        }
    }
    all
}

fn assert_private(data: &Path) {
    for path in walk(data) {
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

#[test]
fn hundreds_of_users_leave_no_more_than_the_budgets() {
    let data = tempfile::tempdir().expect("a folder");
    let budgets = [
        ["--draft-disk", "64KiB"],
        ["--cache-disk", "256KiB"],
        ["--responses-max", "32KiB"],
        ["--ledger-max", "16KiB"],
    ];
    let mut server = start(data.path(), budgets.as_flattened());
    for user in 0..300 {
        let prompt: String = (0..10).map(|i| format!("user {user} counts {i}. ")).collect();
        ask(&server, &format!("user-{user}"), &prompt);
    }
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let stat = stat(data.path());
    for kind in ["drafts", "blocks", "responses", "ledger"] {
        let (bytes, budget) = row(&stat, kind);
        assert!(bytes > 0 && bytes <= budget, "{kind}: {bytes} bytes of {budget}");
    }
    let usage = common::stdout_of(&["usage", "--json", "--data-dir", data.path().to_str().expect("UTF-8")]);
    let usage: Value = serde_json::from_str(&usage).expect("JSON");
    let requests: u64 =
        usage["data"].as_array().expect("rows").iter().filter_map(|row| row["requests"].as_u64()).sum();
    assert_eq!(requests, 300, "rows that were summed up still count");
}

#[test]
fn nothing_is_open_to_other_users_whatever_the_umask_and_what_was_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    for round in 0..2 {
        let (model, folder) = (model(), data.to_str().expect("UTF-8").to_owned());
        let mut server = Server::start_with_umask("0", &["--model", &model, "--data-dir", &folder]);
        let prompt: String = (0..12).map(|i| format!("round {round}, line {i}. ")).collect();
        ask(&server, "someone", &prompt);
        assert_private(&data);
        server.terminate();
        assert_eq!(server.wait(), Some(0));
        assert_private(&data);
        assert!(data.join("foretoken.db").is_file() && data.join("drafts").is_dir(), "round {round}");
        // As an earlier version left it.
        for path in walk(&data) {
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
        }
    }
}

#[test]
fn the_first_start_with_a_secret_file_in_a_fresh_folder_keeps_its_ledger() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, secret) = (dir.path().join("new/data"), dir.path().join("secret"));
    std::fs::write(&secret, [7; 32]).expect("written");
    let mut server = start(&data, &["--cache-secret-file", secret.to_str().expect("UTF-8")]);
    ask(&server, "someone", "Hello");
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let usage = common::stdout_of(&["usage", "--json", "--data-dir", data.to_str().expect("UTF-8")]);
    let usage: Value = serde_json::from_str(&usage).expect("JSON");
    assert_eq!(usage["data"][0]["requests"], 1, "{usage}");
}

#[test]
fn a_ledger_that_cannot_be_kept_stops_a_server_with_accounts_and_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("made");
    // A folder stands where the database should be.
    std::fs::create_dir(data.join("foretoken.db")).expect("made");
    let model = model();
    let args = ["serve", "--port", "0", "--model", &model, "--data-dir", data.to_str().expect("UTF-8")];
    for more in [["--account", "alice=sk-a"], ["--prepaid", "default=1"]] {
        let output = common::run(&[&args[..], &more].concat());
        assert!(!output.status.success());
        let said = common::stderr(&output);
        assert!(said.contains("foretoken.db") && said.contains("ledger"), "{said}");
    }
    ask(&start(&data, &[]), "someone", "Hello");
}
