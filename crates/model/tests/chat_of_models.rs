//! Opt-in: prompts of real models' templates against transformers. `FORETOKEN_CHAT_EXPECTED` names the file that
//! `fixtures/chat/expect_models.py` makes from a folder of templates; without it there is nothing to compare.

mod tokenizer_fixtures;

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foretoken_model::chat::{ChatInput, ChatTemplate};
use serde_json::Value;
use tokenizer_fixtures::{bpe_gguf_with, build};

/// 2024-02-29 12:34:56, as in `expect_models.py`.
fn leap_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_709_210_096)
}

fn input(conversation: &Value) -> ChatInput {
    let mut extra = conversation.as_object().cloned().unwrap_or_default();
    let messages = extra.remove("messages").and_then(|m| m.as_array().cloned()).unwrap_or_default();
    let tools = extra.remove("tools");
    let add_generation_prompt = extra.remove("add_generation_prompt").is_some_and(|flag| flag == true);
    ChatInput { messages, tools, add_generation_prompt, extra }
}

/// Prompts that are equal, and a line for each that is not.
#[derive(Default)]
struct Counts {
    equal: usize,
    both_fail: usize,
    only_here: usize,
    fails_here: usize,
    differs: usize,
    lines: String,
}

impl Counts {
    fn count(&mut self, title: &str, found: Result<String, String>, expected: &Value) {
        let outs = expected["outs"].as_array();
        let first = outs.and_then(|outs| outs.first()).and_then(|out| out[1].as_str());
        match (found, first) {
            (Ok(found), Some(first)) if found == first => self.equal += 1,
            (Err(_), None) => self.both_fail += 1,
            (Ok(_), None) => self.only_here += 1,
            (Err(error), Some(_)) => {
                self.fails_here += 1;
                let _ = writeln!(self.lines, "FAILS   {title}: {error}");
            }
            (Ok(found), Some(first)) => {
                self.differs += 1;
                let same = outs.into_iter().flatten().find(|out| out[1] == found.as_str());
                let at = first.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count();
                let near = |text: &str| {
                    let bytes = &text.as_bytes()[at.saturating_sub(40)..text.len().min(at + 80)];
                    String::from_utf8_lossy(bytes).into_owned()
                };
                let (same, expected) = (same.map(|out| &out[0]), &outs.map(|outs| &outs[0][0]));
                let _ = writeln!(
                    self.lines,
                    "DIFFERS {title} ({expected:?}, here {same:?})\n  expected {:?}\n  found    {:?}",
                    near(first),
                    near(&found)
                );
            }
        }
    }
}

#[test]
fn templates_of_models_render_like_transformers() {
    let Some(path) = std::env::var_os("FORETOKEN_CHAT_EXPECTED") else { return };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let tokenizer = build(&bpe_gguf_with("qwen2", "<s>", "</s>", &[]));
    let mut counts = Counts::default();
    for (name, source) in file["templates"].as_object().into_iter().flatten() {
        let template = ChatTemplate::with_clock(source.as_str().unwrap_or_default(), &tokenizer, leap_day);
        for (title, conversation) in file["conversations"].as_object().into_iter().flatten() {
            let found = match &template {
                Ok(template) => template.render(&input(conversation)),
                Err(error) => {
                    counts.count(
                        &format!("{name} · {title}"),
                        Err(error.to_string()),
                        &file["expected"][name][title],
                    );
                    continue;
                }
            };
            let found = found.map(|rendered| rendered.text().to_owned()).map_err(|error| error.to_string());
            counts.count(&format!("{name} · {title}"), found, &file["expected"][name][title]);
        }
    }
    let Counts { equal, both_fail, only_here, fails_here, differs, lines } = counts;
    println!("{lines}");
    println!(
        "{equal} equal, {both_fail} fail in both, {only_here} render here only, {fails_here} fail here only, {differs} differ"
    );
    assert_eq!((fails_here, differs), (0, 0));
}
