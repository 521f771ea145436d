//! Filters of sequences, dicts and numbers.

use std::cmp::Ordering;

use minijinja::State;
use minijinja::value::{Kwargs, Value};

use super::Function;
use super::args::{Args, count};
use super::budget;
use super::comparison::{compare, equal, is_among};
use super::value::{
    CONTAINER_BYTES, Result, SequenceKind, Type, check_nesting, error, float, generator, int, item, iter,
    len, pair, pairs, sequence, sequence_kind, to_str, type_of, undefined_error,
};

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("length", |_, args, _| Ok(Value::from(len(&args[0])?))),
    ("count", |_, args, _| Ok(Value::from(len(&args[0])?))),
    ("default", default),
    ("d", default),
    ("first", |_, args, _| Ok(iter(&args[0])?.into_iter().next().unwrap_or_default())),
    ("last", |_, args, _| Ok(reversible(&args[0])?.pop().unwrap_or_default())),
    ("list", |_, args, _| Ok(Value::from(iter(&args[0])?))),
    ("items", items),
    ("reverse", reverse),
    ("join", join),
    ("map", map),
    ("select", |state, args, kwargs| select(state, args, kwargs, true)),
    ("reject", |state, args, kwargs| select(state, args, kwargs, false)),
    ("selectattr", |state, args, kwargs| select_by_attribute(state, args, kwargs, true)),
    ("rejectattr", |state, args, kwargs| select_by_attribute(state, args, kwargs, false)),
    ("sort", sort),
    ("dictsort", dictsort),
    ("unique", unique),
    ("groupby", groupby),
    ("batch", batch),
    ("slice", slices),
    ("min", |_, args, kwargs| extreme(args, kwargs, Ordering::Less)),
    ("max", |_, args, kwargs| extreme(args, kwargs, Ordering::Greater)),
    ("sum", sum),
    ("attr", attr),
    ("abs", abs),
    ("int", to_int),
    ("float", to_float),
    ("round", round),
];

pub(super) fn is_filter(name: &str) -> bool {
    let mut known = FILTERS.iter().chain(super::filters_text::FILTERS);
    name == "tojson" || known.any(|(filter, _)| *filter == name)
}

fn default(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("default", &["value", "default_value", "boolean"], args, kwargs)?;
    let value = args.required(0)?;
    let replaced = value.is_undefined() || (args.flag_or(2, false) && !value.is_true());
    let default = || args.optional(1).cloned().unwrap_or_else(|| Value::from(""));
    Ok(if replaced { default() } else { value.clone() })
}

/// The items of what Python's `reversed` takes.
fn reversible(value: &Value) -> Result<Vec<Value>> {
    match sequence_kind(value) {
        Some(SequenceKind::Generator) => Err(error("'generator' object is not reversible")),
        _ => iter(value),
    }
}

fn items(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    match type_of(&args[0]) {
        Type::Undefined => Ok(generator(Vec::new())),
        Type::Dict => {
            let items = pairs(&args[0]).into_iter().map(|(key, value)| pair(key, value));
            Ok(generator(items.collect::<Result<_>>()?))
        }
        _ => Err(error("Can only get item pairs from a mapping.")),
    }
}

fn reverse(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    if let Some(text) = args[0].as_str() {
        return Ok(super::value::string_like(&args[0], text.chars().rev().collect()));
    }
    let mut items = iter(&args[0])?;
    items.reverse();
    Ok(generator(items))
}

/// Looks up a path such as `function.name` or `0.id`, or the item of a number.
fn by_attribute(value: &Value, attribute: &Value) -> Result<Value> {
    let Some(path) = attribute.as_str() else { return item(value, attribute) };
    let mut found = value.clone();
    for part in path.split('.') {
        let next = match part.parse::<i64>() {
            Ok(index) => item(&found, &Value::from(index))?,
            Err(_) => item(&found, &Value::from(part))?,
        };
        found = if next.is_undefined() { super::methods::attribute(&found, part)? } else { next };
    }
    Ok(found)
}

fn with_attribute(items: Vec<Value>, attribute: Option<&Value>) -> Result<Vec<Value>> {
    match attribute {
        None => Ok(items),
        Some(attribute) => items.iter().map(|item| by_attribute(item, attribute)).collect(),
    }
}

fn join(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("join", &["value", "d", "attribute"], args, kwargs)?;
    let separator = args.optional(1).map(to_str).unwrap_or_default();
    let items = with_attribute(iter(args.required(0)?)?, args.given(2))?;
    Ok(Value::from(super::strings::joined(&items, &separator)?))
}

/// Jinja2 applies `map`, `select` and their like to nothing if the value is false.
fn iter_if_true(value: &Value) -> Result<Vec<Value>> {
    if value.is_true() { iter(value) } else { Ok(Vec::new()) }
}

fn map(state: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let values = iter_if_true(&args[0])?;
    let Some(name) = args.get(1) else {
        let bound = Args::bind("map", &["attribute", "default"], &[], kwargs)?;
        let attribute = bound.required(0).map_err(|_| error("map requires a filter argument"))?;
        let mapped = values.iter().map(|value| {
            let found = by_attribute(value, attribute)?;
            let default = bound.given(1).filter(|_| found.is_undefined());
            Ok(default.cloned().unwrap_or(found))
        });
        return Ok(generator(mapped.collect::<Result<_>>()?));
    };
    let name = name.as_str().ok_or_else(|| error("map wants the name of a filter"))?;
    let mut rest = args[2..].to_vec();
    if kwargs.args().next().is_some() {
        let kwargs: Result<Kwargs> =
            kwargs.args().map(|name| Ok((name.to_owned(), kwargs.peek::<Value>(name)?))).collect();
        rest.push(Value::from(kwargs?));
    }
    let mapped = values.into_iter().map(|value| {
        let args: Vec<Value> = std::iter::once(value).chain(rest.iter().cloned()).collect();
        state.apply_filter(name, &args)
    });
    Ok(generator(mapped.collect::<Result<_>>()?))
}

/// Whether `value` passes the test that `args` name, or is true if they name none.
fn passes(state: &State<'_, '_>, value: Value, args: &[Value], kwargs: &Kwargs) -> Result<bool> {
    let Some((name, rest)) = args.split_first() else { return Ok(value.is_true()) };
    let name = name.as_str().ok_or_else(|| error("the name of a test is a string"))?;
    let args: Vec<Value> = std::iter::once(value).chain(rest.iter().cloned()).collect();
    super::tests::apply(state, name, &args, kwargs)
}

fn select(state: &State<'_, '_>, args: &[Value], kwargs: &Kwargs, wanted: bool) -> Result<Value> {
    let mut taken = Vec::new();
    for value in iter_if_true(&args[0])? {
        if passes(state, value.clone(), &args[1..], kwargs)? == wanted {
            taken.push(value);
        }
    }
    Ok(generator(taken))
}

fn select_by_attribute(
    state: &State<'_, '_>,
    args: &[Value],
    kwargs: &Kwargs,
    wanted: bool,
) -> Result<Value> {
    let attribute = args.get(1).ok_or_else(|| error("Missing parameter for attribute name"))?;
    let mut taken = Vec::new();
    for value in iter_if_true(&args[0])? {
        if passes(state, by_attribute(&value, attribute)?, &args[2..], kwargs)? == wanted {
            taken.push(value);
        }
    }
    Ok(generator(taken))
}

/// The value that is compared: strings in lower case unless case counts.
fn key(value: Value, case_sensitive: bool) -> Result<Value> {
    match value.as_str() {
        Some(text) if !case_sensitive => {
            budget::spend(text.len())?;
            Ok(Value::from(text.to_lowercase()))
        }
        _ => Ok(value),
    }
}

/// Sorts by key, stably. The first error that comparing gives is returned.
fn sort_by_key(items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    let mut items = items;
    let mut failure = None;
    items.sort_by(|(a, _), (b, _)| {
        let order = compare(a, b).unwrap_or_else(|error| {
            failure.get_or_insert(error);
            None
        });
        let order = order.unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    match failure {
        Some(failure) => Err(failure),
        None => Ok(items.into_iter().map(|(_, value)| value).collect()),
    }
}

fn sort(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("sort", &["value", "reverse", "case_sensitive", "attribute"], args, kwargs)?;
    let case_sensitive = args.flag_or(2, false);
    let keyed = iter(args.required(0)?)?.into_iter().map(|value| {
        let sort_key = match args.given(3) {
            None => key(value.clone(), case_sensitive)?,
            Some(attribute) => {
                let paths = attribute.as_str().map(|paths| paths.split(',').map(Value::from).collect());
                let keys = paths.unwrap_or_else(|| vec![attribute.clone()]).into_iter();
                let keys = keys.map(|path| key(by_attribute(&value, &path)?, case_sensitive));
                Value::from(keys.collect::<Result<Vec<_>>>()?)
            }
        };
        Ok((sort_key, value))
    });
    Ok(Value::from(sort_by_key(keyed.collect::<Result<_>>()?, args.flag_or(1, false))?))
}

fn dictsort(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("dictsort", &["value", "case_sensitive", "by", "reverse"], args, kwargs)?;
    let by_value = match args.string_or(2, "key")? {
        "key" => false,
        "value" => true,
        _ => return Err(error("You can only sort by either \"key\" or \"value\"")),
    };
    let value = args.required(0)?;
    match type_of(value) {
        Type::Dict => {}
        Type::Undefined => return Err(undefined_error()),
        other => return Err(error(format!("'{}' object has no attribute 'items'", other.name()))),
    }
    let case_sensitive = args.flag_or(1, false);
    let keyed = pairs(value).into_iter().map(|(name, value)| {
        let sort_key = key(if by_value { value.clone() } else { name.clone() }, case_sensitive)?;
        Ok((sort_key, pair(name, value)?))
    });
    Ok(Value::from(sort_by_key(keyed.collect::<Result<_>>()?, args.flag_or(3, false))?))
}

fn unique(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("unique", &["value", "case_sensitive", "attribute"], args, kwargs)?;
    let items = iter(args.required(0)?)?;
    let keys = with_attribute(items.clone(), args.given(2))?;
    let mut seen: Vec<Value> = Vec::new();
    let mut taken = Vec::new();
    for (value, sort_key) in items.into_iter().zip(keys) {
        let sort_key = key(sort_key, args.flag_or(1, false))?;
        if !is_among(&seen, &sort_key)? {
            seen.push(sort_key);
            taken.push(value);
        }
    }
    Ok(generator(taken))
}

fn groupby(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("groupby", &["value", "attribute", "default", "case_sensitive"], args, kwargs)?;
    let attribute = args.required(1)?;
    let case_sensitive = args.flag_or(3, false);
    let keyed = rows_of(args.required(0)?, 1)?.into_iter().map(|value| {
        let found = by_attribute(&value, attribute)?;
        let found = args.given(2).filter(|_| found.is_undefined()).cloned().unwrap_or(found);
        Ok((key(found.clone(), case_sensitive)?, pair(found, value)?))
    });
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for pair in sort_by_key(keyed.collect::<Result<_>>()?, false)? {
        let (found, value) = (pair.get_item_by_index(0)?, pair.get_item_by_index(1)?);
        let sort_key = key(found.clone(), case_sensitive)?;
        let same = groups.last().map(|(last, ..)| equal(last, &sort_key)).transpose()?.unwrap_or(false);
        match groups.last_mut() {
            Some((.., values)) if same => values.push(value),
            _ => groups.push((sort_key, found, vec![value])),
        }
    }
    let group = |(_, grouper, list): (Value, Value, Vec<Value>)| {
        sequence(SequenceKind::Group, vec![grouper, Value::from(list)])
    };
    Ok(Value::from(groups.into_iter().map(group).collect::<Vec<_>>()))
}

/// The items of `value`, which become up to so many lists, or a list each.
fn rows_of(value: &Value, rows: usize) -> Result<Vec<Value>> {
    let items = iter(value)?;
    items.iter().try_for_each(check_nesting)?;
    budget::spend(rows.max(items.len()) * CONTAINER_BYTES)?;
    Ok(items)
}

fn batch(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("batch", &["value", "linecount", "fill_with"], args, kwargs)?;
    let size = count(args.int_or(1, 0)?).max(1);
    let items = rows_of(args.required(0)?, 1)?;
    let mut rows: Vec<Vec<Value>> = items.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (args.given(2), rows.last_mut()) {
        check_nesting(fill)?;
        budget::spend(size.saturating_sub(last.len()).saturating_mul(size_of::<Value>()))?;
        last.resize(size, fill.clone());
    }
    Ok(generator(rows.into_iter().map(Value::from).collect()))
}

fn slices(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("slice", &["value", "slices", "fill_with"], args, kwargs)?;
    let slices = count(args.int_or(1, 0)?);
    if slices == 0 || slices > 1 << 16 {
        return Err(error("slice wants a number of slices above 0"));
    }
    let items = rows_of(args.required(0)?, slices)?;
    let (each, longer) = (items.len() / slices, items.len() % slices);
    let mut columns = Vec::new();
    let mut at = 0;
    for slice in 0..slices {
        let end = at + each + usize::from(slice < longer);
        let mut column = items[at..end].to_vec();
        at = end;
        if let Some(fill) = args.given(2).filter(|_| slice >= longer && longer > 0) {
            column.push(fill.clone());
        }
        columns.push(Value::from(column));
    }
    Ok(generator(columns))
}

fn extreme(args: &[Value], kwargs: &Kwargs, wanted: Ordering) -> Result<Value> {
    let args = Args::bind("max", &["value", "case_sensitive", "attribute"], args, kwargs)?;
    let items = iter(args.required(0)?)?;
    let keys = with_attribute(items.clone(), args.given(2))?;
    let mut best: Option<(Value, Value)> = None;
    for (value, sort_key) in items.into_iter().zip(keys) {
        let sort_key = key(sort_key, args.flag_or(1, false))?;
        let better = match &best {
            Some((best, _)) => compare(&sort_key, best)? == Some(wanted),
            None => true,
        };
        if better {
            best = Some((sort_key, value));
        }
    }
    Ok(best.map(|(_, value)| value).unwrap_or_default())
}

fn sum(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("sum", &["value", "attribute", "start"], args, kwargs)?;
    let items = with_attribute(iter(args.required(0)?)?, args.given(1))?;
    let start = args.optional(2).cloned().unwrap_or_else(|| Value::from(0));
    items.into_iter().try_fold(start, |sum, item| {
        let sum = super::operators::add(&sum, &item)?;
        budget::spend(super::built_bytes(&sum, &[]))?;
        Ok(sum)
    })
}

fn attr(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("attr", &["value", "name"], args, kwargs)?;
    let (value, name) = (args.required(0)?, args.string(1)?);
    match type_of(value) {
        Type::Object => value.get_attr(name),
        _ => super::methods::attribute(value, name),
    }
}

fn abs(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    match (int(&args[0]), float(&args[0])) {
        (Some(int), _) => {
            let size = int.checked_abs().map(super::value::from_int);
            size.ok_or_else(|| error("the result of abs is too large"))
        }
        (None, Some(float)) => Ok(Value::from(float.abs())),
        _ => Err(error(format!("bad operand type for abs(): '{}'", type_of(&args[0]).name()))),
    }
}

/// What `float(text)` gives.
fn parse_float(text: &str) -> Option<f64> {
    let text = super::strings::strip(text, None, true, true);
    let digits = |c: char| c.is_ascii_digit();
    let separated = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    let known = text.contains(digits)
        || matches!(
            text.trim_start_matches(['+', '-']).to_ascii_lowercase().as_str(),
            "inf" | "infinity" | "nan"
        );
    text.replace('_', "").parse().ok().filter(|_| separated && known)
}

fn to_int(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("int", &["value", "default", "base"], args, kwargs)?;
    let value = args.required(0)?;
    if value.is_undefined() {
        return Err(undefined_error());
    }
    let default = || args.optional(1).cloned().unwrap_or_else(|| Value::from(0));
    let truncated = |float: f64| match float.is_finite() && float.abs() < 1e38 {
        true => super::value::from_int(float as i128),
        false => default(),
    };
    let Some(text) = value.as_str() else {
        let found = int(value).map(super::value::from_int).or_else(|| float(value).map(truncated));
        return Ok(found.unwrap_or_else(default));
    };
    let base = u32::try_from(args.int_or(2, 10)?).unwrap_or(10);
    let trimmed = super::strings::strip(text, None, true, true).to_lowercase();
    let (sign, digits) = trimmed.strip_prefix('-').map_or((1, trimmed.as_str()), |rest| (-1, rest));
    let digits = if sign == 1 { digits.strip_prefix('+').unwrap_or(digits) } else { digits };
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefix =
        prefixes.iter().find(|(prefix, of)| digits.starts_with(prefix) && (base == *of || base == 0));
    let (digits, base) = prefix.map_or((digits, base), |(_, of)| (&digits[2..], *of));
    let base = if base == 0 { 10 } else { base };
    let valid = (2..=36).contains(&base)
        && !digits.is_empty()
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__")
        && digits.chars().all(|c| c == '_' || c.is_digit(base));
    let parsed = valid.then(|| i128::from_str_radix(&digits.replace('_', ""), base).ok()).flatten();
    match parsed {
        Some(int) => Ok(super::value::from_int(int * sign)),
        None => Ok(parse_float(text).map_or_else(default, truncated)),
    }
}

fn to_float(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("float", &["value", "default"], args, kwargs)?;
    let value = args.required(0)?;
    if value.is_undefined() {
        return Err(undefined_error());
    }
    let found = value.as_str().map_or_else(|| float(value), parse_float);
    let default = || args.optional(1).cloned().unwrap_or_else(|| Value::from(0.0));
    Ok(found.map_or_else(default, Value::from))
}

fn round(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("round", &["value", "precision", "method"], args, kwargs)?;
    let value = args.required(0)?;
    let precision = i32::try_from(args.int_or(1, 0)?).unwrap_or(0).clamp(-300, 300);
    let number = float(value).ok_or_else(|| match value.is_undefined() {
        true => undefined_error(),
        false => error(format!("type {} doesn't define __round__ method", type_of(value).name())),
    })?;
    let power = 10f64.powi(precision);
    match args.string_or(2, "common")? {
        "ceil" => Ok(Value::from((number * power).ceil() / power)),
        "floor" => Ok(Value::from((number * power).floor() / power)),
        "common" => {
            if let Some(int) = int(value) {
                return Ok(round_int(int, precision));
            }
            if precision < 0 {
                return Ok(Value::from((number * power).round_ties_even() / power));
            }
            // Exact: the decimal expansion is rounded, half to even.
            let text = format!("{number:.*}", usize::try_from(precision).unwrap_or(0));
            Ok(Value::from(text.parse::<f64>().unwrap_or(number)))
        }
        _ => Err(error("method must be common, ceil or floor")),
    }
}

/// Rounds to tens, hundreds and so on, half to even.
fn round_int(int: i128, precision: i32) -> Value {
    let Some(unit) = 10i128.checked_pow(precision.min(0).unsigned_abs()) else { return Value::from(0) };
    let (quotient, rest) = (int.div_euclid(unit), int.rem_euclid(unit));
    let up = rest > unit - rest || (rest == unit - rest && quotient % 2 != 0);
    super::value::from_int((quotient + i128::from(up)).saturating_mul(unit))
}
