//! The command line as its users meet it: settings that read back, models as arguments, servers by address, chat
//! with a server, and what is said when something cannot work.

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Output, Stdio};

use common::{Server, foretoken, run, stderr, stdout_of};
use serde_json::{Value, json};

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A command with these variables.
fn with_environment(args: &[&str], variables: &[(&str, &str)]) -> Output {
    foretoken(args).envs(variables.iter().copied()).output().expect("the binary runs")
}

/// `chat` with lines typed into a pipe.
fn chat(args: &[&str], lines: &str) -> Output {
    let mut child = foretoken(&[&["chat"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn printed_settings_are_complete_and_serve_takes_them_back() {
    let data = common::data_dir();
    stdout_of(&["pull"]);
    let printed = stdout_of(&["serve", "--print-config", "--api-key", "right", "--cache-disk", "0"]);
    for key in ["threads = ", "ctx = 8192", "data-dir = ", "model = \"smollm2\"", "log = \"info\""] {
        assert!(printed.lines().any(|line| line.starts_with(key)), "no {key} in:\n{printed}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("foretoken.toml");
    // As printed, but for the folder, which other tests use too.
    let mine = printed.replace(path(&data), path(dir.path()));
    std::fs::write(&config, mine).expect("written");
    std::os::unix::fs::symlink(data.join("models"), dir.path().join("models")).expect("a link");
    let config = ["--config", path(&config)];
    let server = Server::start(&[&config[..], &["--data-dir", path(dir.path())]].concat());
    let ask = |key: &str| {
        let header = ("Authorization", &*format!("Bearer {key}"));
        server.send("GET", "/v1/models", "", &[header]).finish().status
    };
    assert_eq!((ask("right"), ask("wrong")), (200, 401));
}

#[test]
fn a_list_variable_holds_several_names() {
    let printed = text(&with_environment(&["serve", "--print-config"], &[("FORETOKEN_ALIAS", "a,b")]));
    assert!(printed.contains("alias = [\"a\", \"b\"]\n"), "{printed}");
}

#[test]
fn a_misspelt_variable_stops_the_start_and_an_unrelated_one_warns() {
    let typo = with_environment(&["serve", "--print-config"], &[("FORETOKEN_API_KEYS", "secret")]);
    assert_eq!(typo.status.code(), Some(1));
    assert!(stderr(&typo).contains("closest known one is FORETOKEN_API_KEY;"), "{}", stderr(&typo));
    assert!(!stderr(&typo).contains("secret"));
    let other = with_environment(&["models"], &[("FORETOKEN_BASE_URL", "x")]);
    assert!(other.status.success() && stderr(&other).contains("FORETOKEN_BASE_URL"), "{}", stderr(&other));
}

#[test]
fn the_placeholder_of_a_password_is_not_taken_for_one() {
    let output = run(&["serve", "--port", "0", "--cache-shared", "redis://me:***@127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("FORETOKEN_CACHE_SHARED"), "{}", stderr(&output));
}

#[test]
fn a_model_may_be_an_argument() {
    let model = stdout_of(&["pull"]);
    let rest = ["The capital of France is", "--temperature", "0", "--max-tokens", "4"];
    let named = stdout_of(&[&["generate", "--model", model.trim()], &rest[..]].concat());
    assert_eq!(stdout_of(&[&["generate", model.trim()], &rest[..]].concat()), named);
    assert_eq!(stdout_of(&[&["generate"], &rest[..]].concat()), named, "one argument is the prompt");
    let twice = run(&["serve", "a.gguf", "--model", "b.gguf"]);
    assert_eq!(twice.status.code(), Some(2));
    let missing = run(&["serve", "--port", "0", "./no-such-model.gguf"]);
    assert!(stderr(&missing).contains("no-such-model.gguf"), "{}", stderr(&missing));
}

#[test]
fn a_prompt_that_looks_like_a_model_is_pointed_out() {
    let output = run(&["generate", "smollm2", "--max-tokens", "1"]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("foretoken generate smollm2 PROMPT"), "{}", stderr(&output));
}

#[test]
fn a_context_cut_by_the_memory_names_the_size_that_holds_it() {
    let output = run(&["generate", "Once", "--max-tokens", "1", "--cache-ram", "90MiB"]);
    let said = stderr(&output);
    // 128 blocks of 64 tokens with 22.5 KiB each.
    assert!(said.contains("--cache-ram 180MiB holds the whole context"), "{said}");
    let whole = run(&["generate", "Once", "--max-tokens", "1", "--cache-ram", "180MiB"]);
    assert_eq!(stderr(&whole), "", "that size is enough");
    let small = run(&["generate", "Once", "--ctx", "8192", "--cache-ram", "1MiB"]);
    assert!(
        stderr(&small).contains("needs 180 MiB for its KV and --cache-ram allows 1 MiB"),
        "{}",
        stderr(&small)
    );
}

#[test]
fn values_out_of_range_are_named_by_their_option() {
    for (args, says) in [
        (["generate", "x", "--temperature", "-1"], "--temperature must be between 0 and 100"),
        (["generate", "x", "--top-p", "2"], "--top-p must be between 0 and 1"),
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
    for args in [["serve", "--max-running", "0"], ["serve", "--ctx", "0"], ["chat", "--threads", "0"]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("must be at least 1"), "{}", stderr(&output));
    }
}

#[test]
fn a_server_is_named_by_its_address() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = stdout_of(&["pull"]);
    let server = Server::start(&["--model", model.trim(), "--data-dir", path(dir.path())]);
    let stat = stdout_of(&["cache", "stat", "--server", server.address()]);
    assert!(stat.lines().any(|line| line.starts_with("memory")), "{stat}");
    let nobody = run(&["cache", "stat", "--server", "127.0.0.1:1"]);
    let said = stderr(&nobody);
    assert!(
        said.contains("cannot reach http://127.0.0.1:1") && said.contains("is the server running?"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let nonsense = run(&["cache", "stat", "--server", "ftp://host"]);
    assert!(stderr(&nonsense).contains("write it like http://127.0.0.1:8080"), "{}", stderr(&nonsense));
}

#[test]
fn unpinning_says_whether_anything_was_pinned() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = stdout_of(&["pull"]);
    let server = Server::start(&["--model", model.trim(), "--data-dir", path(dir.path())]);
    let prompt = dir.path().join("prompt.txt");
    std::fs::write(&prompt, "Item costs coins. ".repeat(50)).expect("written");
    let cache = |command: &str| stdout_of(&["cache", command, path(&prompt), "--server", server.address()]);
    let nothing = "nothing to unpin: this prompt is not pinned\n";
    assert_eq!(cache("unpin"), nothing);
    cache("prewarm");
    assert_eq!(cache("unpin"), nothing, "cached, but not pinned");
    cache("pin");
    assert!(cache("unpin").starts_with("unpinned "));
    assert_eq!(cache("unpin"), nothing);
}

#[test]
fn a_folder_is_not_changed_under_a_running_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = stdout_of(&["pull"]);
    let mut server = Server::start(&["--model", model.trim(), "--data-dir", path(dir.path())]);
    server.ask("/v1/completions", &json!({"prompt": "Item costs coins. ".repeat(50), "max_tokens": 1}));
    let scope = "00".repeat(32);
    let address = server.address().to_owned();
    for args in [&["clear", "--all"][..], &["clear", "--scope", &scope], &["verify"]] {
        let output = run(&[&["cache"], args, &["--data-dir", path(dir.path())]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        assert!(said.contains(&format!("--server http://{address}")), "{said}");
    }
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let cleared = stdout_of(&["cache", "clear", "--all", "--json", "--data-dir", path(dir.path())]);
    let cleared: Value = serde_json::from_str(&cleared).expect("JSON");
    assert!(cleared["blocks"]["disk"].as_u64() > Some(0), "{cleared}");
}

#[test]
fn chat_with_a_server_says_what_chat_alone_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = stdout_of(&["pull"]);
    let served =
        ["--model", model.trim(), "--data-dir", path(dir.path()), "--api-key", "right", "--alias", "tiny"];
    let server = Server::start(&served);
    let settings = ["--temperature", "0", "--max-tokens", "16", "--min-p", "0", "--top-p", "1"];
    let lines = "Name three rivers in Europe.\n/regen\n/stats\n";
    let alone = chat(&settings, lines);
    let remote = ["--server", server.address(), "--api-key", "right"];
    let with_server = chat(&[&remote[..], &settings].concat(), lines);
    assert_eq!(text(&with_server), text(&alone));
    let answers = text(&alone);
    let (first, second) = answers.split_at(answers.len() / 2);
    assert_eq!(first, second, "generated again, greedily");
    for output in [&alone, &with_server] {
        let said = stderr(output);
        assert!(
            said.contains("last answer: ")
                && said.contains("all 2 complete ones: ")
                && said.contains("32 tokens at"),
            "{said}"
        );
        assert_eq!(said.matches("cut off").count(), 2, "{said}");
    }
}

#[test]
fn chat_with_a_server_says_what_does_not_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = stdout_of(&["pull"]);
    let served = [
        "--model",
        model.trim(),
        "--data-dir",
        path(dir.path()),
        "--api-key",
        "right",
        "--alias",
        "tiny",
        "--ctx",
        "256",
    ];
    let server = Server::start(&served);
    let remote = |more: &[&str]| run(&[&["chat", "--server", server.address()], more].concat());
    let said = stderr(&remote(&["--api-key", "wrong"]));
    assert!(said.contains("refused with 401"), "{said}");
    let said = stderr(&remote(&["large", "--api-key", "right"]));
    assert!(said.contains("has no model `large`; it has tiny"), "{said}");
    let output = remote(&["--ctx", "512", "--api-key", "right"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--ctx is for a model in this process"), "{}", stderr(&output));
    let output = run(&["chat", "--api-key", "right"]);
    assert_eq!(output.status.code(), Some(2));
    let long = format!("{}\n", "word ".repeat(400));
    let refused = chat(&["--server", server.address(), "--api-key", "right"], &long);
    let said = stderr(&refused);
    assert!(said.contains("the server refused with 400") && said.contains("--ctx"), "{said}");
    assert_eq!(text(&refused), "", "no answer, no text");
}

#[test]
fn lines_pasted_at_once_into_a_terminal_are_all_read() {
    let (terminal, screen) = terminal(&["chat"], "> ", b"/set seed 7\r/set top-k 40\r/set seed\r/quit\r");
    let screen = String::from_utf8_lossy(&screen);
    for says in ["seed is 7.", "top-k is 40.", "name a value"] {
        assert!(screen.contains(says), "`{says}` is not on the screen:\n{screen}");
    }
    assert!(terminal.success());
}

/// Runs a command in a terminal and types `keys` at once when `prompt` is shown. Returns what was on the screen.
fn terminal(args: &[&str], prompt: &str, keys: &[u8]) -> (std::process::ExitStatus, Vec<u8>) {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(&size, None).expect("a terminal");
    let end = || Stdio::from(pair.slave.try_clone().expect("a file descriptor"));
    let mut child = foretoken(args)
        .env("TERM", "xterm")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("the binary runs");
    drop(pair.slave);
    let mut master = std::fs::File::from(pair.master);
    let (mut screen, mut typed, mut chunk) = (Vec::new(), false, [0; 4096]);
    // When the other end is closed, Linux says that the read failed.
    while let Ok(bytes) = master.read(&mut chunk)
        && bytes > 0
    {
        screen.extend_from_slice(&chunk[..bytes]);
        if !typed && screen.windows(prompt.len()).any(|window| window == prompt.as_bytes()) {
            master.write_all(keys).expect("typed");
            typed = true;
        }
    }
    (child.wait().expect("it ends"), screen)
}

#[test]
fn the_legend_of_colours_follows_a_cut_off_answer_too() {
    let output =
        chat(&["--show-draft", "--max-tokens", "6", "--temperature", "0"], "Count from one to ten.\n");
    let said = stderr(&output);
    assert!(said.contains("cut off") && said.contains("of 6 tokens were drafted"), "{said}");
}

#[test]
fn settings_of_a_conversation_change_its_answers() {
    let lines = "/set temperature 0\n/set max-tokens 4\nName three rivers.\n/set\n/set seed\n/system Be brief.\n/system\n";
    let output = chat(&[], lines);
    let said = stderr(&output);
    for part in
        ["temperature is 0.", "max-tokens          4", "cut off", "name a value", "starts over", "Be brief."]
    {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    assert_eq!(
        text(&output),
        text(&chat(&["--temperature", "0", "--max-tokens", "4"], "Name three rivers.\n"))
    );
}

#[test]
fn completions_and_manual_pages_are_generated() {
    for (shell, part) in
        [("bash", "_foretoken"), ("zsh", "#compdef foretoken"), ("fish", "complete -c foretoken")]
    {
        let script = stdout_of(&["completions", shell]);
        assert!(script.contains(part) && script.contains("cache-ram"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
    let page = stdout_of(&["man"]);
    assert!(page.contains(".TH foretoken 1") && page.contains("perplexity"), "{page}");
    let dir = tempfile::tempdir().expect("a folder");
    let below = dir.path().join("man1");
    assert_eq!(stdout_of(&["man", path(&below)]), "");
    let serve = std::fs::read_to_string(below.join("foretoken-serve.1")).expect("a page");
    assert!(serve.contains("cache\\-ram") && serve.contains("FORETOKEN_SOME_NAME"), "{serve}");
    assert!(
        below.join("foretoken-cache-stat.1").is_file() && below.join("foretoken-bench-model.1").is_file()
    );
}
