//! Methods of Python's strings.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use minijinja::value::{Kwargs, Value};
use regex::Regex;

use super::args::{Args, count};
use super::budget;
use super::value::{Result, error, int, is_printable, iter, scanned_bytes, string_like, to_str, tuple};

/// What a piece of a split text takes beside its bytes.
const PIECE_BYTES: usize = size_of::<&str>() + size_of::<Value>();

const METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

pub(super) fn is_method(name: &str) -> bool {
    METHODS.contains(&name)
}

pub(super) fn call(of: &Value, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    match with_arguments(of, name, args, kwargs)? {
        Some(value) => Ok(value),
        None => {
            Args::bind("a method of a string", &[], args, kwargs)?;
            without_arguments(of, name)
        }
    }
}

/// Methods that take arguments; nothing if `name` is none of them.
fn with_arguments(of: &Value, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<Option<Value>> {
    let text = of.as_str().unwrap_or_default();
    let string = |text: String| Ok(string_like(of, text));
    let strings = |list: Vec<&str>| {
        budget::check(list.len() * size_of::<Value>())?;
        budget::spend(text.len())?;
        Ok(Value::from(list.into_iter().map(|text| string_like(of, text.to_owned())).collect::<Vec<_>>()))
    };
    match name {
        "format" => string(super::spec::format(text, args, kwargs)?),
        "format_map" => {
            let map =
                super::value::pairs(args.first().ok_or_else(|| error("format_map() misses its argument"))?);
            let map = map.into_iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value)));
            string(super::spec::format(text, &[], &Kwargs::from_iter(map))?)
        }
        "split" | "rsplit" => {
            let args = Args::bind("split", &["sep", "maxsplit"], args, kwargs)?;
            let separator = args.given(0).map(|_| args.string(0)).transpose()?;
            strings(split(text, separator, args.int_or(1, -1)?, name == "rsplit")?)
        }
        "splitlines" => {
            let args = Args::bind("splitlines", &["keepends"], args, kwargs)?;
            strings(split_lines(text, args.flag_or(0, false))?)
        }
        "strip" | "lstrip" | "rstrip" => {
            let args = Args::bind("strip", &["chars"], args, kwargs)?;
            let chars = args.given(0).map(|_| args.string(0)).transpose()?;
            let rest = strip(text, chars, name != "rstrip", name != "lstrip");
            budget::spend(text.len() - rest.len())?;
            string(rest.to_owned())
        }
        "replace" => {
            let args = Args::bind("replace", &["old", "new", "count"], args, kwargs)?;
            let (old, new, times) = (args.string(0)?, args.string(1)?, args.int_or(2, -1)?);
            string(replaced(text, old, new, times)?)
        }
        "partition" | "rpartition" => {
            let args = Args::bind("partition", &["sep"], args, kwargs)?;
            partition(of, text, args.string(0)?, name == "rpartition")
        }
        "join" => {
            let args = Args::bind("join", &["iterable"], args, kwargs)?;
            let items = iter(args.required(0)?)?;
            if items.iter().any(|item| item.as_str().is_none()) {
                return Err(error("sequence item: expected str instance"));
            }
            string(joined(&items, text)?)
        }
        "startswith" | "endswith" => affix(text, name == "startswith", args, kwargs),
        "find" | "rfind" | "index" | "rindex" | "count" => find(text, name, args, kwargs),
        "center" | "ljust" | "rjust" | "zfill" => string(pad(text, name, args, kwargs)?),
        "removeprefix" | "removesuffix" => {
            let args = Args::bind("removeprefix", &["prefix"], args, kwargs)?;
            let affix = args.string(0)?;
            let rest =
                if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            string(rest.unwrap_or(text).to_owned())
        }
        "expandtabs" => {
            let args = Args::bind("expandtabs", &["tabsize"], args, kwargs)?;
            string(expand_tabs(text, count(args.int_or(0, 8)?))?)
        }
        _ => return Ok(None),
    }
    .map(Some)
}

/// Methods without arguments.
fn without_arguments(of: &Value, name: &str) -> Result<Value> {
    let text = of.as_str().unwrap_or_default();
    // Each character is looked up in tables of Unicode.
    budget::spend(text.len())?;
    let string = |text: String| Ok(string_like(of, text));
    let flag = |test: fn(char) -> bool| Ok(Value::from(!text.is_empty() && text.chars().all(test)));
    match name {
        "lower" => string(text.to_lowercase()),
        "upper" => string(text.to_uppercase()),
        "casefold" => string(text.chars().map(fold_case).collect()),
        "capitalize" => string(capitalize(text)),
        "title" => string(title(text)),
        "swapcase" => string(text.chars().map(swap_case).collect()),
        "islower" => Ok(Value::from(is_lower(text))),
        "isupper" => Ok(Value::from(is_upper(text))),
        "istitle" => Ok(Value::from(is_lower_or_upper(text) && title(text) == text)),
        "isalpha" => flag(is_letter),
        "isnumeric" if text.chars().any(is_ideograph) => {
            Err(error("isnumeric of ideographs is not supported"))
        }
        "isalnum" => flag(|c| is_letter(c) || c.is_numeric()),
        "isspace" => flag(is_space),
        "isascii" => Ok(Value::from(text.is_ascii())),
        "isprintable" => Ok(Value::from(text.chars().all(is_printable))),
        "isdecimal" => flag(is_decimal),
        "isdigit" => flag(|c| is_decimal(c) || DIGITS.iter().any(|digits| digits.contains(&c))),
        "isnumeric" => flag(char::is_numeric),
        "isidentifier" => {
            let first = text.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic());
            Ok(Value::from(first && text.chars().all(|c| c == '_' || c.is_alphanumeric())))
        }
        _ => Err(error(format!("'str' object has no attribute '{name}'"))),
    }
}

static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}$").ok());
static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").ok());

/// Digits that are not decimal: superscripts, circled ones and so on.
const DIGITS: &[RangeInclusive<char>] = &[
    '\u{B2}'..='\u{B3}',
    '\u{B9}'..='\u{B9}',
    '\u{1369}'..='\u{1371}',
    '\u{19DA}'..='\u{19DA}',
    '\u{2070}'..='\u{2070}',
    '\u{2074}'..='\u{2079}',
    '\u{2080}'..='\u{2089}',
    '\u{2460}'..='\u{2468}',
    '\u{2474}'..='\u{247C}',
    '\u{2488}'..='\u{2490}',
    '\u{24EA}'..='\u{24EA}',
    '\u{24F5}'..='\u{24FD}',
    '\u{24FF}'..='\u{24FF}',
    '\u{2776}'..='\u{277E}',
    '\u{2780}'..='\u{2788}',
    '\u{278A}'..='\u{2792}',
    '\u{10A40}'..='\u{10A43}',
    '\u{10E60}'..='\u{10E68}',
    '\u{11052}'..='\u{1105A}',
    '\u{1F100}'..='\u{1F10A}',
];

fn is_letter(c: char) -> bool {
    LETTER.as_ref().is_some_and(|letter| letter.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_decimal(c: char) -> bool {
    DECIMAL.as_ref().is_some_and(|decimal| decimal.is_match(c.encode_utf8(&mut [0; 4])))
}

/// Some of these are numbers to Python.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..)
}

/// Python's white space: Unicode's, and the information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let chars: Option<HashSet<char>> = chars.map(|chars| chars.chars().collect());
    let strips = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c));
    let text = if start { text.trim_start_matches(strips) } else { text };
    if end { text.trim_end_matches(strips) } else { text }
}

fn split<'a>(text: &'a str, separator: Option<&str>, most: i128, from_right: bool) -> Result<Vec<&'a str>> {
    let most = if most < 0 { usize::MAX } else { count(most) };
    let parts = most.saturating_add(1);
    if let Some(separator) = separator.filter(|separator| !separator.is_empty()) {
        budget::check(text.matches(separator).count().min(most) * PIECE_BYTES)?;
    }
    let mut list: Vec<&str> = match separator {
        Some("") => return Err(error("empty separator")),
        Some(separator) if from_right => text.rsplitn(parts, separator).collect(),
        Some(separator) => text.splitn(parts, separator).collect(),
        None => return split_words(text, most, from_right),
    };
    if from_right {
        list.reverse();
    }
    Ok(list)
}

/// Splits at runs of white space; the rest behind the last split keeps its white space at the far end.
fn split_words(text: &str, most: usize, from_right: bool) -> Result<Vec<&str>> {
    let mut words = Vec::new();
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        budget::check(words.len() * PIECE_BYTES)?;
        if words.len() == most {
            words.push(rest);
            break;
        }
        if from_right {
            let at =
                rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
            words.push(&rest[at..]);
            rest = rest[..at].trim_end_matches(is_space);
        } else {
            let at = rest.find(is_space).unwrap_or(rest.len());
            words.push(&rest[..at]);
            rest = rest[at..].trim_start_matches(is_space);
        }
    }
    if from_right {
        words.reverse();
    }
    Ok(words)
}

pub(super) fn split_lines(text: &str, keep_ends: bool) -> Result<Vec<&str>> {
    let is_end =
        |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        budget::check(lines.len() * PIECE_BYTES)?;
        let len = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { at + len } else { at }]);
        rest = &rest[at + len..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Ok(lines)
}

fn partition(of: &Value, text: &str, separator: &str, from_right: bool) -> Result<Value> {
    if separator.is_empty() {
        return Err(error("empty separator"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    budget::spend(text.len())?;
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(tuple(parts.into_iter().map(|part| string_like(of, part.to_owned())).collect()))
}

/// The part of `text` between optional bounds in characters, and where it starts; nothing if they cross.
fn bounded<'a>(text: &'a str, args: &Args) -> Option<(&'a str, usize)> {
    let len = text.chars().count() as i128;
    let bound = |at: usize, default: i128| {
        let bound = args.given(at).and_then(int).unwrap_or(default);
        if bound < 0 { (bound + len).max(0) } else { bound }
    };
    let (start, stop) = (bound(1, 0), bound(2, len).min(len));
    if start > stop {
        return None;
    }
    let offset = |chars: i128| text.char_indices().nth(count(chars)).map_or(text.len(), |(at, _)| at);
    Some((&text[offset(start)..offset(stop)], count(start)))
}

fn affix(text: &str, start: bool, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("startswith", &["prefix", "start", "end"], args, kwargs)?;
    let wanted = args.required(0)?;
    let wanted = match wanted.as_str() {
        Some(_) => vec![wanted.clone()],
        None => iter(wanted)?,
    };
    let Some((text, _)) = bounded(text, &args) else { return Ok(Value::from(false)) };
    let mut found = false;
    budget::spend(wanted.iter().map(scanned_bytes).sum())?;
    for affix in &wanted {
        let affix =
            affix.as_str().ok_or_else(|| error("startswith first arg must be str or a tuple of str"))?;
        found |= if start { text.starts_with(affix) } else { text.ends_with(affix) };
    }
    Ok(Value::from(found))
}

fn find(text: &str, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("find", &["sub", "start", "end"], args, kwargs)?;
    let wanted = args.string(0)?;
    let bounded = bounded(text, &args);
    if name == "count" {
        let occurrences = |(text, _): (&str, usize)| match wanted {
            "" => text.chars().count() + 1,
            _ => text.matches(wanted).count(),
        };
        return Ok(Value::from(bounded.map_or(0, occurrences)));
    }
    let found = bounded.and_then(|(text, start)| {
        let at = if name.starts_with('r') { text.rfind(wanted) } else { text.find(wanted) }?;
        Some(start + text[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("index") => Err(error("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn pad(text: &str, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<String> {
    let args = Args::bind("center", &["width", "fillchar"], args, kwargs)?;
    args.required(0)?;
    let width = count(args.int_or(0, 0)?);
    let missing = width.saturating_sub(text.chars().count());
    let fill = args.string_or(1, " ")?;
    budget::check(missing.saturating_mul(fill.len()))?;
    if fill.chars().count() != 1 {
        return Err(error("The fill character must be exactly one character long"));
    }
    Ok(match name {
        "ljust" => text.to_owned() + &fill.repeat(missing),
        "rjust" => fill.repeat(missing) + text,
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => center(text, missing, width, fill),
    })
}

/// An odd space goes to the left if the width is odd, as in CPython.
pub(super) fn center(text: &str, missing: usize, width: usize, fill: &str) -> String {
    let left = missing / 2 + (missing & width & 1);
    format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
}

fn expand_tabs(text: &str, size: usize) -> Result<String> {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                budget::check(spaces.saturating_add(out.len()))?;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(title_case).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

/// One character in title case. It is upper case, with a small second letter where that has several; but digraphs
/// and Greek letters with an iota below have forms of their own, and Georgian has none.
fn title_case(c: char) -> String {
    let exact = match c {
        'ŉ' => "ʼN",
        'Ǆ'..='ǆ' => "ǅ",
        'Ǉ'..='ǉ' => "ǈ",
        'Ǌ'..='ǌ' => "ǋ",
        'Ǳ'..='ǳ' => "ǲ",
        '\u{1FB2}' => "\u{1FBA}\u{345}",
        '\u{1FB3}' | '\u{1FBC}' => "\u{1FBC}",
        '\u{1FB4}' => "\u{386}\u{345}",
        '\u{1FB7}' => "\u{1FBC}\u{342}",
        '\u{1FC2}' => "\u{1FCA}\u{345}",
        '\u{1FC3}' | '\u{1FCC}' => "\u{1FCC}",
        '\u{1FC4}' => "\u{389}\u{345}",
        '\u{1FC7}' => "\u{1FCC}\u{342}",
        '\u{1FF2}' => "\u{1FFA}\u{345}",
        '\u{1FF3}' | '\u{1FFC}' => "\u{1FFC}",
        '\u{1FF4}' => "\u{38F}\u{345}",
        '\u{1FF7}' => "\u{1FFC}\u{342}",
        '\u{10D0}'..='\u{10FA}' | '\u{10FD}'..='\u{10FF}' => return c.to_string(),
        '\u{1F80}'..='\u{1FAF}' => {
            return char::from_u32(u32::from(c) | 8).map(String::from).unwrap_or_default();
        }
        _ => "",
    };
    if !exact.is_empty() {
        return exact.to_owned();
    }
    let mut upper = c.to_uppercase();
    let first = upper.next().map(String::from).unwrap_or_default();
    upper.fold(first, |title, c| title + &c.to_lowercase().to_string())
}

fn title(text: &str) -> String {
    let mut in_word = false;
    let mut out = String::new();
    for c in text.chars() {
        let cased = c.is_lowercase() || c.is_uppercase();
        if cased && !in_word {
            out.push_str(&title_case(c));
        } else {
            out.extend(c.to_lowercase());
        }
        in_word = cased;
    }
    out
}

fn swap_case(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// Full case folding, which is lower case of upper case of lower case but for the dotless i and Cherokee, whose
/// folded letters are the upper ones.
fn fold_case(c: char) -> String {
    let upper = |c: char| c.to_uppercase();
    match c {
        'ı' => c.to_string(),
        '\u{13A0}'..='\u{13FD}' | '\u{AB70}'..='\u{ABBF}' => upper(c).collect(),
        _ => c.to_lowercase().flat_map(upper).flat_map(char::to_lowercase).collect(),
    }
}

fn is_lower_or_upper(text: &str) -> bool {
    text.chars().any(|c| c.is_lowercase() || c.is_uppercase())
}

pub(super) fn is_lower(text: &str) -> bool {
    is_lower_or_upper(text) && !text.chars().any(char::is_uppercase)
}

pub(super) fn is_upper(text: &str) -> bool {
    is_lower_or_upper(text) && !text.chars().any(char::is_lowercase)
}

/// The texts of `items`, with `separator` between them.
pub(super) fn joined(items: &[Value], separator: &str) -> Result<String> {
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let separator = if i > 0 { separator } else { "" };
        let text = to_str(item);
        budget::check(out.len() + separator.len() + text.len())?;
        out.push_str(separator);
        out.push_str(&text);
    }
    Ok(out)
}

/// `text.replace(old, new, times)`; all of them if `times` is negative.
pub(super) fn replaced(text: &str, old: &str, new: &str, times: i128) -> Result<String> {
    let times = if times < 0 { usize::MAX } else { count(times) };
    let found = text.matches(old).take(times).count();
    budget::check(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, times))
}
