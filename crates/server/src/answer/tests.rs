//! What is found in answers, however they are cut into tokens and steps.

use foretoken_engine::{ScoredToken, Source, TokenEvent, TokenLogprob};
use foretoken_model::tokenizer::TokenDecoder;
use proptest::prelude::*;

use super::*;

const SOURCES: [Option<Source>; 3] = [None, Some(Source::Memory), Some(Source::OwnText)];

/// Tokens that end at these bytes of `text`, as the engine sends them. Their ids count up.
pub(super) fn tokens(text: &str, cuts: &[usize]) -> Vec<TokenEvent> {
    let mut decoder = TokenDecoder::new(true);
    let mut decoded = 0;
    let mut token = |(at, pair): (usize, &[usize])| {
        let bytes = text.as_bytes()[pair[0]..pair[1]].to_vec();
        let start = decoded;
        let text = decoder.push_bytes(&bytes);
        decoded += text.len();
        let span = Some(start..decoded + usize::from(decoder.is_within_character()));
        let chosen = ScoredToken { id: at as u32, logprob: -1.0, bytes };
        let logprob = Some(TokenLogprob { chosen, top: Vec::new() });
        TokenEvent { id: at as u32, text, span, logprob, source: SOURCES[at % SOURCES.len()] }
    };
    let mut at: Vec<usize> = cuts.to_vec();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.dedup();
    at.windows(2).enumerate().map(&mut token).collect()
}

fn characters(text: &str) -> Vec<TokenEvent> {
    tokens(text, &text.char_indices().map(|(at, _)| at).collect::<Vec<_>>())
}

/// The answer of `steps`, and its reasoning tokens.
pub(super) fn parse<'a>(format: Format, steps: impl Iterator<Item = &'a [TokenEvent]>) -> (Answer, usize) {
    let mut parser = AnswerParser::new(format);
    let mut answer = Answer::default();
    for step in steps {
        parser.push(step).into_iter().for_each(|event| answer.push(event));
    }
    parser.finish("", Finish::Stop).into_iter().for_each(|event| answer.push(event));
    (answer, parser.reasoning_tokens())
}

fn whole(format: Format, text: &str) -> Answer {
    parse(format, [&characters(text)[..]].into_iter()).0
}

fn chat() -> Format {
    Format::chat(false)
}

/// Calls in this form, of tools whose parameters are strings if they have a name.
pub(super) fn calls(format: &'static ToolFormat, control: &[u32]) -> Calls {
    let tools = serde_json::json!([
        {"function": {"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}},
        {"function": {"name": "g", "parameters": {}}},
    ]);
    let tools = Tools::of(tools.as_array().unwrap());
    Calls { format, tools: tools.into(), control: control.into() }
}

fn hermes() -> Calls {
    calls(ToolFormat::hermes(), &[])
}

/// Reasoning and text.
fn split(opens_reasoning: bool, text: &str) -> (String, String) {
    let answer = whole(Format::chat(opens_reasoning), text);
    (answer.reasoning().text, answer.text().text)
}

/// Texts and calls, without log-probabilities.
fn parts(text: &str) -> Vec<Result<String, (String, String)>> {
    let answer = whole(chat().with_calls(hermes(), false), text);
    let part = |part: Part| match part {
        Part::Reasoning(piece) | Part::Text(piece) => Ok(piece.text),
        Part::Call(call) => Err((call.name, call.arguments)),
    };
    answer.parts.into_iter().map(part).collect()
}

fn ids(piece: &Piece) -> Vec<u32> {
    piece.tokens.iter().map(|token| token.chosen.id).collect()
}

#[test]
fn drafters_belong_to_the_text_that_their_tokens_begin() {
    let stretches = |text: &str, cuts: &[usize]| -> Vec<(String, Option<Source>)> {
        let piece = parse(chat(), [&tokens(text, cuts)[..]].into_iter()).0.text();
        let stretches = piece.drafted.stretches(&piece.text).into_iter();
        stretches.map(|(text, source)| (text.to_owned(), source)).collect()
    };
    let [none, memory, own] = SOURCES;
    let expected = |stretches: &[(&str, Option<Source>)]| -> Vec<(String, Option<Source>)> {
        stretches.iter().map(|(text, source)| ((*text).to_owned(), *source)).collect()
    };
    assert_eq!(stretches("abcd", &[1, 2]), expected(&[("a", none), ("b", memory), ("cd", own)]));
    // A tag and the white space after it are no text.
    assert_eq!(stretches("<think>a</think> bc", &[17, 18]), expected(&[("b", memory), ("c", own)]));
    // The second byte of a character comes with the next token.
    assert_eq!(stretches("aéb", &[2]), expected(&[("aé", none), ("b", memory)]));
    assert_eq!(stretches("é", &[1]), expected(&[("é", none)]));
}

#[test]
fn reasoning_is_between_tags_at_the_start() {
    let cases = [
        (false, "hello", "", "hello"),
        (false, " hello ", "", " hello "),
        (false, "<think>\nwhy\n</think>\n\nbecause", "why", "because"),
        (true, "\nwhy</think>because", "why", "because"),
        (true, "still thinking <", "still thinking <", ""),
        (true, "  ", "", ""),
        (false, "<think>\n\n</think>\n\nfast", "", "fast"),
        (false, "<thin", "", "<thin"),
        (false, "a <think>b</think>", "", "a <think>b</think>"),
        (true, "a < b </ c </think> d </think>", "a < b </ c", "d </think>"),
    ];
    for (inside, text, reasoning, content) in cases {
        assert_eq!(split(inside, text), (reasoning.into(), content.into()), "{text:?}");
    }
}

#[test]
fn without_a_format_everything_is_text() {
    let text = "<think>a</think><tool_call>{\"name\":\"f\"}</tool_call>";
    assert_eq!(whole(Format::default(), text).text().text, text);
}

#[test]
fn calls_are_found_and_other_text_is_kept() {
    let text = |text: &str| Ok(text.to_owned());
    let call = |name: &str, arguments: &str| Err((name.to_owned(), arguments.to_owned()));
    let one = r#"<tool_call>{"name": "f", "arguments": {"b": 1, "a": [2, "x y"]}}</tool_call>"#;
    let arguments = r#"{"b":1,"a":[2,"x y"]}"#;
    for (answer, wanted) in [
        (one.to_owned(), vec![call("f", arguments)]),
        (
            format!("Let me see.\n{one}\n{one}\n"),
            vec![text("Let me see."), call("f", arguments), call("f", arguments)],
        ),
        (format!("{one} then"), vec![call("f", arguments), text("then")]),
        ("<tool_call>{\"name\":\"f\"}".into(), vec![call("f", "{}")]),
        (r#"<tool_call>{"name":"f","arguments":null}</tool_call>"#.into(), vec![call("f", "{}")]),
        (
            r#"<tool_call>{"name":"f","arguments":"{\"x\":1}"}</tool_call>"#.into(),
            vec![call("f", r#"{"x":1}"#)],
        ),
        (
            r#"<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>"#.into(),
            vec![call("f", r#"{"x":1}"#)],
        ),
        (
            r#"<tool_call>{"name": "f\"", "parameters": {"x": "</tool_call>\\"}, "id": 3}</tool_call> a"#
                .into(),
            vec![call("f\"", r#"{"x":"</tool_call>\\"}"#), text("a")],
        ),
    ] {
        assert_eq!(parts(&answer), wanted, "{answer}");
    }
}

#[test]
fn what_is_no_call_is_text_with_its_white_space() {
    for plain in [
        "no call ",
        "a <tool_call",
        "a <tool_call>{bad}</tool_call> b",
        "<tool_call>{\"name\":",
        "<tool_call>[]",
        r#"<tool_call>{"name":"f","arguments":[1]}</tool_call>"#,
        r#"<tool_call>{"name":"","arguments":{}}</tool_call>"#,
    ] {
        assert_eq!(parts(plain), [Ok(plain.to_owned())]);
    }
}

#[test]
fn a_call_that_is_cut_off_keeps_the_arguments_so_far() {
    for (text, arguments) in [
        (r#"<tool_call>{"name":"f","arguments":{"x":"ab"#, r#"{"x":"ab"#),
        (r#"<tool_call>{"name":"f","arguments":{"x":1</tool_call>"#, r#"{"x":1"#),
        (r#"<tool_call>{"name":"f","arguments":{"x":1}}</tool"#, r#"{"x":1}"#),
        (r#"<tool_call>{"name":"f","arguments":{"x":1,bad}}</tool_call>"#, r#"{"x":1,"#),
        (r#"<tool_call>{"name":"f","arguments":{"x":1}"#, r#"{"x":1}"#),
    ] {
        assert_eq!(parts(text), [Err(("f".to_owned(), arguments.to_owned()))], "{text}");
    }
}

#[test]
fn strings_of_arguments_are_escaped_as_json_wants_it() {
    let text = "<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":\"a\nb\t\\d \\n \\\" \\u00e9\"}}</tool_call>";
    let answer = whole(chat().with_calls(hermes(), false), text);
    let arguments = &answer.calls().next().unwrap().arguments;
    let parsed: serde_json::Value = serde_json::from_str(arguments).unwrap();
    assert_eq!(parsed["x"], "a\nb\t\\d \n \" é");
}

#[test]
fn a_forgotten_closing_tag_does_not_hide_what_follows() {
    let call = Err(("f".to_owned(), "{}".to_owned()));
    let open = r#"<tool_call>{"name":"f","arguments":{}}"#;
    assert_eq!(parts(&format!("{open}\n{open}")), [call.clone(), call.clone()]);
    assert_eq!(parts(&format!("{open}\nDone.")), [call, Ok("Done.".to_owned())]);
}

#[test]
fn one_call_is_kept_if_only_one_is_wanted() {
    let one = r#"<tool_call>{"name":"f","arguments":{}}</tool_call>"#;
    let answer = whole(chat().with_calls(hermes(), true), &format!("{one}{one}"));
    assert_eq!((answer.calls().count(), answer.finish), (1, Finish::Calls));
}

#[test]
fn certain_text_is_sent_at_once() {
    let mut parser = AnswerParser::new(Format::chat(true).with_calls(hermes(), false));
    let mut events = Vec::new();
    for token in tokens("so <ok</think> hi <too", &[2, 4, 6, 14, 18]) {
        let texts = parser.push(&[token]).into_iter().map(|event| match event {
            Event::Reasoning(piece) => format!("r:{}", piece.text),
            Event::Text(piece) => format!("t:{}", piece.text),
            other => format!("{other:?}"),
        });
        events.push(texts.collect::<Vec<_>>().join(" "));
    }
    assert_eq!(events, ["r:so", "", "r: <ok", "", "t:hi", ""]);
}

#[test]
fn arguments_are_sent_as_they_come() {
    let mut parser = AnswerParser::new(chat().with_calls(hermes(), false));
    let text = r#"<tool_call>{"name":"f","arguments":{"x":"long"}}</tool_call>"#;
    let at = text.find("long").unwrap();
    let steps = tokens(text, &[at, at + 2]);
    let begin = parser.push(&steps[..1]);
    let name = Event::CallBegin { name: "f".into() };
    assert_eq!(begin, [name, Event::CallArguments("{\"x\":\"".into())]);
    assert_eq!(parser.push(&steps[1..2]), [Event::CallArguments("lo".into())]);
    assert_eq!(parser.push(&steps[2..]), [Event::CallArguments("ng\"}".into()), Event::CallEnd]);
}

#[test]
fn log_probabilities_leave_out_tags_and_white_space_that_is_taken_off() {
    let text = "<think>\nwhy </think>\n\nso <tool_call>{\"name\":\"f\"}</tool_call>";
    let places: Vec<usize> =
        ["\n", "why", " </", "\n\n", "so", " <tool", "{"].map(|part| text.find(part).unwrap()).into();
    let tokens = tokens(text, &places);
    let (answer, reasoning) = parse(chat().with_calls(hermes(), false), tokens.chunks(1));
    assert_eq!(ids(&answer.reasoning()), [2]);
    assert_eq!(ids(&answer.text()), [5]);
    assert_eq!(reasoning, 4, "of <think>, white space, text, and white space with </think>");
}

const WORDS: [&str; 55] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "{\"name\":\"f\",\"arguments\":{}}",
    "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"</tool_call>\"]}",
    "{\"arguments\":{\"a\":1},\"name\":\"g\"}",
    "\"",
    "\\",
    "{",
    "}",
    ",",
    "<",
    "</",
    "tool",
    " ",
    "\n",
    "é",
    "🦀",
    "a",
    "f",
    "[",
    "]",
    ";",
    "```",
    "```json",
    "<function=",
    "<function=f>",
    "<parameter=s>",
    "<parameter=n>",
    "</parameter>",
    "</function>",
    "<arg_key>",
    "s</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "function<｜tool▁sep｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|python_tag|>",
    "{\"name\": \"f\", \"parameters\": {\"s\": \"x\"}, \"id\": 7}",
    "<|tool_call|>",
    "<tool_calls>",
    "functools[",
    "<|tool_call_begin|>",
    "functions.",
    "<|tool_call_argument_begin|>",
    "<invoke name=\"",
    "\">",
];

/// Whether a JSON parser fails on the text, if at all, only because it ends.
fn is_beginning_of_json(text: &str) -> bool {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => true,
        Err(error) => error.is_eof(),
    }
}

/// Whether the text of the tokens `listed` is `piece`, when tokens are characters.
fn spells(characters: &[TokenEvent], piece: &Piece) -> bool {
    let text: String = ids(piece).into_iter().map(|id| characters[id as usize].text.as_str()).collect();
    text == piece.text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn events_do_not_depend_on_tokens_and_steps_and_describe_the_same_tokens(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..14),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        step in 1_usize..5,
        opens_reasoning: bool,
        with_calls: bool,
        one_call: bool,
        row in prop::sample::select(ToolFormat::names().collect::<Vec<_>>()),
    ) {
        let row = ToolFormat::named(row).unwrap();
        let text = words.concat();
        let format = Format::chat(opens_reasoning);
        let format = if with_calls { format.with_calls(calls(row, &[]), one_call) } else { format };

        let characters = characters(&text);
        let (finest, reasoning) = parse(format.clone(), characters.chunks(1));
        prop_assert!(spells(&characters, &finest.reasoning()) && spells(&characters, &finest.text()), "{:?}", finest);
        let in_part = |piece: &Piece, token: &TokenEvent| {
            let span = token.span.clone().unwrap();
            ids(piece).into_iter().any(|id| {
                let character = characters[id as usize].span.clone().unwrap();
                character.start < span.end && span.start < character.end
            })
        };

        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        for call in finest.calls() {
            prop_assert!(is_beginning_of_json(&call.arguments), "{}", call.arguments);
        }
        let tokens = tokens(&text, &cuts);
        let (stepped, stepped_reasoning) = parse(format.clone(), tokens.chunks(step));
        prop_assert_eq!((&stepped, stepped_reasoning), (&parse(format.clone(), [&tokens[..]].into_iter()).0, stepped_reasoning));
        let bare = |answer: &Answer| -> Vec<String> {
            answer.parts.iter().map(|part| match part {
                Part::Reasoning(piece) => format!("reasoning {}", piece.text),
                Part::Text(piece) => format!("text {}", piece.text),
                Part::Call(call) => format!("{call:?}"),
            }).collect()
        };
        prop_assert_eq!((bare(&stepped), &stepped.finish), (bare(&finest), &finest.finish));
        for (coarse, fine) in [(stepped.reasoning(), finest.reasoning()), (stepped.text(), finest.text())] {
            let wanted: Vec<u32> = tokens.iter().filter(|token| in_part(&fine, token)).map(|token| token.id).collect();
            prop_assert_eq!(ids(&coarse), wanted);
        }
        prop_assert!(stepped_reasoning <= tokens.len() && (stepped_reasoning > 0) == (reasoning > 0));
    }
}
