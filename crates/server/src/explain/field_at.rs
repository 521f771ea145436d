//! Maps a position in the rendered prompt to the request field it came from.
//!
//! Templates render messages in order and tools anywhere, with template text around and between. So each message's
//! text is searched after the previous one, and each tool as JSON regardless of white space. Everything else is
//! template text.

use std::ops::Range;

use serde_json::Value;

use super::Source;

/// A position in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Such as `messages[3].content`, `tools[1]`, `prompt` or `template`.
    pub(super) field: String,
    /// Characters from the start of that field; `None` in the template and in tools.
    pub(super) offset: Option<usize>,
    /// The next field, if the position is in template text.
    pub(super) next: Option<String>,
    /// Index of the message, if in one.
    pub(super) message: Option<usize>,
    /// Index of the tool, if in one.
    pub(super) tool: Option<usize>,
}

struct Span {
    field: String,
    range: Range<usize>,
    /// Characters of the field before the span; `None` if the field is not rendered verbatim.
    skipped: Option<usize>,
    message: Option<usize>,
    tool: Option<usize>,
}

/// The field that byte `at` of the rendered prompt `text` comes from.
pub(super) fn locate(text: &str, at: usize, source: &Source) -> Place {
    let Source::Chat(input) = source else {
        let offset = Some(text[..at].chars().count());
        return Place { field: "prompt".into(), offset, next: None, message: None, tool: None };
    };
    let mut spans = tools(text, input.tools.as_ref());
    spans.extend(messages(text, &input.messages));
    let inside = spans.iter().find(|span| span.range.contains(&at));
    // A position right after a field belongs to it: the field ends here and continues in the other prompt.
    let Some(span) = inside.or_else(|| spans.iter().find(|span| span.range.end == at)) else {
        let next = spans.iter().filter(|span| span.range.start > at).min_by_key(|span| span.range.start);
        let next = next.map(|span| span.field.clone());
        return Place { field: "template".into(), offset: None, next, message: None, tool: None };
    };
    let offset = span.skipped.map(|skipped| skipped + text[span.range.start..at].chars().count());
    Place { field: span.field.clone(), offset, next: None, message: span.message, tool: span.tool }
}

fn tools(text: &str, tools: Option<&Value>) -> Vec<Span> {
    let mut from = 0;
    let tools = tools.and_then(Value::as_array).into_iter().flatten().enumerate();
    let found = tools.filter_map(|(at, tool)| {
        let range = find_json(text, from, tool).or_else(|| find_json(text, from, tool.get("function")?))?;
        from = range.end;
        Some(Span { field: format!("tools[{at}]"), range, skipped: None, message: None, tool: Some(at) })
    });
    found.collect()
}

fn messages(text: &str, messages: &[Value]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut from = 0;
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        for (field, part) in parts(at, message) {
            let trimmed = part.trim();
            let Some(start) = after_role(text, from, role, trimmed) else { continue };
            let skipped = part[..part.len() - part.trim_start().len()].chars().count();
            let range = start..start + trimmed.len();
            from = range.end;
            spans.push(Span { field, range, skipped: Some(skipped), message: Some(at), tool: None });
        }
        let calls = message["tool_calls"].as_array().into_iter().flatten().enumerate();
        for (call, value) in calls {
            let arguments = &value["function"]["arguments"];
            let parsed = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
            let Some(range) = find_json(text, from, parsed.as_ref().unwrap_or(arguments)) else { continue };
            from = range.end;
            let field = format!("messages[{at}].tool_calls[{call}]");
            spans.push(Span { field, range, skipped: None, message: Some(at), tool: None });
        }
    }
    spans
}

/// The texts of a message, in rendering order.
fn parts(at: usize, message: &Value) -> Vec<(String, &str)> {
    let mut parts = Vec::new();
    for name in ["reasoning_content", "content"] {
        match &message[name] {
            Value::String(text) => parts.push((format!("messages[{at}].{name}"), text.as_str())),
            Value::Array(items) => parts.extend(items.iter().enumerate().filter_map(|(item, part)| {
                Some((format!("messages[{at}].{name}[{item}].text"), part["text"].as_str()?))
            })),
            _ => {}
        }
    }
    parts.retain(|(_, text)| !text.trim().is_empty());
    parts
}

/// Start of a message's text: templates render the role first, and a short text may occur within the role.
fn after_role(text: &str, from: usize, role: &str, part: &str) -> Option<usize> {
    let find = |from: usize| text[from..].find(part).map(|at| from + at);
    let first = find(from)?;
    let named = text[from..].find(role).map(|at| from + at + role.len());
    match named.filter(|&named| first < named) {
        Some(named) => find(named).or(Some(first)),
        None => Some(first),
    }
}

/// Range of `value` in `text` as JSON with arbitrary white space.
fn find_json(text: &str, from: usize, value: &Value) -> Option<Range<usize>> {
    if !value.is_object() {
        return None;
    }
    let compact = value.to_string();
    let starts = text[from..].match_indices('{').map(|(at, _)| from + at);
    starts.into_iter().find_map(|start| Some(start..start + json_len(&text[start..], &compact)?))
}

/// Length of the prefix of `text` that equals `compact` up to white space.
fn json_len(text: &str, compact: &str) -> Option<usize> {
    let mut wanted = compact.chars().filter(|c| !c.is_whitespace()).peekable();
    for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
        match wanted.next() {
            Some(want) if want == c => {}
            Some(_) => return None,
            None => return Some(at),
        }
        if wanted.peek().is_none() {
            return Some(at + c.len_utf8());
        }
    }
    None
}
