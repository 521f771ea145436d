//! `%` formatting of strings.

use minijinja::value::Value;

use super::spec::{Spec, align, float_text, int_text};
use super::value::{Result, Type, error, float, int, iter, repr, to_str, type_of};

/// `format % values`.
pub(super) fn format(format: &str, values: &Value) -> Result<String> {
    let positional = match type_of(values) {
        Type::Tuple => iter(values)?,
        _ => vec![values.clone()],
    };
    let is_mapping = type_of(values) == Type::Dict;
    let mut positional = positional.into_iter();
    let mut named = false;
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        rest = after;
        let mut key = None;
        if let Some(after) = rest.strip_prefix('(') {
            let (name, after) = after.split_once(')').ok_or_else(|| error("incomplete format key"))?;
            (key, rest) = (Some(name), after);
        }
        let mut next = || match key {
            Some(_) if !is_mapping => Err(error("format requires a mapping")),
            Some(key) => {
                named = true;
                let found = values.as_object().and_then(|map| map.get_value(&Value::from(key)));
                found.ok_or_else(|| error(format!("KeyError: '{key}'")))
            }
            None => positional.next().ok_or_else(|| error("not enough arguments for format string")),
        };
        let spec = read_spec(&mut rest, &mut next)?;
        let conversion = rest.chars().next().ok_or_else(|| error("incomplete format"))?;
        rest = &rest[conversion.len_utf8()..];
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let text = convert(spec, conversion, &next()?)?;
        super::budget::check(out.len() + text.len())?;
        out.push_str(&text);
    }
    out.push_str(rest);
    if positional.next().is_some() && !is_mapping && !named {
        return Err(error("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// Flags, width and precision; `*` takes them from the values.
fn read_spec(rest: &mut &str, next: &mut dyn FnMut() -> Result<Value>) -> Result<Spec> {
    let mut spec = Spec::default();
    let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
    for flag in rest[..flags].chars() {
        match flag {
            '-' => spec.align = Some('<'),
            '0' => spec.fill = Some('0'),
            '#' => spec.alternate = true,
            // A plus wins over a space.
            sign if spec.sign != Some('+') => spec.sign = Some(sign),
            _ => {}
        }
    }
    *rest = &rest[flags..];
    spec.width = read_number(rest, next)?;
    if let Some(after) = rest.strip_prefix('.') {
        *rest = after;
        spec.precision = Some(read_number(rest, next)?);
    }
    Ok(spec)
}

fn read_number(rest: &mut &str, next: &mut dyn FnMut() -> Result<Value>) -> Result<usize> {
    let number = if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        int(&next()?).map(super::args::count).ok_or_else(|| error("* wants int"))?
    } else {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = rest[..digits].parse().unwrap_or(if digits == 0 { 0 } else { usize::MAX });
        *rest = &rest[digits..];
        number
    };
    if number > super::spec::WIDTH_MAX {
        return Err(error(format!("a width or precision above {} is not supported", super::spec::WIDTH_MAX)));
    }
    Ok(number)
}

fn convert(mut spec: Spec, conversion: char, value: &Value) -> Result<String> {
    spec.kind = Some(conversion);
    let wrong = || {
        let kind = type_of(value).name();
        error(format!("%{conversion} format: a real number is required, not {kind}"))
    };
    let (sign, text) = match conversion {
        's' | 'r' | 'a' => {
            let text = if conversion == 's' { to_str(value) } else { repr(value) };
            spec.fill = None;
            (String::new(), super::spec::cut(text, spec.precision))
        }
        'c' => {
            spec.fill = None;
            let text = value.as_str().map(str::to_owned);
            (
                String::new(),
                text.unwrap_or_else(|| {
                    int_text(&Spec { kind: Some('c'), ..Spec::default() }, int(value).unwrap_or(0)).1
                }),
            )
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match (int(value), float(value)) {
                (Some(int), _) => int,
                (None, Some(float)) if matches!(conversion, 'd' | 'i' | 'u') => float.trunc() as i128,
                _ => return Err(wrong()),
            };
            let (sign, digits) = int_text(&spec, number);
            let zeros = spec.precision.unwrap_or(0).saturating_sub(digits.len());
            (sign, "0".repeat(zeros) + &digits)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => float_text(&spec, float(value).ok_or_else(wrong)?),
        other => return Err(error(format!("unsupported format character '{other}'"))),
    };
    if spec.align.is_some() {
        spec.fill = None;
    } else if spec.fill.is_some() {
        spec.align = Some('=');
    }
    Ok(align(&spec, &sign, &text, '>'))
}
