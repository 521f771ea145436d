//! Parses tool calls in a response's content.
//!
//! Hermes and Qwen models write `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. A call is emitted whole, when
//! its closing tag arrives or the response ends. Text between the tags that is not a valid call is content, tags
//! included: nothing is dropped but white space around calls. The invariant: as in [`crate::reasoning`], the result
//! does not depend on chunking.

use serde_json::Value;

use crate::reasoning::certain_len;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A part of a response's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Plain text.
    Text(String),
    /// A call.
    Call(Call),
}

/// A call of a function that the client declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The function's name.
    pub(crate) name: String,
    /// Its arguments, as JSON text.
    pub(crate) arguments: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    Call,
    /// After a call, before the first visible character.
    AfterCall,
}

/// Parses content incrementally.
#[derive(Clone, Debug)]
pub(crate) struct ToolParser {
    state: State,
    held: String,
}

impl ToolParser {
    pub(crate) fn new() -> Self {
        ToolParser { state: State::Text, held: String::new() }
    }

    /// Takes the next text and appends the parts that are now certain.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// Ends the response. A call without its closing tag counts if it is complete JSON.
    pub(crate) fn finish(&mut self, out: &mut Vec<Part>) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Text => emit(out, held),
            State::AfterCall => {}
            State::Call => match parse(&held) {
                Some(call) => out.push(Part::Call(call)),
                None => emit(out, format!("{OPEN}{held}")),
            },
        }
    }

    /// One state transition; false if more text is needed.
    fn step(&mut self, out: &mut Vec<Part>) -> bool {
        match self.state {
            State::Text => {
                if let Some(at) = self.held.find(OPEN) {
                    emit(out, self.held[..at].trim_end().into());
                    self.held.drain(..at + OPEN.len());
                    self.state = State::Call;
                    return true;
                }
                let certain = certain_len(&self.held, OPEN);
                emit(out, self.held.drain(..certain).collect());
                false
            }
            State::Call => {
                let Some(at) = self.held.find(CLOSE) else { return false };
                match parse(&self.held[..at]) {
                    Some(call) => out.push(Part::Call(call)),
                    None => emit(out, format!("{OPEN}{}{CLOSE}", &self.held[..at])),
                }
                self.held.drain(..at + CLOSE.len());
                self.state = State::AfterCall;
                true
            }
            State::AfterCall => {
                self.held = self.held.trim_start().into();
                if self.held.is_empty() {
                    return false;
                }
                self.state = State::Text;
                true
            }
        }
    }
}

fn emit(out: &mut Vec<Part>, text: String) {
    if !text.is_empty() {
        out.push(Part::Text(text));
    }
}

fn parse(text: &str) -> Option<Call> {
    let mut call: Value = serde_json::from_str(text.trim()).ok()?;
    let name = call.get("name")?.as_str().filter(|name| !name.is_empty())?.to_owned();
    let arguments = match call.get_mut("arguments").map(Value::take) {
        None | Some(Value::Null) => "{}".into(),
        Some(Value::String(text)) => text,
        Some(value @ Value::Object(_)) => value.to_string(),
        Some(_) => return None,
    };
    Some(Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(pieces: &[&str]) -> Vec<Part> {
        let mut parser = ToolParser::new();
        let mut parts = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut parts);
        }
        parser.finish(&mut parts);
        // Joins neighbouring texts, so that results can be compared.
        let mut joined: Vec<Part> = Vec::new();
        for part in parts {
            match (joined.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call(Call { name: name.into(), arguments: arguments.into() })
    }

    #[test]
    fn parses_calls_and_keeps_other_text() {
        let one = r#"<tool_call>{"name": "f", "arguments": {"b": 1, "a": [2]}}</tool_call>"#;
        assert_eq!(run(&[one]), [call("f", r#"{"b":1,"a":[2]}"#)]);
        assert_eq!(
            run(&[&format!("Let me see.\n{one}\n{one}\n")]),
            [text("Let me see."), call("f", r#"{"b":1,"a":[2]}"#), call("f", r#"{"b":1,"a":[2]}"#)]
        );
        assert_eq!(run(&["<tool_call>{\"name\":\"f\"}"]), [call("f", "{}")]);
        assert_eq!(
            run(&[r#"<tool_call>{"name":"f","arguments":"{\"x\":1}"}</tool_call>"#]),
            [call("f", r#"{"x":1}"#)]
        );
        for plain in [
            "no call ",
            "a <tool_call",
            "<tool_call>{bad}</tool_call>",
            "<tool_call>{\"name\":",
            "<tool_call>[]",
        ] {
            assert_eq!(run(&[plain]), [text(plain)]);
        }
    }

    #[test]
    fn text_is_released_before_a_tag_is_complete() {
        let mut parser = ToolParser::new();
        let mut parts = Vec::new();
        parser.push("hello <too", &mut parts);
        assert_eq!(parts, [text("hello")]);
        parser.push("l", &mut parts);
        parser.push("s", &mut parts);
        assert_eq!(parts[1], text(" <tools"));
    }

    proptest! {
        #[test]
        fn result_is_independent_of_chunking(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "<tool_call>", "</tool_call>", "{\"name\":\"f\",\"arguments\":{}}", "<", "tool", " ", "\n", "é",
                ]),
                0..10,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let whole = words.concat();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            at.retain(|&cut| whole.is_char_boundary(cut));
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
            prop_assert_eq!(run(&pieces), run(&[&whole]));
        }
    }
}
