//! Reads the arguments of a tool call that are written between tags, as they come, as JSON.
//!
//! A string is sent as it comes; any other value once it is complete. The invariant is that of
//! [`Arguments`](super::arguments::Arguments): what was read is the beginning of a JSON text.

use foretoken_engine::markers;
use serde_json::Value;

use super::arguments::Step;
use super::parameters::{Tools, Types};
use super::tool_format::Tagged;

#[derive(Clone, Copy, Debug)]
enum Next {
    /// The beginning of the arguments.
    Start,
    KeyOrEnd,
    Key,
    ValueTag,
    Value(Types),
}

/// Reads the arguments of one call to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaggedArguments {
    next: Next,
    types: Types,
    tool: Option<usize>,
    /// An argument was read before.
    any: bool,
}

/// Where a text stands to those that may come.
pub(super) enum Match {
    /// It begins with the one at this place, which ends after this many bytes.
    Is(usize, usize),
    /// More text is needed.
    More,
    No,
}

/// Which of `wanted` stands after white space.
pub(super) fn match_one(text: &str, wanted: &[&str]) -> Match {
    let body = text.trim_start();
    let before = text.len() - body.len();
    let is = wanted.iter().position(|marker| !marker.is_empty() && body.starts_with(marker));
    match is {
        Some(which) => Match::Is(which, before + wanted[which].len()),
        None if wanted.iter().any(|marker| marker.starts_with(body)) => Match::More,
        None => Match::No,
    }
}

impl TaggedArguments {
    pub(super) fn new(tool: Option<usize>) -> TaggedArguments {
        TaggedArguments { next: Next::Start, types: Types::default(), tool, any: false }
    }

    /// As [`Arguments::read`](super::arguments::Arguments::read).
    pub(super) fn read(
        &mut self,
        text: &str,
        (form, closes): (&Tagged, &[&str]),
        tools: &Tools,
        arguments: &mut String,
    ) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &text[at..];
            match self.next {
                Next::Start => {
                    arguments.push('{');
                    self.next = Next::KeyOrEnd;
                }
                Next::KeyOrEnd => {
                    let wanted = [&[form.key.0, form.end], closes].concat();
                    match match_one(rest, &wanted) {
                        Match::Is(0, len) => {
                            at += len;
                            self.next = Next::Key;
                        }
                        Match::Is(which, len) => {
                            arguments.push('}');
                            return if which == 1 { (at + len, Step::Complete) } else { (at, Step::Cut) };
                        }
                        Match::More => return (at, Step::More),
                        Match::No => return (at, Step::Broken),
                    }
                }
                Next::Key => {
                    let Some((_, tag)) = markers::find(&[form.key.1], rest) else { return (at, Step::More) };
                    let key = rest[..tag.start].trim();
                    self.types = tools.types(self.tool, key);
                    arguments.push_str(if self.any { "," } else { "" });
                    arguments.push_str(&format!("{}:", Value::from(key)));
                    self.any = true;
                    at += tag.end;
                    self.next = Next::ValueTag;
                }
                Next::ValueTag if form.value.is_empty() => {
                    if rest.is_empty() {
                        return (at, Step::More);
                    }
                    at += usize::from(rest.starts_with('\n'));
                    self.begin_value(arguments);
                }
                Next::ValueTag => match match_one(rest, &[form.value]) {
                    Match::Is(_, len) => {
                        at += len;
                        self.begin_value(arguments);
                    }
                    Match::More => return (at, Step::More),
                    Match::No => return (at, Step::Broken),
                },
                Next::Value(types) => {
                    let found = markers::find(form.value_ends, rest).map(|(_, tag)| tag);
                    let Some(tag) = found else {
                        if types.is_string() {
                            let certain = markers::certain_len(form.value_ends, rest);
                            push_string(&rest[..certain], arguments);
                            at += certain;
                        }
                        return (at, Step::More);
                    };
                    let value = &rest[..tag.start];
                    if types.is_string() {
                        push_string(value, arguments);
                        arguments.push('"');
                    } else {
                        arguments.push_str(&types.json(value));
                    }
                    at += tag.end;
                    self.next = Next::KeyOrEnd;
                }
            }
        }
    }

    fn begin_value(&mut self, arguments: &mut String) {
        if self.types.is_string() {
            arguments.push('"');
        }
        self.next = Next::Value(self.types);
    }
}

/// A part of a string, escaped.
fn push_string(text: &str, arguments: &mut String) {
    let quoted = Value::from(text).to_string();
    arguments.push_str(&quoted[1..quoted.len() - 1]);
}
