//! The commands end to end: machine-readable output, settings, exit codes, errors.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{foretoken, run, stderr, stdout_of};
use serde_json::Value;

const PROMPT: &str = "The capital of France is";
const GREEDY: [&str; 5] = ["generate", PROMPT, "--temperature", "0", "--max-tokens"];

fn greedy(tokens: &'static str, more: &[&'static str]) -> Vec<&'static str> {
    [&GREEDY[..], &[tokens], more].concat()
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&stdout_of(args)).expect("standard output is JSON")
}

/// A file that lives as long as the test.
fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(content).expect("written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("a path in UTF-8")
}

#[test]
fn generate_writes_the_answer_and_nothing_else() {
    let output = run(&greedy("8", &["--log", "debug", "--stats"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Paris") && text.ends_with('\n'), "{text:?}");
    assert!(!text.contains("tokens/s"), "{text:?}");
    assert!(stderr(&output).contains("tokens/s"), "--stats goes to standard error");
}

#[test]
fn the_prompt_may_come_from_a_file_or_standard_input() {
    let direct = stdout_of(&greedy("8", &[]));
    let prompt = file(format!("{PROMPT}\n").as_bytes());
    let rest = ["--temperature", "0", "--max-tokens", "8"];
    assert_eq!(stdout_of(&[&["generate", "--file", path(&prompt)], &rest[..]].concat()), direct);
    let mut child = foretoken(&[&["generate"], &rest[..]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("piped").write_all(PROMPT.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), direct);
}

#[test]
fn every_instruction_set_and_thread_count_gives_the_same_text() {
    let auto = stdout_of(&greedy("24", &["--threads", "2"]));
    for args in [["--isa", "scalar"], ["--threads", "1"], ["--threads", "3"]] {
        assert_eq!(stdout_of(&greedy("24", &args)), auto, "{args:?}");
    }
}

#[test]
fn a_seed_repeats_an_answer() {
    let args = ["generate", PROMPT, "--temperature", "1", "--max-tokens", "24", "--seed"];
    let seeded = |seed: &'static str| stdout_of(&[&args[..], &[seed]].concat());
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
}

#[test]
fn generate_reports_usage_as_json() {
    let answer = json_of(&greedy("8", &["--json"]));
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert_eq!(answer["finish_reason"], "length");
    assert!(answer["text"].as_str().is_some_and(|text| text.contains("Paris")));
}

#[test]
fn chat_reads_a_conversation_from_a_pipe_and_answers_like_generate() {
    let question = "Name three rivers in Europe.";
    let answer = stdout_of(&["generate", "--chat", question, "--temperature", "0", "--max-tokens", "16"]);
    let mut child = foretoken(&["chat", "--temperature", "0", "--max-tokens", "16"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = format!("{question}\n/undo\n/undo\n/quit\n");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), answer);
    assert!(stderr(&output).contains("nothing to undo"), "{}", stderr(&output));
}

#[test]
fn perplexity_ends_with_its_figure() {
    let text = file("The quick brown fox jumps over the lazy dog. ".repeat(30).as_bytes());
    let args = ["perplexity", "--ctx", "64", "--chunks", "2", path(&text)];
    let shown = stdout_of(&args);
    let last =
        shown.lines().last().and_then(|line| line.strip_prefix("perplexity: ")).expect("the last line");
    let figure: f64 = last.parse().expect("a number");
    assert!((1.0..20.0).contains(&figure), "a repeated sentence is easy to predict: {figure}");
    let json = json_of(&[&args[..], &["--json"]].concat());
    assert!((json["perplexity"].as_f64().expect("a number") - figure).abs() < 1e-3);
    assert_eq!(json["tokens"], 2 * 31);
}

#[test]
fn perplexity_of_a_short_text_says_how_much_is_needed() {
    let text = file(b"Too short.");
    let output = run(&["perplexity", path(&text)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("at least 1024"), "{}", stderr(&output));
}

#[test]
fn bench_measures_what_was_asked_and_skips_what_does_not_fit() {
    let report = json_of(&[
        "bench", "model", "--prompt", "64", "--depth", "0,9000", "--rows", "1,4", "--reps", "1", "--decode",
        "4", "--json",
    ]);
    assert!(report["prefill"][0]["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    assert_eq!(report["decode"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["steps"][1]["rows"], 4);
    assert!(report["ceilings"]["bandwidth_gb_s"].as_f64().is_some_and(|rate| rate > 0.0));
    assert!(report["skipped"][0].as_str().is_some_and(|text| text.contains("9000")), "{report}");
}

#[test]
fn inspect_shows_what_is_in_a_file_and_abbreviates_arrays() {
    let report = json_of(&["inspect", "--ctx", "1000", "--json"]);
    assert_eq!(report["metadata"]["general.architecture"], "llama");
    let tokens = &report["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!(tokens["length"], 49152);
    assert!(tokens["first"].as_array().is_some_and(|first| first.len() < 10));
    // 30 layers of 3 heads with 64 elements, K and V, two bytes each.
    assert_eq!(report["memory"]["kv_bytes_per_token"], 30 * 3 * 64 * 2 * 2);
    assert_eq!(report["memory"]["kv_bytes"], 1024 * 30 * 3 * 64 * 2 * 2);
    let table = stdout_of(&["inspect", "--tensors"]);
    assert!(table.lines().any(|line| line.starts_with("blk.0.attn_q.weight")));
    assert!(table.lines().all(|line| line.chars().count() < 240), "long values are abbreviated");
}

#[test]
fn inspect_shows_what_layers_with_a_window_keep() {
    let gemma = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/families/gemma3.gguf");
    let memory = json_of(&["inspect", gemma, "--json"])["memory"].clone();
    // Two of three layers, with 2 heads of 16 elements, K and V, two bytes each.
    assert_eq!(memory["kv_windowed_bytes_per_token"], 2 * 2 * 16 * 2 * 2);
    assert_eq!(memory["kv_bytes_per_token"], 3 * 2 * 16 * 2 * 2);
    assert_eq!(memory["kv_window"], 24);
}

#[test]
fn pull_prints_the_file_and_models_lists_it() {
    let shown = stdout_of(&["pull"]);
    let file = shown.trim();
    assert!(std::path::Path::new(file).is_file(), "{file}");
    let models = json_of(&["models", "--json"]);
    let known = models["built_in"].as_array().expect("a list");
    assert!(known.iter().any(|model| model["name"] == "smollm2"), "{models}");
    let size = std::fs::metadata(file).expect("it is there").len();
    let cached = models["downloaded"].as_array().expect("a list");
    assert!(cached.iter().any(|model| model["bytes"] == size), "{models}");
}

#[test]
fn a_damaged_file_is_one_clear_line_and_exit_code_1() {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend([0xff; 64]);
    let damaged = file(&bytes);
    for args in [["inspect", path(&damaged)], ["generate", "--model"]] {
        let more = if args[0] == "generate" { vec![path(&damaged), "Hello"] } else { Vec::new() };
        let output = run(&[&args[..], &more].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let error = stderr(&output);
        assert!(error.starts_with("foretoken: ") && error.contains(path(&damaged)), "{error}");
        assert!(error.lines().count() <= 2 && !error.contains("panicked"), "{error}");
    }
}

#[test]
fn a_missing_model_says_what_was_looked_for() {
    let output = run(&["generate", "--model", "./no-such-model.gguf", "Hello"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no-such-model.gguf"), "{}", stderr(&output));
    assert!(stderr(&output).lines().count() <= 2, "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for args in [&["serve", "--prot", "1"][..], &["fly"], &["serve", "--port", "x"], &[]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn every_help_has_examples_or_says_where_settings_come_from() {
    for command in ["serve", "generate", "chat", "perplexity", "pull", "models", "inspect", "usage"] {
        let help = stdout_of(&[command, "--help"]);
        assert!(help.contains("FORETOKEN_SOME_NAME"), "{help}");
    }
    assert!(stdout_of(&["bench", "model", "--help"]).contains("Examples:"));
}

#[test]
fn settings_come_from_flag_then_environment_then_file() {
    let config = file(b"threads = 3\n[serve]\nport = 9001\nctx = 512\n");
    let print = |args: &[&str]| {
        let args = [&["serve", "--print-config", "--config", path(&config)], args].concat();
        let output = foretoken(&args).env("FORETOKEN_PORT", "9002").output().expect("the binary runs");
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let printed = print(&[]);
    for line in ["threads = 3", "port = 9002", "ctx = 512", "model = \"smollm2\""] {
        assert!(printed.lines().any(|have| have == line), "no {line} in:\n{printed}");
    }
    assert!(print(&["--port", "9003"]).contains("port = 9003\n"));
    let again = file(printed.as_bytes());
    assert_eq!(stdout_of(&["serve", "--print-config", "--config", path(&again)]), printed);
}

#[test]
fn a_typing_error_in_the_file_names_the_nearest_key() {
    let config = file(b"[serve]\nprot = 9001\n");
    let output = run(&["serve", "--config", path(&config)]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("`prot`") && error.contains("`port`") && error.contains(path(&config)), "{error}");
}
