//! JSON as Python's `json.dumps` writes it, and Python's `repr` of plain data: prompts must match byte for byte
//! those that models were trained on.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// The options of `json.dumps`.
pub(super) struct Style {
    /// The indentation of one level; `None`: everything on one line.
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    /// Whether characters outside ASCII are escaped.
    pub(super) ascii: bool,
    pub(super) sort_keys: bool,
}

impl Default for Style {
    fn default() -> Self {
        Style {
            indent: None,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            ascii: false,
            sort_keys: false,
        }
    }
}

/// `json.dumps(value)`.
pub(super) fn dumps(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    write_json(value, style, 0, &mut out);
    out
}

fn write_json(value: &Value, style: &Style, level: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, style.ascii, out),
        Value::Array(items) => write_items('[', ']', items.iter(), style, level, out, |item, out| {
            write_json(item, style, level + 1, out);
        }),
        Value::Object(map) => {
            write_items('{', '}', entries(map, style).into_iter(), style, level, out, |entry, out| {
                write_string(entry.0, style.ascii, out);
                out.push_str(&style.key_separator);
                write_json(entry.1, style, level + 1, out);
            })
        }
    }
}

fn entries<'a>(map: &'a Map<String, Value>, style: &Style) -> Vec<(&'a String, &'a Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    if style.sort_keys {
        entries.sort_by_key(|(key, _)| *key);
    }
    entries
}

fn write_items<T>(
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = T>,
    style: &Style,
    level: usize,
    out: &mut String,
    write: impl Fn(T, &mut String),
) {
    let is_empty = items.len() == 0;
    let new_line = |level: usize, out: &mut String| {
        if let Some(indent) = style.indent.as_deref().filter(|_| !is_empty) {
            out.push('\n');
            (0..level).for_each(|_| out.push_str(indent));
        }
    };
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(level + 1, out);
        write(item, out);
    }
    new_line(level, out);
    out.push(close);
}

/// Python's shortest form: exponents have a sign and two digits, and start at 1e16.
fn write_number(number: &Number, out: &mut String) {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        out.push_str(&number.to_string());
        return;
    };
    let exponent = if float == 0.0 { 0 } else { exponent_of(float) };
    if (-4..16).contains(&exponent) {
        let _ = write!(out, "{float:?}");
        return;
    }
    let text = format!("{float:e}");
    let (mantissa, _) = text.split_once('e').unwrap_or((&text, ""));
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
}

/// The decimal exponent of the first digit.
fn exponent_of(float: f64) -> i32 {
    format!("{float:e}").split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0)
}

fn write_string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ascii && !c.is_ascii() && !is_private(c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Marks ([`super::marks`]) must not be escaped, otherwise they could not be removed again.
fn is_private(c: char) -> bool {
    matches!(c, '\u{FDD0}'..='\u{FDEF}' | '\u{F0000}'..)
}

/// Python's `str(value)` for what JSON can hold; strings inside containers are quoted.
pub(super) fn python_repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

fn write_repr(value: &Value, out: &mut String) {
    let style = Style::default();
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_quoted(text, out),
        Value::Array(items) => write_items('[', ']', items.iter(), &style, 0, out, write_repr),
        Value::Object(map) => write_items('{', '}', map.iter(), &style, 0, out, |(key, item), out| {
            write_quoted(key, out);
            out.push_str(": ");
            write_repr(item, out);
        }),
    }
}

fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
}
