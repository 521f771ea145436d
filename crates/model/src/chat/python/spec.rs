//! `str.format` and format specifications.

use minijinja::value::{Kwargs, Value};

use super::value::{Result, Type, error, float, float_repr, int, item, repr, to_str, type_of};

/// Maximum width and precision.
pub(super) const WIDTH_MAX: usize = 4096;

/// `template.format(*args, **kwargs)`.
pub(super) fn format(template: &str, args: &[Value], kwargs: &Kwargs) -> Result<String> {
    format_fields(template, args, kwargs, &mut 0)
}

/// `next`: index of the argument for the next field without a name.
fn format_fields(template: &str, args: &[Value], kwargs: &Kwargs, next: &mut usize) -> Result<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(error("Single '}' encountered in format string"));
        }
        let end = field_end(after).ok_or_else(|| error("expected '}' before end of string"))?;
        let (field, spec) = split_field(&after[..end]);
        let (path, conversion) = field.rsplit_once('!').unwrap_or((field, ""));
        let value = lookup(path, args, kwargs, next)?;
        let spec = match spec.contains('{') {
            true => format_fields(spec, args, kwargs, next)?,
            false => spec.to_owned(),
        };
        let text = match conversion {
            "" => format_value(&value, &spec)?,
            "s" => format_value(&Value::from(to_str(&value)), &spec)?,
            "r" | "a" => format_value(&Value::from(repr(&value)), &spec)?,
            other => return Err(error(format!("Unknown conversion specifier {other}"))),
        };
        super::budget::check(out.len() + text.len())?;
        out.push_str(&text);
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The `}` that closes a field; a specification may contain fields.
fn field_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.find(|c| {
        let ends = c == '}' && depth == 0;
        depth += i32::from(c == '{') - i32::from(c == '}');
        ends
    })
}

/// The name and the specification of a field.
fn split_field(field: &str) -> (&str, &str) {
    let mut brackets = 0;
    let colon = field.find(|c| {
        brackets += i32::from(c == '[') - i32::from(c == ']');
        c == ':' && brackets == 0
    });
    colon.map_or((field, ""), |at| (&field[..at], &field[at + 1..]))
}

fn lookup(path: &str, args: &[Value], kwargs: &Kwargs, next: &mut usize) -> Result<Value> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    let positional = |at: usize| args.get(at).cloned().ok_or_else(|| error("Replacement index out of range"));
    let mut value = if name.is_empty() {
        *next += 1;
        positional(*next - 1)?
    } else if let Ok(at) = name.parse::<usize>() {
        positional(at)?
    } else {
        kwargs.peek::<Option<Value>>(name)?.ok_or_else(|| error(format!("KeyError: '{name}'")))?
    };
    while !rest.is_empty() {
        let key = if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']').ok_or_else(|| error("Missing ']' in format string"))?;
            rest = &after[end + 1..];
            &after[..end]
        } else {
            let after = &rest[1..];
            let end = after.find(['.', '[']).unwrap_or(after.len());
            rest = &after[end..];
            &after[..end]
        };
        let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
        value = item(&value, &key)?;
    }
    Ok(value)
}

/// A parsed format specification.
#[derive(Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let mut spec = Spec::default();
        let mut chars: Vec<char> = text.chars().collect();
        chars.reverse();
        let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '^' | '='));
        if chars.len() > 1 && is_align(chars.get(chars.len() - 2)) {
            spec.fill = chars.pop();
        }
        if is_align(chars.last()) {
            spec.align = chars.pop();
        }
        if matches!(chars.last(), Some('+' | '-' | ' ')) {
            spec.sign = chars.pop();
        }
        if chars.last() == Some(&'#') {
            spec.alternate = chars.pop().is_some();
        }
        if chars.last() == Some(&'0') {
            chars.pop();
            spec.fill = spec.fill.or(Some('0'));
            spec.align = spec.align.or(Some('='));
        }
        let number = |chars: &mut Vec<char>| {
            let mut number = None;
            while let Some(digit) = chars.last().and_then(|c| c.to_digit(10)) {
                chars.pop();
                number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize));
            }
            number
        };
        spec.width = number(&mut chars).unwrap_or(0);
        if matches!(chars.last(), Some(',' | '_')) {
            spec.grouping = chars.pop();
        }
        if chars.last() == Some(&'.') {
            chars.pop();
            spec.precision = number(&mut chars);
        }
        spec.kind = chars.pop();
        if !chars.is_empty() || spec.width > WIDTH_MAX || spec.precision.is_some_and(|most| most > WIDTH_MAX)
        {
            return Err(error(format!("Invalid format specifier '{text}'")));
        }
        Ok(spec)
    }
}

/// `format(value, spec)`.
pub(super) fn format_value(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return Ok(to_str(value));
    }
    let parsed = Spec::parse(spec)?;
    match (type_of(value), parsed.kind) {
        (Type::Str, None | Some('s')) => Ok(align(&parsed, "", &cut(to_str(value), parsed.precision), '<')),
        (Type::Int | Type::Bool, None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c')) => {
            let int = int(value).unwrap_or(0);
            let (sign, digits) = int_text(&parsed, int);
            Ok(align(&parsed, &sign, &digits, '>'))
        }
        (
            Type::Int | Type::Bool | Type::Float,
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'n'),
        ) => {
            let (sign, digits) = float_text(&parsed, float(value).unwrap_or(f64::NAN));
            Ok(align(&parsed, &sign, &digits, '>'))
        }
        (kind, _) => Err(error(format!("unsupported format string passed to {}.__format__", kind.name()))),
    }
}

/// The sign and digits of an integer.
pub(super) fn int_text(spec: &Spec, int: i128) -> (String, String) {
    let size = int.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        Some('x') => ("0x", format!("{size:x}")),
        Some('X') => ("0X", format!("{size:X}")),
        Some('o') => ("0o", format!("{size:o}")),
        Some('b') => ("0b", format!("{size:b}")),
        Some('c') => {
            ("", u32::try_from(size).ok().and_then(char::from_u32).map(String::from).unwrap_or_default())
        }
        _ => ("", size.to_string()),
    };
    let prefix = if spec.alternate { prefix } else { "" };
    (sign_text(spec, int < 0).to_owned() + prefix, grouped(spec, &digits))
}

/// The sign and digits of a float.
pub(super) fn float_text(spec: &Spec, float: f64) -> (String, String) {
    let sign = sign_text(spec, float.is_sign_negative() && !float.is_nan()).to_owned();
    let size = float.abs();
    let upper = matches!(spec.kind, Some('E' | 'F' | 'G'));
    let cased = |text: String| if upper { text.to_uppercase() } else { text };
    if !float.is_finite() {
        return (sign, cased(float_repr(size)));
    }
    let precision = spec.precision.unwrap_or(6);
    let text = match spec.kind {
        Some('e' | 'E') => exponent(size, precision),
        Some('f' | 'F') => format!("{size:.precision$}"),
        Some('%') => format!("{:.precision$}%", size * 100.0),
        None if spec.precision.is_none() => float_repr(size),
        None => general(size, precision.max(1), true),
        _ => general(size, precision.max(1), false),
    };
    (sign, grouped(spec, &cased(text)))
}

fn sign_text(spec: &Spec, negative: bool) -> &'static str {
    match spec.sign {
        _ if negative => "-",
        Some('+') => "+",
        Some(' ') => " ",
        _ => "",
    }
}

fn exponent(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// `g`: fixed or scientific notation without trailing zeros. `like_repr`: at least one digit behind the point.
fn general(size: f64, precision: usize, like_repr: bool) -> String {
    let text = format!("{:.*e}", precision - 1, size);
    let power: i32 = text.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let limit = if like_repr { precision as i32 - 1 } else { precision as i32 };
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    if power < -4 || power >= limit.max(i32::from(!like_repr)) {
        let text = exponent(size, precision - 1);
        let (mantissa, power) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{power}", trimmed(mantissa.to_owned()));
    }
    let decimals = usize::try_from(precision as i32 - 1 - power).unwrap_or(0);
    let text = trimmed(format!("{size:.decimals$}"));
    if like_repr && !text.contains('.') { text + ".0" } else { text }
}

fn grouped(spec: &Spec, digits: &str) -> String {
    let Some(separator) = spec.grouping else { return digits.to_owned() };
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let every = if matches!(spec.kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 };
    let mut out = String::new();
    for (i, c) in digits[..end].chars().enumerate() {
        if i > 0 && (end - i) % every == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + &digits[end..]
}

/// At most so many characters of a text.
pub(super) fn cut(text: String, most: Option<usize>) -> String {
    match most {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    }
}

/// Pads to the width.
pub(super) fn align(spec: &Spec, sign: &str, digits: &str, default: char) -> String {
    if spec.width == 0 {
        return format!("{sign}{digits}");
    }
    let missing = spec.width.saturating_sub(sign.chars().count() + digits.chars().count());
    let fill = |count: usize| spec.fill.unwrap_or(' ').to_string().repeat(count);
    match spec.align.unwrap_or(default) {
        '<' => format!("{sign}{digits}{}", fill(missing)),
        '^' => format!("{}{sign}{digits}{}", fill(missing / 2), fill(missing - missing / 2)),
        '=' => format!("{sign}{}{digits}", fill(missing)),
        _ => format!("{}{sign}{digits}", fill(missing)),
    }
}
