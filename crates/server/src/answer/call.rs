//! Reads a tool call that is written as JSON: `{"name": …, "arguments": {…}}`.
//!
//! A call is certain as soon as its name and the beginning of its arguments were read; from there on the arguments are
//! sent as they come. A call in another order or form is read whole. The invariant: what is read does not depend on how
//! the text was cut.

use serde_json::Value;

use super::Call;

/// The keys of the arguments; the second is Llama's.
const ARGUMENTS: [&str; 2] = ["\"arguments\"", "\"parameters\""];

/// The name of a call whose arguments are about to begin, and the bytes before them.
pub(super) fn head(text: &str) -> Option<(String, usize)> {
    let rest = after(after(after(text, "{")?, "\"name\"")?, ":")?.trim_start();
    let (name, rest) = json_string(rest)?;
    let rest = after(rest, ",")?;
    let rest = ARGUMENTS.into_iter().find_map(|key| after(rest, key))?;
    let rest = after(rest, ":")?.trim_start();
    (rest.starts_with('{') && !name.is_empty()).then(|| (name, text.len() - rest.len()))
}

fn after<'a>(text: &'a str, token: &str) -> Option<&'a str> {
    text.trim_start().strip_prefix(token)
}

/// The string that `text` begins with, and what follows it.
fn json_string(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let end = end?.0 + 1;
    let string = serde_json::from_str(&text[..end]).ok()?;
    Some((string, &text[end..]))
}

/// A whole call, with the arguments as an object, as text or left out.
pub(super) fn parse(text: &str) -> Option<Call> {
    let mut call: Value = serde_json::from_str(text.trim()).ok()?;
    let name = call.get("name")?.as_str().filter(|name| !name.is_empty())?.to_owned();
    let key = ARGUMENTS.into_iter().find(|key| call.get(key.trim_matches('"')).is_some());
    let arguments = match key.and_then(|key| call.get_mut(key.trim_matches('"'))).map(Value::take) {
        None | Some(Value::Null) => "{}".into(),
        Some(Value::String(text)) => text,
        Some(value @ Value::Object(_)) => value.to_string(),
        Some(_) => return None,
    };
    Some(Call { name, arguments })
}

/// What follows the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// More text is needed.
    More,
    /// This many bytes are still the call's.
    Over(usize),
}

/// Reads what follows the arguments: brackets and the closing tag, and other members if there are any. `over`: no more
/// text follows; `broken`: whatever stands before the next tag is still the call's.
pub(super) fn tail(text: &str, (open, close): (&str, &str), over: bool, broken: bool) -> Tail {
    let body = text.trim_start_matches(|c: char| c.is_whitespace() || c == '}');
    let before = text.len() - body.len();
    if body.starts_with(close) && !broken {
        return Tail::Over(before + close.len());
    }
    if close.starts_with(body) && !broken {
        return if over { Tail::Over(text.len()) } else { Tail::More };
    }
    if !body.starts_with(',') && !broken {
        // The model forgot the closing tag; white space is left for what follows.
        return Tail::Over(text[..before].trim_end().len());
    }
    match foretoken_engine::markers::find(&[close, open], text) {
        Some((0, tag)) => Tail::Over(tag.end),
        Some((_, tag)) => Tail::Over(tag.start),
        None if over => Tail::Over(text.len()),
        None => Tail::More,
    }
}
