//! From a place in the rendered prompt back to the field of the request that it came from.
//!
//! Templates write messages in order and tools where they like, with text of their own around and between. So
//! each message's text is looked for after the one before it, and each tool as JSON whatever the white space.
//! What is in none of these is the template's own.

use std::ops::Range;

use serde_json::Value;

use super::Source;

/// Where in a request a place of the prompt comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Such as `messages[3].content`, `tools[1]`, `prompt` or `template`.
    pub(super) field: String,
    /// Characters from the beginning of that field; none in the template and in tools.
    pub(super) offset: Option<usize>,
    /// The field after it, if it is in the template's text.
    pub(super) next: Option<String>,
    /// The number of the message, if it is in one.
    pub(super) message: Option<usize>,
    /// The number of the tool, if it is in one.
    pub(super) tool: Option<usize>,
}

struct Span {
    field: String,
    range: Range<usize>,
    /// Characters of the field before the span; `None` if the field is not written as it came.
    skipped: Option<usize>,
    message: Option<usize>,
    tool: Option<usize>,
}

/// The field that byte `at` of `text`, the rendered prompt, comes from.
pub(super) fn locate(text: &str, at: usize, source: &Source) -> Place {
    let Source::Chat(input) = source else {
        let offset = Some(text[..at].chars().count());
        return Place { field: "prompt".into(), offset, next: None, message: None, tool: None };
    };
    let mut spans = tools(text, input.tools.as_ref());
    spans.extend(messages(text, &input.messages));
    let inside = spans.iter().find(|span| span.range.contains(&at));
    // Right after a field it is that field which ends here and goes on in the other prompt.
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

/// The texts of a message, in the order in which templates write them.
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

/// Where a message's text begins: templates name the role first, and a short text may occur in that name.
fn after_role(text: &str, from: usize, role: &str, part: &str) -> Option<usize> {
    let find = |from: usize| text[from..].find(part).map(|at| from + at);
    let first = find(from)?;
    let named = text[from..].find(role).map(|at| from + at + role.len());
    match named.filter(|&named| first < named) {
        Some(named) => find(named).or(Some(first)),
        None => Some(first),
    }
}

/// Where `value` stands in `text` as JSON, with any white space between its parts.
fn find_json(text: &str, from: usize, value: &Value) -> Option<Range<usize>> {
    if !value.is_object() {
        return None;
    }
    let compact = value.to_string();
    let starts = text[from..].match_indices('{').map(|(at, _)| from + at);
    starts.into_iter().find_map(|start| Some(start..start + json_len(&text[start..], &compact)?))
}

/// Bytes of `text` that are `compact` but for white space.
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
