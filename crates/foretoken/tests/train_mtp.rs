//! `train-mtp` and `eval-mtp` from end to end, on a tiny model.

mod common;

use std::path::Path;

use common::{run, stderr, stdout_of};
use serde_json::Value;

fn model() -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families");
    fixtures.join("llama.gguf").to_str().expect("a path in UTF-8").to_owned()
}

fn train(out: &Path, more: &[&str]) -> Vec<String> {
    let (model, out) = (model(), out.to_str().expect("a path in UTF-8"));
    let options = "--tokens 3000 --answer-tokens 24 --rows 64 --batch 128 --epochs 1 --evaluate-every 5 --date 2026-11-28";
    let line = ["train-mtp", "--model", &model, "--out", out].into_iter().chain(options.split(' '));
    line.chain(more.iter().copied()).map(str::to_owned).collect()
}

fn strs(line: &[String]) -> Vec<&str> {
    line.iter().map(String::as_str).collect()
}

#[test]
fn a_head_is_trained_written_evaluated_and_the_same_after_a_second_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let head = dir.path().join("head.gguf");
    let report: Value = serde_json::from_str(&stdout_of(&strs(&train(&head, &["--json"])))).expect("JSON");
    assert_eq!(report["greedy"]["acceptance"].as_array().map(Vec::len), Some(3), "{report}");
    assert!(report["sampled"]["tokens_per_step"][2].as_f64() >= Some(1.0), "{report}");
    assert!(dir.path().join("head.gguf.work/training.svg").is_file());
    let first = std::fs::read(&head).expect("the head");
    std::fs::remove_file(&head).expect("removed");
    stdout_of(&strs(&train(&head, &[])));
    assert!(
        std::fs::read(&head).expect("the head") == first,
        "a finished training is not changed by its command"
    );

    let (model, head) = (model(), head.to_str().expect("a path in UTF-8"));
    let evaluated =
        stdout_of(&["eval-mtp", head, "--model", &model, "--tokens", "600", "--answer-tokens", "24"]);
    assert!(evaluated.contains("accepted, greedy"), "{evaluated}");
    let other = run(&["eval-mtp", head, "--model", &model.replace("llama.gguf", "qwen2.gguf")]);
    assert!(stderr(&other).contains("another model"), "{}", stderr(&other));
}

#[test]
fn options_that_cannot_work_are_named_before_anything_is_computed() {
    let dir = tempfile::tempdir().expect("a folder");
    let head = dir.path().join("head.gguf");
    for (more, says) in [
        (&["--answer-tokens", "250"][..], "--answer-tokens must be from 2 to 192"),
        (&["--rate", "2"], "--rate"),
        (&["--feed-forward", "50"], "multiple of 32"),
        (&["--prompts", "/no/such/file"], "/no/such/file"),
    ] {
        let mut line = train(&head, &[]);
        if let Some(at) = line.iter().position(|arg| arg == more[0]) {
            line.drain(at..at + 2);
        }
        line.extend(more.iter().map(|&arg| arg.to_owned()));
        let output = run(&strs(&line));
        assert!(!output.status.success() && stderr(&output).contains(says), "{}", stderr(&output));
    }
}
