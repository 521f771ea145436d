//! Classifies a difference into common causes, each with advice.
//!
//! A cause is reported only if both sides match it where they diverge, as far as the cached side is known. Checks run
//! from the most to the least specific; an unrecognised difference is still described by its position.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::field_at::Place;
use super::{Source, head, tail};

/// Why a prompt diverges from the cached one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No divergence: all of it is cached.
    Cached,
    /// Nothing is cached to compare with.
    Nothing,
    /// The request forbids reading the cache.
    NotRead,
    /// White space, such as a line break at the end of a text.
    WhiteSpace,
    /// The same tools in another order.
    ToolOrder,
    /// A tool's description or schema.
    Tool,
    /// A running counter.
    Counter,
    /// A date or a time.
    Date,
    /// A request id, a UUID or a hash.
    Id,
    /// The text of a system message.
    System,
    /// An earlier message.
    History,
    /// The last message: a new question, as expected.
    Question,
    /// The prompt extends the cached prefix, as expected.
    NewText,
    /// Text of the chat template itself.
    Template,
    /// The text of a completion's prompt.
    Prompt,
}

impl Cause {
    /// Its identifier in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Cached => "cached",
            Cause::Nothing => "nothing_cached",
            Cause::NotRead => "not_read",
            Cause::WhiteSpace => "white_space",
            Cause::ToolOrder => "tool_order",
            Cause::Tool => "tool",
            Cause::Counter => "counter",
            Cause::Date => "date",
            Cause::Id => "id",
            Cause::System => "system",
            Cause::History => "history",
            Cause::Question => "question",
            Cause::NewText => "new_text",
            Cause::Template => "template",
            Cause::Prompt => "prompt",
        }
    }
}

/// Characters inspected on either side of the divergence.
const WINDOW_CHARS: usize = 80;
/// A cached side known for fewer characters than this may be truncated within the differing text.
const CUT_CHARS: usize = 24;
/// White space is the cause only if this many characters after it match.
const SAME_AFTER_CHARS: usize = 4;

static DATES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let month = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*";
    let day = r"\d{1,2}(?:st|nd|rd|th)?";
    let patterns = [
        r"\d{4}[-/.]\d{1,2}(?:[-/.]\d{1,2})?(?:[t ]\d{1,2}:\d{2}[0-9:.]*(?:z|[+-]\d{2}:?\d{2})?)?",
        r"\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}",
        r"\d{1,2}:\d{2}(?::\d{2})?[0-9.]*(?: ?[ap]m\b)?",
        &format!(r"\b(?:{day}\.? (?:of )?)?{month}\.?,? (?:{day},? )?\d{{1,4}}\b"),
        &format!(r"\b{day}\.? (?:of )?{month}\b"),
        r"\b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b",
        r"\b1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?\b",
    ];
    compile(&patterns)
});

static IDS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    compile(&[
        r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
        r"\b(?:\w+[-_])?(?:req|request|run|session|trace|msg|chatcmpl|call|conv|id)[-_:=] ?[a-z0-9-]*\d[a-z0-9-]*\b",
        r"\b[0-9a-f]{7,}\b",
        r"\b[a-z_-]*\d[a-z0-9_-]{15,}\b",
    ])
});

static KEYED_COUNTERS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    compile(&[r"<?\b\w*(?:tokens?|count(?:er)?|usage|turn|step)\w*>?[:= ]*\d+", r"\bcch=\w+"])
});

static NUMBERS: LazyLock<Vec<Regex>> = LazyLock::new(|| compile(&[r"\b\d+\b"]));

fn compile(patterns: &[&str]) -> Vec<Regex> {
    let one = |pattern: &&str| Regex::new(&format!("(?i){pattern}")).expect("the tests use every pattern");
    patterns.iter().map(one).collect()
}

/// A divergence of two texts.
pub(super) struct Difference<'a> {
    /// The common text before it.
    pub(super) before: &'a str,
    /// Continuation of the prompt.
    pub(super) here: &'a str,
    /// Continuation of the cached text, as far as known.
    pub(super) there: &'a str,
    pub(super) place: &'a Place,
    pub(super) source: &'a Source,
}

impl Difference<'_> {
    /// The cause, and a message for the user.
    pub(super) fn explain(&self) -> (Cause, String) {
        let place = self.place();
        if self.there.is_empty() {
            let message = format!(
                "What is cached ends here, {place}; the prompt goes on with new text. That is how a conversation \
                 grows: nothing to do."
            );
            return (Cause::NewText, message);
        }
        self.white_space(&place)
            .or_else(|| self.tool(&place))
            .or_else(|| self.counter(&place, &KEYED_COUNTERS))
            .or_else(|| self.date(&place))
            .or_else(|| self.id(&place))
            .unwrap_or_else(|| self.by_place(&place))
    }

    fn white_space(&self, place: &str) -> Option<(Cause, String)> {
        let (here, there) = (self.here.trim_start(), self.there.trim_start());
        if here.len() == self.here.len() && there.len() == self.there.len() {
            return None;
        }
        let same = here.chars().zip(there.chars()).take_while(|(a, b)| a == b).count();
        let enough = SAME_AFTER_CHARS.min(here.chars().count()).min(there.chars().count());
        (same >= enough).then(|| {
            let message = format!(
                "Only white space differs, {place}: send the same bytes as before; trim texts where they are made, \
                 also at their end."
            );
            (Cause::WhiteSpace, message)
        })
    }

    fn tool(&self, place: &str) -> Option<(Cause, String)> {
        let at = self.place.tool?;
        let Source::Chat(input) = self.source else { return None };
        let tools = input.tools.as_ref().and_then(Value::as_array)?;
        let name = |tool: &Value| tool["function"]["name"].as_str().map(str::to_owned);
        let own = name(tools.get(at)?)?;
        let (seen, _) = self.around(self.there);
        let elsewhere = |(other, tool): (usize, &Value)| {
            let other = name(tool).filter(|name| other != at && *name != own)?;
            seen.contains(&format!("\"{other}\"")).then_some(other)
        };
        if let Some(other) = tools.iter().enumerate().find_map(elsewhere) {
            let message = format!(
                "The tools are in another order: '{own}' is {place}, where '{other}' was before. Send them in one \
                 fixed order, for example sorted by name."
            );
            return Some((Cause::ToolOrder, message));
        }
        let dated = self.date(place).or_else(|| self.id(place));
        Some(dated.unwrap_or_else(|| {
            let message = format!(
                "The tool '{own}' changed, {place}: keep names, descriptions and schemas the same, their \
                 keys in the same order, and add new tools at the end of the list."
            );
            (Cause::Tool, message)
        }))
    }

    fn counter(&self, place: &str, patterns: &[Regex]) -> Option<(Cause, String)> {
        let (here, there) = self.both(patterns)?;
        let message = format!(
            "A running counter differs, {place}: {here} here, {there} in what is cached. Leave it out, or put it \
             at the end of the last message."
        );
        Some((Cause::Counter, message))
    }

    fn date(&self, place: &str) -> Option<(Cause, String)> {
        let (here, there) = self.both(&DATES)?;
        let message = format!(
            "A date or time differs, {place}: {here} here, {there} in what is cached. Put it at the end of the \
             last message, or write it no finer than it has to be."
        );
        Some((Cause::Date, message))
    }

    fn id(&self, place: &str) -> Option<(Cause, String)> {
        let (here, there) = self.both(&IDS)?;
        let message = format!(
            "An id or hash differs, {place}: {here} here, {there} in what is cached. One that changes with each \
             request belongs into a header or 'metadata', not into the prompt."
        );
        Some((Cause::Id, message))
    }

    fn by_place(&self, place: &str) -> (Cause, String) {
        let Source::Chat(input) = self.source else {
            return self.counter(place, &NUMBERS).unwrap_or_else(|| {
                let message = format!(
                    "The text differs, {place}: put what stays the same at the beginning and what changes at the end."
                );
                (Cause::Prompt, message)
            });
        };
        if self.place.field == "template" {
            let message = format!(
                "The difference is in what the chat template writes itself, {place}: a role, the number of messages, \
                 whether there are tools, or a template variable such as enable_thinking changed."
            );
            return (Cause::Template, message);
        }
        let at = self.place.message.unwrap_or_default();
        if at + 1 == input.messages.len() {
            let message =
                format!("The last message differs, {place}, as with each new question: nothing to do.");
            return (Cause::Question, message);
        }
        if let Some(counter) = self.counter(place, &NUMBERS) {
            return counter;
        }
        if matches!(input.messages[at]["role"].as_str(), Some("system" | "developer")) {
            let message = format!(
                "The system message changed, {place}: everything after it has to be computed again. Keep it the \
                 same for all requests and put what changes into the last message."
            );
            return (Cause::System, message);
        }
        let message = format!(
            "An earlier message changed, {place}: a history that is edited, summarised or truncated at the start \
             misses from there on. Only append to it."
        );
        (Cause::History, message)
    }

    /// "in messages[3].content at character 17".
    fn place(&self) -> String {
        let Place { field, offset, next, .. } = self.place;
        match (field.as_str(), offset, next) {
            ("template", _, Some(next)) => format!("in the template's text before {next}"),
            ("template", ..) => "in the template's text at the end".into(),
            (field, Some(offset), _) => format!("in {field} at character {offset}"),
            (field, None, _) => format!("in {field}"),
        }
    }

    /// The match of a pattern on both sides of the divergence, quoted. A truncated cached side need not match.
    fn both(&self, patterns: &[Regex]) -> Option<(String, String)> {
        let find = |side: &str| {
            let (window, at) = self.around(side);
            let matches = patterns.iter().find_map(|pattern| {
                let covers = |found: &Range<usize>| found.start <= at && at <= found.end && !found.is_empty();
                pattern.find_iter(&window).map(|found| found.range()).find(covers)
            });
            matches.map(|range| format!("'{}'", &window[range]))
        };
        let here = find(self.here)?;
        let there = find(self.there);
        let cut = self.there.chars().count() < CUT_CHARS;
        let there = there.or_else(|| cut.then(|| format!("'{}'", head(self.there, CUT_CHARS))))?;
        (here != there).then_some((here, there))
    }

    /// The text around the divergence on one side, and the position in it.
    fn around(&self, side: &str) -> (String, usize) {
        let before = tail(self.before, WINDOW_CHARS);
        (format!("{before}{}", head(side, WINDOW_CHARS)), before.len())
    }
}
