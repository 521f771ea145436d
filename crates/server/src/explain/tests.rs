//! One case per culprit, over tokens that are bytes and a template that is as plain as can be.

use foretoken_model::chat::ChatInput;
use serde_json::{Value, json};

use super::*;
use crate::backend::ChatPrompt;

/// Tokens are bytes; a message is written as `<role>content</>`, tools come first as JSON lines.
struct Bytes;

impl Codec for Bytes {
    fn encode(&self, text: &str, _: bool, _: bool) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn vocab_size(&self) -> usize {
        256
    }

    fn render(&self, input: &ChatInput) -> Result<ChatPrompt, String> {
        let mut text = String::new();
        for tool in input.tools.iter().flat_map(|tools| tools.as_array().unwrap()) {
            text += &serde_json::to_string_pretty(tool).unwrap();
            text += "\n";
        }
        if let Some(today) = input.extra.get("today") {
            text += &format!("Today: {}\n", today.as_str().unwrap());
        }
        for message in &input.messages {
            let content = match &message["content"] {
                Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
                content => content.as_str().unwrap_or_default().to_owned(),
            };
            let role = message["role"].as_str().unwrap();
            let call = message["tool_calls"][0]["function"]["arguments"].as_str().unwrap_or_default();
            text += &format!("<{role}>{content}{call}</>");
        }
        Ok(ChatPrompt { tokens: self.encode(&text, true, true), opens_reasoning: false })
    }
}

fn sourced(body: &Value) -> SourcedPrompt {
    SourcedPrompt::read(body.as_object().unwrap(), &Bytes).unwrap()
}

/// How `body` leaves `cached`, of which `known` tokens are told after the place.
fn leaves_known(body: &Value, cached: &Value, known: usize) -> Report {
    let (prompt, other) = (sourced(body), sourced(cached).tokens);
    let agreed = prompt.tokens.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let end = other.len().min(agreed + known);
    compare(&Bytes, &prompt, CachedSequence { agreed, rest: &other[agreed..end] })
}

fn leaves(body: &Value, cached: &Value) -> Report {
    leaves_known(body, cached, 100)
}

fn with_system(text: &str) -> Value {
    json!({"messages": [{"role": "system", "content": text}, {"role": "user", "content": "Hello there"}]})
}

fn tool(name: &str, about: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": about, "parameters": {"type": "object"}}})
}

fn with_tools(tools: &[Value]) -> Value {
    json!({"tools": tools, "messages": [{"role": "user", "content": "Hello there"}]})
}

fn place(report: &Report) -> (&str, Option<usize>) {
    let divergence = report.divergence.as_ref().unwrap();
    (&divergence.field, divergence.offset)
}

#[test]
fn causes_are_recognised_by_the_differing_text() {
    let cases = [
        (Cause::Date, "Today is 2026-11-24.", "Today is 2026-11-23."),
        (Cause::Date, "Now: 2026-11-24T10:15:02Z. Help.", "Now: 2026-11-24T10:14:59Z. Help."),
        (Cause::Date, "Today is 24 November 2026.", "Today is 23 November 2026."),
        (Cause::Date, "Today is November 9th, 2026.", "Today is November 10th, 2026."),
        (Cause::Date, "It is Nov 3 2026 now.", "It is Dec 1 2026 now."),
        (Cause::Date, "It is Tuesday.", "It is Monday."),
        (Cause::Date, "24.11.2026: help.", "23.11.2026: help."),
        (Cause::Date, "It is 10:15 pm.", "It is 9:59 pm."),
        (Cause::Date, "Time 1764000000 is now.", "Time 1763990000 is now."),
        (
            Cause::Id,
            "Session 6f1c2a30-1111-4a2b-9c3d-0123456789ab.",
            "Session 0a1c2a30-2222-4a2b-9c3d-0123456789ab.",
        ),
        (
            Cause::Id,
            "Commit 9fceb02d0ae598e95dc970b74767f19372d61af8.",
            "Commit 1a410efbd13591db07496601ebc7a059dd55cfe9.",
        ),
        (Cause::Id, "[req_011CSHoEeqs5C35K2UUqR7Fy] Help.", "[req_0aBLaDuoS3AhnpTtWYmHw9vh] Help."),
        (Cause::Counter, "<total_tokens>181234</total_tokens>", "<total_tokens>179001</total_tokens>"),
        (Cause::Counter, "x-header: cch=a1b2c; Help.", "x-header: cch=ffe01; Help."),
        (Cause::Id, "Key V1StGXR8_Z5jdHi6B-myT is yours.", "Key Hx9bQeR2_Lk7PzW0c-nUv is yours."),
        (Cause::Counter, "Video 12 of the run 7.", "Video 13 of the run 7."),
        (Cause::System, "Take vitamin b2.", "Take vitamin b6."),
        (Cause::Counter, "You have 12 hints left.", "You have 13 hints left."),
        (Cause::WhiteSpace, "You are kind.\n", "You are kind."),
        (Cause::WhiteSpace, "You are kind.", "You are kind. "),
        (Cause::WhiteSpace, "You are\n\nkind.", "You are\nkind."),
        (Cause::System, "You are a kind helper.", "You are a stern helper."),
    ];
    for (cause, here, there) in cases {
        let report = leaves(&with_system(here), &with_system(there));
        assert_eq!(report.cause, cause, "{here:?} after {there:?}: {}", report.message);
        assert_eq!(report.divergence.unwrap().field, "messages[0].content", "{here:?}");
    }
}

#[test]
fn the_message_names_the_change_its_position_and_advice() {
    let report = leaves(&with_system("Today is 2026-11-24."), &with_system("Today is 2026-11-23."));
    assert_eq!(
        report.message,
        "A date or time differs, in messages[0].content at character 18: '2026-11-24' here, '2026-11-23' in what \
         is cached. Put it at the end of the last message, or write it no finer than it has to be."
    );
    let divergence = report.divergence.unwrap();
    assert_eq!((divergence.token, divergence.offset), (26, Some(18)));
    assert_eq!(divergence.before, "<system>Today is 2026-11-2");
    assert!(divergence.prompt.starts_with("4.</>"), "{divergence:?}");
    assert!(divergence.cached.starts_with("3.</>"), "{divergence:?}");
}

#[test]
fn a_truncated_cached_side_still_matches() {
    let (here, there) = (with_system("Today is 2026-11-24."), with_system("Today is 1999-01-01."));
    assert_eq!(leaves_known(&here, &there, 2).cause, Cause::Date);
}

#[test]
fn a_reordered_tool_list_names_both_tools() {
    let (a, b, c) =
        (tool("get_time", "The time."), tool("get_weather", "The weather."), tool("add", "A sum."));
    let report = leaves(&with_tools(&[c.clone(), a.clone(), b.clone()]), &with_tools(&[c, b, a]));
    assert_eq!((report.cause, place(&report)), (Cause::ToolOrder, ("tools[1]", None)));
    assert!(
        report.message.contains("'get_time' is in tools[1], where 'get_weather' was"),
        "{}",
        report.message
    );
}

#[test]
fn a_changed_tool_is_named() {
    let other = |about| with_tools(&[tool("add", "A sum."), tool("get_time", about)]);
    let report = leaves(&other("The time, in UTC."), &other("The time, at home."));
    assert_eq!((report.cause, place(&report)), (Cause::Tool, ("tools[1]", None)));
    let report = leaves(&other("As of 2026-11-24."), &other("As of 2026-11-23."));
    assert_eq!(report.cause, Cause::Date);
}

#[test]
fn earlier_messages_and_the_last_one_are_distinguished() {
    let talk = |texts: [&str; 3]| {
        let messages = texts.iter().zip(["user", "assistant", "user"]);
        let messages: Vec<_> = messages.map(|(text, role)| json!({"role": role, "content": text})).collect();
        json!({"messages": messages})
    };
    let base = talk(["user", "Yes, indeed.", "And then?"]);
    let report = leaves(&talk(["user", "No, alas.", "And then?"]), &base);
    assert_eq!((report.cause, place(&report)), (Cause::History, ("messages[1].content", Some(0))));
    let report = leaves(&talk(["user", "Yes, indeed.", "And why?"]), &base);
    assert_eq!((report.cause, place(&report)), (Cause::Question, ("messages[2].content", Some(4))));
    let report = leaves(&talk(["used", "Yes, indeed.", "And then?"]), &base);
    assert_eq!(place(&report), ("messages[0].content", Some(3)), "not the role of the same name");
}

#[test]
fn parts_and_calls_have_their_own_paths() {
    let body = |part: &str, city: &str| {
        json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": part}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": format!("{{\"city\":\"{city}\"}}")}}]},
            {"role": "tool", "content": "ok"},
        ]})
    };
    let report = leaves(&body("Two.", "Lima"), &body("Too.", "Lima"));
    assert_eq!(place(&report), ("messages[0].content[1].text", Some(1)));
    let report = leaves(&body("Two.", "Lima"), &body("Two.", "Oslo"));
    assert_eq!((report.cause, place(&report)), (Cause::History, ("messages[1].tool_calls[0]", None)));
}

#[test]
fn template_text_is_attributed_to_the_template() {
    let body = |role: &str, today: &str| {
        json!({"messages": [{"role": "user", "content": "Hello"}, {"role": role, "content": "Hi"}],
               "chat_template_kwargs": {"today": today}})
    };
    let report = leaves(&body("assistant", "x"), &body("tool", "x"));
    assert_eq!((report.cause, place(&report)), (Cause::Template, ("template", None)));
    assert!(report.message.contains("before messages[1].content:"), "{}", report.message);
    let report = leaves(&body("assistant", "24 Nov 2026"), &body("assistant", "23 Nov 2026"));
    assert_eq!((report.cause, place(&report)), (Cause::Date, ("template", None)));
}

#[test]
fn a_completions_prompt_is_one_field() {
    let body = |text: &str| json!({"prompt": text});
    let report = leaves(&body("Größe: blue"), &body("Größe: red"));
    assert_eq!((report.cause, place(&report)), (Cause::Prompt, ("prompt", Some(7))));
    assert_eq!(leaves(&body("page 7 of"), &body("page 8 of")).cause, Cause::Counter);
}

#[test]
fn an_appended_conversation_needs_no_advice() {
    let report = leaves(&json!({"prompt": "Once upon a time"}), &json!({"prompt": "Once upon"}));
    assert_eq!(report.cause, Cause::NewText);
    let divergence = report.divergence.unwrap();
    assert_eq!(
        (divergence.token, divergence.prompt.as_str(), divergence.cached.as_str()),
        (9, " a time", "")
    );
}

#[test]
fn the_same_prompt_and_no_prompt_at_all_have_no_divergence() {
    let body = json!({"prompt": "Once"});
    let report = leaves(&body, &body);
    assert_eq!((report.cause, report.divergence), (Cause::Cached, None));
    let report = compare(&Bytes, &sourced(&body), CachedSequence { agreed: 0, rest: &[] });
    assert_eq!((report.cause, report.divergence), (Cause::Nothing, None));
}

#[test]
fn a_partial_character_is_not_a_difference() {
    // The two letters share their first byte.
    let report = leaves_known(&json!({"prompt": "xä"}), &json!({"prompt": "xö"}), 0);
    assert_eq!(report.cause, Cause::NewText);
    let report = leaves_known(&json!({"prompt": "xä"}), &json!({"prompt": "xö"}), 1);
    assert_eq!((place(&report), report.divergence.as_ref().unwrap().token), (("prompt", Some(1)), 2));
}

#[test]
fn several_prompts_are_rejected() {
    let body = json!({"prompt": ["a", "b"]});
    let error = SourcedPrompt::read(body.as_object().unwrap(), &Bytes).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("prompt"));
}

#[test]
fn tiers_add_up_in_json() {
    let body = json!({"prompt": "Once"});
    let known = Explained { memory: 64, disk: 128, shared: None, ..Explained::default() };
    let report = explain(&Bytes, &sourced(&body), &known, true).to_json();
    assert_eq!(report["hit_tokens"], 192);
    assert_eq!(report["tiers"], json!({"memory": 64, "disk": 128, "shared": null}));
    assert_eq!(explain(&Bytes, &sourced(&body), &known, false).cause, Cause::NotRead);
}

#[test]
fn what_a_window_leaves_unusable_is_said() {
    let body = json!({"prompt": "a".repeat(400)});
    let closest = foretoken_cache::Closest { agreed: 400, cached: Vec::new() };
    let message = |memory, shared| {
        let known = Explained { closest: closest.clone(), memory, disk: 64, shared };
        explain(&Bytes, &sourced(&body), &known, true).message
    };
    assert!(message(128, Some(0)).contains("Of the 400 tokens that agree, 192 can be used now"));
    assert!(!message(300, Some(0)).contains("can be used"), "it is all but the last block");
    assert!(!message(0, None).contains("can be used"), "the store may have the rest");
}
