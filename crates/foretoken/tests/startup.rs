//! What `foretoken serve` checks before it opens its port.

mod common;

use std::net::{TcpListener, TcpStream};

use common::{foretoken, run, stderr};

/// Runs a server that must not start; returns what it says.
fn refused(options: &[&str]) -> String {
    let output = run(&[&["serve"], options].concat());
    assert!(!output.status.success(), "{options:?}");
    assert!(output.stdout.is_empty(), "{options:?} printed {}", String::from_utf8_lossy(&output.stdout));
    stderr(&output)
}

#[test]
fn mistakes_are_reported_before_the_port_opens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for (options, word) in [
        (&["--model", "/does/not/exist.gguf"][..], "/does/not/exist.gguf"),
        (&["--ctx", "100000000"], "--cache-ram"),
        (&["--ctx", "0"], "'--ctx <N>': must be at least 1"),
        (&["--threads", "0"], "'--threads <N>': must be at least 1"),
        (&["--isa", "mmx"], "--isa"),
        (&["--drafters", "magic"], "--drafters"),
        (&["--shared-prompt", "/does/not/exist.json"], "/does/not/exist.json"),
        (&["--cors-origin", "\n"], "--cors-origin"),
        (&["--prepaid", "nobody=1"], "--prepaid"),
    ] {
        let said = refused(&[&["--port", &free, "--log", "info"], options].concat());
        assert!(said.contains(word), "{options:?}: {said}");
        assert!(!said.contains("requests to http"), "{options:?} opened the port: {said}");
    }
}

#[test]
fn a_taken_port_is_reported_before_the_model_is_read() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = refused(&["--port", &port, "--model", "/does/not/exist.gguf"]);
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
}

#[test]
fn a_server_that_is_ready_says_so_and_answers() {
    let server = common::Server::start(&[]);
    assert_eq!(server.get("/health").status, 200);
    assert!(TcpStream::connect(server.address()).is_ok());
    let foreign = server.send("GET", "/v1/models", "", &[("Origin", "https://evil.example")]).finish();
    assert_eq!(foreign.status, 403, "{}", foreign.body);
}

#[test]
fn the_log_is_json_if_asked_for() {
    let output =
        foretoken(&["serve", "--port", "0", "--log", "info", "--log-format", "json", "--ctx", "100000000"])
            .output()
            .unwrap();
    let said = stderr(&output);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!lines.is_empty(), "{said}");
    for line in lines {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["level"].is_string() && entry["message"].is_string(), "{line}");
    }
}
