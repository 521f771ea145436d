//! Reads the beginning of a tool call: its name, up to its arguments.
//!
//! A call is certain as soon as its name and the beginning of its arguments were read; from there on the arguments are
//! sent as they come. A call as JSON in another order is read whole. The invariant: what is read does not depend on how
//! the text was cut.

use foretoken_engine::markers;
use serde_json::Value;

use super::Call;
use super::arguments::{Arguments, Step};
use super::tagged::{Match, match_one};
use super::tool_format::{CallForm, Named, Tagged, ToolFormat};

/// The keys of the arguments; the second is Llama's.
const ARGUMENTS: [&str; 2] = ["\"arguments\"", "\"parameters\""];
/// The first key of an object that may be a call.
const FIRST_KEYS: [&str; 7] =
    ["\"name\"", "\"arguments\"", "\"parameters\"", "\"type\"", "\"id\"", "\"function\"", "\"index\""];
/// Longest name with an id.
const NAME_BYTES_MAX: usize = 256;

/// What a text that may be a call is.
#[derive(Debug)]
pub(super) enum Head {
    /// More text is needed.
    More,
    /// The arguments of a call of this name begin after this many bytes.
    Arguments(String, usize),
    /// A call that ends after this many bytes.
    Whole(Call, usize),
    /// No call.
    Text,
}

/// Reads a text that begins with an opening text of `format`, or with a call that needs none. Also returns how many bytes
/// of it are opening texts.
pub(super) fn head(text: &str, format: &ToolFormat) -> (Head, usize) {
    let named = match &format.form {
        CallForm::Json { .. } => "",
        CallForm::Named(named) => named.before,
        CallForm::Tagged(tagged) => tagged.name.0,
    };
    let opens: Vec<&str> = format.opens.iter().copied().filter(|open| *open != named).collect();
    let mut opened = 0;
    while let Match::Is(_, len) = match_one(&text[opened..], &opens) {
        opened += len;
    }
    let rest = &text[opened..];
    let head = match &format.form {
        CallForm::Json { list } => json(rest, *list, format.closes),
        CallForm::Named(named) => name_and_json(rest, named),
        CallForm::Tagged(tagged) => tagged_name(rest, tagged, format.closes),
    };
    let head = match head {
        // It may still become another opening text.
        Head::Text if matches!(match_one(rest, &opens), Match::More) => Head::More,
        Head::Arguments(name, before) => Head::Arguments(name, opened + before),
        Head::Whole(call, len) => Head::Whole(call, opened + len),
        other => other,
    };
    (head, opened)
}

fn json(text: &str, list: bool, closes: &[&str]) -> Head {
    let body = text.trim_start();
    let body = match body.strip_prefix('[') {
        Some(inner) if list => inner.trim_start(),
        _ => body,
    };
    let before = text.len() - body.len();
    if !body.starts_with('{') {
        return if body.is_empty() { Head::More } else { Head::Text };
    }
    match begins_with_name(body) {
        Ok((name, arguments)) => return Head::Arguments(name, before + arguments),
        Err(Match::More) => return Head::More,
        Err(_) => {}
    }
    match match_one(&body[1..], &FIRST_KEYS) {
        Match::More => return Head::More,
        Match::No => return Head::Text,
        Match::Is(..) => {}
    }
    let mut object = String::new();
    match Arguments::default().read(body, closes, &mut object) {
        (_, Step::More) => Head::More,
        (len, Step::Complete) => parse(&object).map_or(Head::Text, |call| Head::Whole(call, before + len)),
        (_, Step::Cut | Step::Broken) => Head::Text,
    }
}

/// The name of a call whose arguments, an object, are about to begin, and the bytes before them.
fn begins_with_name(text: &str) -> Result<(String, usize), Match> {
    let rest = after(after(after(text, &["{"])?, &["\"name\""])?, &[":"])?;
    let (name, rest) = json_string(rest.trim_start())?;
    let rest = after(after(after(rest, &[","])?, &ARGUMENTS)?, &[":"])?.trim_start();
    match rest.chars().next() {
        None => Err(Match::More),
        Some('{') if !name.is_empty() => Ok((name, text.len() - rest.len())),
        Some(_) => Err(Match::No),
    }
}

fn after<'a>(text: &'a str, wanted: &[&str]) -> Result<&'a str, Match> {
    match match_one(text, wanted) {
        Match::Is(_, len) => Ok(&text[len..]),
        other => Err(other),
    }
}

/// The string that `text` begins with, and what follows it.
fn json_string(text: &str) -> Result<(String, &str), Match> {
    match text.chars().next() {
        None => return Err(Match::More),
        Some('"') => {}
        Some(_) => return Err(Match::No),
    }
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let end = end.ok_or(Match::More)?.0 + 1;
    let string = serde_json::from_str(&text[..end]).map_err(|_| Match::No)?;
    Ok((string, &text[end..]))
}

/// A whole call, with the arguments as an object, as text or left out.
fn parse(text: &str) -> Option<Call> {
    let mut call: Value = serde_json::from_str(text).ok()?;
    if call["function"].is_object() {
        call = call["function"].take();
    }
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

fn name_and_json(text: &str, form: &Named) -> Head {
    let rest = match form.before {
        "" => text,
        before => match after(text, &[before]) {
            Ok(rest) => rest,
            Err(Match::More) => return Head::More,
            Err(_) => return Head::Text,
        },
    };
    let (name, rest) = match name(rest, &[form.arguments], form.id) {
        Ok((name, rest)) => (name, rest[form.arguments.len()..].trim_start()),
        Err(head) => return head,
    };
    match rest.chars().next() {
        None => Head::More,
        Some('{') => Head::Arguments(name, text.len() - rest.len()),
        Some(_) => Head::Text,
    }
}

fn tagged_name(text: &str, form: &Tagged, closes: &[&str]) -> Head {
    let (open, close) = form.name;
    let rest = match open {
        "" => text,
        open => match after(text, &[open]) {
            Ok(rest) => rest,
            Err(Match::More) => return Head::More,
            Err(_) => return Head::Text,
        },
    };
    let ends = if close.is_empty() { vec![form.key.0, form.end] } else { vec![close] };
    let (name, rest) = match name(rest, &ends, "") {
        Ok((name, rest)) => (name, &rest[close.len()..]),
        Err(head) => return head,
    };
    match match_one(rest, &[&[form.key.0, form.end], closes].concat()) {
        Match::Is(..) => Head::Arguments(name, text.len() - rest.len()),
        Match::More => Head::More,
        Match::No => Head::Text,
    }
}

/// The name before the first of `ends`, without an id after `id`, and the text from there on.
fn name<'a>(text: &'a str, ends: &[&str], id: &str) -> Result<(String, &'a str), Head> {
    let found = markers::find(ends, text).map(|(_, end)| end.start);
    let until = found.unwrap_or_else(|| markers::certain_len(ends, text));
    let word = text[..until].trim();
    let is_word =
        |word: &str| !word.contains(|c: char| c.is_whitespace() || c.is_control() || "<>{}\"".contains(c));
    if word.len() > NAME_BYTES_MAX || !is_word(word) {
        return Err(Head::Text);
    }
    let end = found.ok_or(Head::More)?;
    let name = if id.is_empty() { word } else { word.split(id).next().unwrap_or(word) };
    if name.is_empty() || name.contains(['[', ']']) {
        return Err(Head::Text);
    }
    Ok((name.to_owned(), &text[end..]))
}
