//! JSON as Python's `json.dumps` writes it: prompts must match byte for byte those that models were trained on.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::budget;
use super::python;

/// Maximum nesting.
const DEPTH_MAX: usize = 200;

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
pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let mut out = String::new();
    write_json(value, style, 0, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, style: &Style, level: usize, out: &mut String) -> Result<(), Error> {
    if level > DEPTH_MAX {
        return Err(Error::new(ErrorKind::BadSerialization, "the value is nested too deeply for JSON"));
    }
    budget::check(out.len() + style.indent.as_ref().map_or(0, |indent| indent.len() * level))?;
    if let Some(text) = scalar(value, style) {
        budget::check(out.len() + text.len())?;
        out.push_str(&text);
        return Ok(());
    }
    if let Some(items) = python::json_items(value) {
        return write_items(['[', ']'], items, style, level, out, |item, out| {
            write_json(&item, style, level + 1, out)
        });
    }
    let mut entries = python::json_entries(value)?;
    if style.sort_keys {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
    write_items(['{', '}'], entries, style, level, out, |(key, item), out| {
        let key = match key.as_str() {
            Some(key) => key.to_owned(),
            None => scalar(&key, style).unwrap_or_default(),
        };
        write_string(&key, style.ascii, out);
        out.push_str(&style.key_separator);
        write_json(&item, style, level + 1, out)
    })
}

fn scalar(value: &Value, style: &Style) -> Option<String> {
    Some(match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => match f64::try_from(value.clone()).unwrap_or(f64::NAN) {
            float if float.is_nan() => "NaN".into(),
            float if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            float => python::float_repr(float),
        },
        ValueKind::String => {
            let mut out = String::new();
            write_string(value.as_str().unwrap_or_default(), style.ascii, &mut out);
            out
        }
        _ => return None,
    })
}

fn write_items<T>(
    [open, close]: [char; 2],
    items: Vec<T>,
    style: &Style,
    level: usize,
    out: &mut String,
    write: impl Fn(T, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let is_empty = items.is_empty();
    let new_line = |level: usize, out: &mut String| {
        if let Some(indent) = style.indent.as_deref().filter(|_| !is_empty) {
            out.push('\n');
            (0..level).for_each(|_| out.push_str(indent));
        }
    };
    out.push(open);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(level + 1, out);
        write(item, out)?;
    }
    new_line(level, out);
    out.push(close);
    Ok(())
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
pub(super) fn is_private(c: char) -> bool {
    matches!(c, '\u{FDD0}'..='\u{FDEF}' | '\u{F0000}'..)
}
