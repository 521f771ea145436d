//! What a difference looks like: the usual culprits, each with a sentence that says what to do.
//!
//! A culprit is named only if both sides look like it where they part, as far as the cached side is known. The
//! order of the checks is from the surest to the vaguest, and what nothing knows is still described by where it
//! is.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::fields::Place;
use super::{Source, head, tail};

/// What makes a prompt leave a cached one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It does not: all of it is cached.
    Cached,
    /// Nothing is there to compare with.
    Nothing,
    /// The request forbids reading the cache.
    NotRead,
    /// White space, such as a line break at the end of a text.
    WhiteSpace,
    /// The same tools in another order.
    ToolOrder,
    /// A tool's description or schema.
    Tool,
    /// A number that counts.
    Counter,
    /// A date or a time.
    Date,
    /// A request id, a UUID or a hash.
    Id,
    /// The text of a system message.
    System,
    /// A message that was sent before.
    History,
    /// The last message: another question, as it should be.
    Question,
    /// The cached prefix ends and the prompt goes on, as it should be.
    NewText,
    /// What the chat template writes itself.
    Template,
    /// The text of a completion's prompt.
    Prompt,
}

impl Cause {
    /// The word for it in JSON.
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

/// Characters on either side of the place that are looked at.
const WINDOW_CHARS: usize = 80;
/// A cached side that is known for fewer characters than this may be cut in the middle of a culprit.
const CUT_CHARS: usize = 24;
/// White space is the culprit only if this many characters after it agree.
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

/// A place at which two texts part.
pub(super) struct Difference<'a> {
    /// What both have before it.
    pub(super) before: &'a str,
    /// How the prompt goes on.
    pub(super) here: &'a str,
    /// How the cached one goes on, as far as it is known.
    pub(super) there: &'a str,
    pub(super) place: &'a Place,
    pub(super) source: &'a Source,
}

impl Difference<'_> {
    /// What it looks like, and a sentence about it.
    pub(super) fn explain(&self) -> (Cause, String) {
        let place = self.place();
        if self.there.is_empty() {
            let message = format!(
                "What is cached ends here, {place}; the prompt goes on with new text. That is how a conversation \
                 grows: nothing is to be done."
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
                "The tool '{own}' is not what it was, {place}: keep names, descriptions and schemas the same, their \
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
                 whether there are tools, or a template variable such as enable_thinking is another one."
            );
            return (Cause::Template, message);
        }
        let at = self.place.message.unwrap_or_default();
        if at + 1 == input.messages.len() {
            let message = format!(
                "The last message is another one, {place}, as with each new question: nothing is to be done."
            );
            return (Cause::Question, message);
        }
        if let Some(counter) = self.counter(place, &NUMBERS) {
            return counter;
        }
        if matches!(input.messages[at]["role"].as_str(), Some("system" | "developer")) {
            let message = format!(
                "The system message was changed, {place}: all that follows it has to be computed again. Keep it the \
                 same for all requests and put what changes into the last message."
            );
            return (Cause::System, message);
        }
        let message = format!(
            "An earlier message is not what it was, {place}: histories that are edited, summarised or cut at the \
             beginning miss from there on. Append to them only."
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

    /// What a pattern finds on both sides at the place, quoted. A cached side that may be cut there need not match.
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

    /// The text around the place on one side, and where in it the place is.
    fn around(&self, side: &str) -> (String, usize) {
        let before = tail(self.before, WINDOW_CHARS);
        (format!("{before}{}", head(side, WINDOW_CHARS)), before.len())
    }
}
