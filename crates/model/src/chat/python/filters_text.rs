//! Filters of text.

use std::sync::LazyLock;

use minijinja::State;
use minijinja::value::{Kwargs, Value};
use regex::Regex;

use super::Function;
use super::args::{Args, count};
use super::budget;
use super::strings::{capitalize, center, replaced, split_lines, strip};
use super::value::{Result, Type, error, iter, pairs, string_like, to_str, type_of};

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("string", |_, args, _| Ok(string_like(&args[0], to_str(&args[0])))),
    ("lower", |_, args, _| Ok(string_like(&args[0], to_str(&args[0]).to_lowercase()))),
    ("upper", |_, args, _| Ok(string_like(&args[0], to_str(&args[0]).to_uppercase()))),
    ("capitalize", |_, args, _| Ok(string_like(&args[0], capitalize(&to_str(&args[0]))))),
    ("title", |_, args, _| Ok(Value::from(title(&to_str(&args[0]))))),
    ("trim", trim),
    ("replace", replace),
    ("truncate", truncate),
    ("indent", indent),
    ("center", center_text),
    ("wordcount", |_, args, _| word_count(&to_str(&args[0])).map(Value::from)),
    ("format", format),
    ("escape", |_, args, _| escaped(&args[0])),
    ("e", |_, args, _| escaped(&args[0])),
    ("forceescape", |_, args, _| Ok(Value::from_safe_string(escape_html(&to_str(&args[0]))?))),
    ("safe", |_, args, _| Ok(Value::from_safe_string(to_str(&args[0])))),
    ("urlencode", url_encode),
];

pub(super) fn escape_html(text: &str) -> Result<String> {
    budget::check(text.len().saturating_mul("&quot;".len()))?;
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(text.replace('"', "&#34;").replace('\'', "&#39;"))
}

fn escaped(value: &Value) -> Result<Value> {
    let text = to_str(value);
    Ok(Value::from_safe_string(if value.is_safe() { text } else { escape_html(&text)? }))
}

/// Words begin at the start and behind white space, hyphens and opening brackets.
fn title(text: &str) -> String {
    let is_border = |c: char| c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut at_start = true;
    let mut out = String::new();
    for c in text.chars() {
        match at_start {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        at_start = is_border(c);
    }
    out
}

fn trim(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("trim", &["value", "chars"], args, kwargs)?;
    let value = args.required(0)?;
    let chars = args.given(1).map(|_| args.string(1)).transpose()?;
    Ok(string_like(value, strip(&to_str(value), chars, true, true).to_owned()))
}

fn replace(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("replace", &["s", "old", "new", "count"], args, kwargs)?;
    let (text, old, new) = (to_str(args.required(0)?), to_str(args.required(1)?), to_str(args.required(2)?));
    let times = if args.given(3).is_some() { args.int_or(3, -1)? } else { -1 };
    Ok(Value::from(replaced(&text, &old, &new, times)?))
}

fn truncate(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("truncate", &["s", "length", "killwords", "end", "leeway"], args, kwargs)?;
    let value = args.required(0)?;
    let text = value.as_str().ok_or_else(|| error("truncate wants a string"))?;
    let length = count(args.int_or(1, 255)?);
    let end = args.string_or(3, "...")?;
    let leeway = if args.given(4).is_some() { count(args.int_or(4, 5)?) } else { 5 };
    let end_length = end.chars().count();
    if length < end_length {
        return Err(error(format!("expected length >= {end_length}, got {length}")));
    }
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let cut: String = text.chars().take(length - end_length).collect();
    let kept = if args.flag_or(2, false) {
        cut.as_str()
    } else {
        cut.rsplit_once(' ').map_or(cut.as_str(), |(kept, _)| kept)
    };
    Ok(Value::from(kept.to_owned() + end))
}

fn indent(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("indent", &["s", "width", "first", "blank"], args, kwargs)?;
    let value = args.required(0)?;
    let text = value
        .as_str()
        .ok_or_else(|| error(format!("indent wants a string, not '{}'", type_of(value).name())))?;
    let indention = match args.optional(1).and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => {
            let width = count(args.int_or(1, 4)?);
            budget::check(width)?;
            " ".repeat(width)
        }
    };
    let text = format!("{text}\n");
    let blank = args.flag_or(3, false);
    let mut out = if args.flag_or(2, false) { indention.clone() } else { String::new() };
    for (i, line) in split_lines(&text, false)?.into_iter().enumerate() {
        budget::check(out.len() + indention.len() + line.len())?;
        if i > 0 {
            out.push('\n');
            out.push_str(if blank || !line.is_empty() { &indention } else { "" });
        }
        out.push_str(line);
    }
    Ok(string_like(value, out))
}

fn center_text(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("center", &["value", "width"], args, kwargs)?;
    let value = args.required(0)?;
    let (text, width) = (to_str(value), count(args.int_or(1, 80)?));
    let missing = width.saturating_sub(text.chars().count());
    budget::check(missing)?;
    Ok(string_like(value, center(&text, missing, width, " ")))
}

fn word_count(text: &str) -> Result<usize> {
    budget::spend(text.len())?;
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{Alphabetic}\p{N}_]+").ok());
    Ok(WORD.as_ref().map_or(0, |word| word.find_iter(text).count()))
}

fn format(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let named: Result<Vec<(Value, Value)>> =
        kwargs.args().map(|name| Ok((Value::from(name), kwargs.peek::<Value>(name)?))).collect();
    let named = named?;
    let values = match (named.is_empty(), args.len() > 1) {
        (false, true) => return Err(error("can't handle positional and keyword arguments at the same time")),
        (false, false) => Value::from_iter(named),
        _ => super::value::tuple(args[1..].to_vec()),
    };
    Ok(string_like(&args[0], super::percent::format(&to_str(&args[0]), &values)?))
}

fn quote_url(text: &str, safe: &str) -> Result<String> {
    budget::check(text.len().saturating_mul("%00".len()))?;
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "_.-~".contains(c) || safe.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(out)
}

fn url_encode(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    let value = &args[0];
    let entries: Vec<(Value, Value)> = match type_of(value) {
        Type::Dict => pairs(value),
        Type::List | Type::Tuple | Type::Iterator => {
            let pair = |pair: Value| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            iter(value)?.into_iter().map(pair).collect::<Result<_>>()?
        }
        _ => return Ok(Value::from(quote_url(&to_str(value), "/")?)),
    };
    let plus = |value: &Value| -> Result<String> { Ok(quote_url(&to_str(value), " ")?.replace(' ', "+")) };
    let mut out = String::new();
    for (i, (key, value)) in entries.iter().enumerate() {
        let (key, value) = (plus(key)?, plus(value)?);
        budget::check(out.len() + key.len() + value.len())?;
        out.extend([if i > 0 { "&" } else { "" }, &key, "=", &value]);
    }
    Ok(Value::from(out))
}
