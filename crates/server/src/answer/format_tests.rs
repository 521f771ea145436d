//! The table of formats: an example of each, and which of them chat templates have.

use proptest::prelude::*;

use super::tests::{calls, parse, tokens};
use super::*;

/// Text before calls, two calls, and what text comes after them; as each form writes it.
const EXAMPLES: [(&str, &str, &str); 15] = [
    (
        "hermes",
        "Look:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"s\": \"a<b\\n\", \"n\": 5}}\n</tool_call>\n<tool_call>\n\
         {\"name\": \"g\", \"arguments\": {}}\n</tool_call>\nDone.",
        "Done.",
    ),
    (
        "qwen3-coder",
        "Look:\n<tool_call>\n<function=f>\n<parameter=s>\na<b\n\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>\n\
         </tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>\nDone.",
        "Done.",
    ),
    (
        "llama3",
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"s\": \"a<b\\n\", \"n\": 5}}; {\"name\": \"g\", \
         \"parameters\": {}}",
        "",
    ),
    (
        "mistral",
        "Look:[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"s\": \"a<b\\n\", \"n\": 5}, \"id\": \"123456789\"}, \
         {\"name\": \"g\", \"arguments\": {}}]",
        "",
    ),
    (
        "mistral-args",
        "Look:[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{\"s\": \"a<b\\n\", \"n\": 5}[TOOL_CALLS]g[ARGS]{}",
        "",
    ),
    (
        "deepseek",
        "Look:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"s\": \"a<b\\n\", \"n\": 5}\n```\
         <｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜>\
         <｜tool▁calls▁end｜>Done.",
        "Done.",
    ),
    (
        "deepseek-v3.1",
        "Look:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"s\": \"a<b\\n\", \"n\": 5}<｜tool▁call▁end｜>\
         <｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
    ),
    (
        "glm",
        "Look:\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>a<b\n</arg_value>\n<arg_key>n</arg_key>\n<arg_value>5\
         </arg_value>\n</tool_call>\n<tool_call>g</tool_call>\nDone.",
        "Done.",
    ),
    (
        "kimi-k2",
        "Look:<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>\
         {\"s\": \"a<b\\n\", \"n\": 5}<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}\
         <|tool_call_end|><|tool_calls_section_end|>",
        "",
    ),
    (
        "minimax-m2",
        "Look:\n<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"s\">a<b\n\n</parameter>\n<parameter name=\"n\">5\
         </parameter>\n</invoke>\n<invoke name=\"g\">\n</invoke>\n</minimax:tool_call>",
        "",
    ),
    (
        "functionary-v3.1",
        "Look:\n<function=f>{\"s\": \"a<b\\n\", \"n\": 5}</function><function=g>{}</function>\nDone.",
        "Done.",
    ),
    (
        "granite",
        "Look: <|tool_call|>[{\"name\": \"f\", \"arguments\": {\"s\": \"a<b\\n\", \"n\": 5}}, {\"name\": \"g\", \
         \"arguments\": {}}]",
        "",
    ),
    (
        "apriel",
        "Look:\n<tool_calls>[{\"name\": \"f\", \"arguments\": {\"s\": \"a<b\\n\", \"n\": 5}, \"id\": \"x\"},\
         {\"name\": \"g\", \"arguments\": {}}]</tool_calls>\nDone.",
        "Done.",
    ),
    (
        "nemotron-v2",
        "Look:\n<TOOLCALL>[{\"name\": \"f\", \"arguments\": {\"s\": \"a<b\\n\", \"n\": 5}}, {\"name\": \"g\", \
         \"arguments\": {}}]</TOOLCALL>",
        "",
    ),
    (
        "firefunction-v2",
        "Look: functools[{\"name\": \"f\", \"arguments\": {\"s\": \"a<b\\n\", \"n\": 5}}, {\"name\": \"g\", \
         \"arguments\": {}}]",
        "",
    ),
];

fn row(name: &str) -> &'static ToolFormat {
    ToolFormat::named(name).unwrap_or_else(|| panic!("{name}"))
}

fn format_of(name: &str) -> Format {
    Format::chat(false).with_calls(calls(row(name), &[]), false)
}

/// Texts and calls.
fn parts_of(format: Format, text: &str, cuts: &[usize]) -> Vec<String> {
    let tokens = tokens(text, cuts);
    let answer = parse(format, tokens.chunks(1)).0;
    let part = |part: Part| match part {
        Part::Reasoning(piece) => format!("reasoning {}", piece.text),
        Part::Text(piece) => piece.text,
        Part::Call(call) => format!("{}({})", call.name, call.arguments),
    };
    answer.parts.into_iter().map(part).collect()
}

fn parts(name: &str, text: &str) -> Vec<String> {
    parts_of(format_of(name), text, &[])
}

#[test]
fn every_form_has_an_example_whose_calls_are_found_wherever_it_is_cut() {
    assert!(ToolFormat::names().all(|name| EXAMPLES.iter().any(|(example, ..)| *example == name)));
    for (name, text, after) in EXAMPLES {
        let mut wanted = vec!["f({\"s\":\"a<b\\n\",\"n\":5})", "g({})"];
        if name != "llama3" {
            wanted.insert(0, "Look:");
        }
        wanted.extend(Some(after).filter(|after| !after.is_empty()));
        assert_eq!(parts(name, text), wanted, "{name}");
        for at in 0..text.len() {
            assert_eq!(parts_of(format_of(name), text, &[at]), wanted, "{name}, cut at {at}");
        }
        let every: Vec<usize> = (0..text.len()).collect();
        assert_eq!(parts_of(format_of(name), text, &every), wanted, "{name}, cut everywhere");
    }
}

#[test]
fn an_answer_that_ends_early_has_the_beginning_of_its_arguments() {
    for (name, text, _) in EXAMPLES {
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            let tokens = tokens(&text[..end], &[]);
            let answer = parse(format_of(name), [&tokens[..]].into_iter()).0;
            for call in answer.calls() {
                let json = serde_json::from_str::<Value>(&call.arguments);
                assert!(json.is_ok() || json.is_err_and(|error| error.is_eof()), "{name} {call:?}");
            }
        }
    }
}

#[test]
fn what_is_no_call_stays_text_in_every_form() {
    for (name, text, _) in EXAMPLES {
        let open = ["<tool_call>", "[TOOL_CALLS]", "<function=", "<|tool_call|>"];
        for plain in [
            "{\"name\": \"unknown\", \"parameters\": {}}".to_owned(),
            "{\"answer\": [1, 2]} and more".into(),
            "a `<tool_call>` is <tool_call>, so it is.".into(),
            open.concat(),
            open.join(" x "),
            text[..text.find(['{', '<', '[']).unwrap_or(0)].trim_end().into(),
        ] {
            assert_eq!(parts(name, &plain).concat(), plain, "{name}");
        }
    }
}

#[test]
fn llamas_calls_are_found_without_a_mark_if_they_name_a_tool() {
    let call = "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"n\": 1}}";
    assert_eq!(parts("llama3", call), ["f({\"n\":1})"]);
    assert_eq!(
        parts("llama3", &format!("\n{}", call.replace('f', "h"))),
        [format!("\n{}", call.replace('f', "h"))]
    );
    let direct = "{\"name\": \"f\", \"parameters\": {\"n\": 1}}";
    assert_eq!(parts("llama3", &format!("\n{direct}")), ["f({\"n\":1})"]);
    assert_eq!(parts("llama3", &format!("So: {direct}")), [format!("So: {direct}")]);
}

#[test]
fn a_coder_may_forget_the_tags_around_a_call() {
    let text = "Look:\n<function=f>\n<parameter=s>x</parameter>\n</tool_call>";
    assert_eq!(parts("qwen3-coder", text), ["Look:", "f({\"s\":\"x\"})"]);
}

#[test]
fn a_string_between_tags_is_sent_as_it_comes() {
    let mut parser = AnswerParser::new(format_of("qwen3-coder"));
    let text = "<tool_call>\n<function=f>\n<parameter=s>\nlong text\n</parameter>";
    let at = text.find("text").unwrap();
    let tokens = tokens(text, &[at, text.len() - 8]);
    let call = Event::CallBegin { name: "f".into() };
    assert_eq!(parser.push(&tokens[..1]), [call, Event::CallArguments("{\"s\":\"long ".into())]);
    assert_eq!(parser.push(&tokens[1..2]), [Event::CallArguments("text".into())]);
    assert_eq!(parser.push(&tokens[2..]), [Event::CallArguments("\"".into())]);
}

#[test]
fn control_tokens_of_calls_are_not_shown_where_there_is_no_call() {
    let text = "a [TOOL_CALLS] b";
    let tokens = tokens(text, &[2, 14]);
    let format = Format::chat(false).with_calls(calls(row("mistral"), &[1]), false);
    let (answer, _) = parse(format, tokens.chunks(1));
    assert_eq!(answer.text().text, "a  b");
    assert_eq!(answer.text().tokens.len(), 2);
}

proptest! {
    #[test]
    fn examples_joined_are_the_same_however_they_are_cut(
        which in prop::sample::select((0..EXAMPLES.len()).collect::<Vec<_>>()),
        from in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let (name, text, _) = EXAMPLES[which];
        let from = text.floor_char_boundary(from.index(text.len()));
        let text = format!("{}{text}", &text[from..]);
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        prop_assert_eq!(parts_of(format_of(name), &text, &cuts), parts(name, &text));
    }
}
