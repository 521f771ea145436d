//! Marks texts of control tokens inside user text, so that they are not mistaken for the template's own.
//!
//! The mark is a character that occurs neither in the template nor in the request. It is inserted after the first
//! character of every such text: whatever the template slices, joins or prints as JSON, the text does not match a
//! control token until the mark is removed again, which happens after the control tokens have been found.

use std::collections::HashSet;

use serde_json::Value;

use super::TemplateError;
use crate::special_texts::SpecialTexts;

/// Candidates for the mark: noncharacters, then private-use characters.
fn candidates() -> impl Iterator<Item = char> {
    ('\u{FDD0}'..='\u{FDEF}').chain('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}')
}

/// Marks every string in `value`, object keys included, and returns the mark.
pub(super) fn mark_user_text(
    value: &mut Value,
    template: &str,
    control: &SpecialTexts,
) -> Result<char, TemplateError> {
    let mut used = HashSet::new();
    let mut note = |text: &str| used.extend(text.chars().filter(|c| *c >= '\u{FDD0}'));
    note(template);
    visit(value, &mut note);
    let mark = candidates().find(|c| !used.contains(c)).ok_or_else(|| TemplateError::Input {
        param: "messages".into(),
        message: "the text uses every private Unicode character".into(),
    })?;
    rewrite(value, &mut |text| marked(text, mark, control));
    Ok(mark)
}

fn visit(value: &Value, note: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => note(text),
        Value::Array(items) => items.iter().for_each(|item| visit(item, note)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            note(key);
            visit(item, note);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces every string for which `change` returns a text.
fn rewrite(value: &mut Value, change: &mut dyn FnMut(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(changed) = change(text) {
                *text = changed;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, change)),
        Value::Object(map) => {
            *map = std::mem::take(map)
                .into_iter()
                .map(|(key, mut item)| {
                    rewrite(&mut item, change);
                    (change(&key).unwrap_or(key), item)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `text` with marks, or `None` if it contains no control token's text.
fn marked(text: &str, mark: char, control: &SpecialTexts) -> Option<String> {
    let first_char_end = |start: usize| start + text[start..].chars().next().map_or(0, char::len_utf8);
    let mut places: Vec<usize> = control.occurrences(text).map(|o| first_char_end(o.start)).collect();
    if places.is_empty() {
        return None;
    }
    places.sort_unstable();
    places.dedup();
    let mut out = String::with_capacity(text.len() + places.len() * mark.len_utf8());
    let mut done = 0;
    for place in places {
        out.push_str(&text[done..place]);
        out.push(mark);
        done = place;
    }
    out.push_str(&text[done..]);
    Some(out)
}
