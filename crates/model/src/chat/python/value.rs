//! Values as Python has them: types, `str` and `repr`, tuples and views, lookup, iteration, and how deep they may nest.

use std::fmt::{self, Write};
use std::sync::{Arc, LazyLock};

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use regex::Regex;

use super::budget;
use super::comparison::check_key;

pub(super) type Result<T> = std::result::Result<T, Error>;

/// What a value is to Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Undefined,
    None,
    Bool,
    Int,
    Float,
    Str,
    List,
    Tuple,
    Dict,
    /// Views of a dict, ranges and what filters yield.
    Iterator,
    /// Functions, macros, namespaces and so on.
    Object,
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Undefined => "Undefined",
            Type::None => "NoneType",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float",
            Type::Str => "str",
            Type::List => "list",
            Type::Tuple => "tuple",
            Type::Dict => "dict",
            Type::Iterator => "generator",
            Type::Object => "object",
        }
    }
}

pub(super) fn type_of(value: &Value) -> Type {
    match value.kind() {
        ValueKind::Undefined => Type::Undefined,
        ValueKind::None => Type::None,
        ValueKind::Bool => Type::Bool,
        ValueKind::Number if value.is_integer() => Type::Int,
        ValueKind::Number => Type::Float,
        ValueKind::String => Type::Str,
        ValueKind::Seq => match value.downcast_object_ref::<Sequence>() {
            Some(Sequence { kind: SequenceKind::Tuple | SequenceKind::Group, .. }) => Type::Tuple,
            Some(_) => Type::Iterator,
            None => Type::List,
        },
        ValueKind::Map if is_engine_object(value) => Type::Object,
        ValueKind::Map => Type::Dict,
        ValueKind::Iterable => match value.downcast_object_ref::<Sequence>() {
            Some(_) => Type::Iterator,
            None => Type::List,
        },
        _ => Type::Object,
    }
}

/// minijinja's own objects look like maps.
fn is_engine_object(value: &Value) -> bool {
    let name = value.as_object().map(DynObject::type_name).unwrap_or_default();
    ["::Namespace", "::Macro", "::Loop", "::Closure", "::Module"].iter().any(|object| name.ends_with(object))
}

/// What a container takes beside its items.
pub(super) const CONTAINER_BYTES: usize = 64;
/// What looking at an item costs.
const VISIT_BYTES: usize = 16;
/// Maximum nesting of lists, tuples and dicts: a value is compared, printed and freed by recursion. JSON has at most 128
/// levels.
const NESTING_MAX: usize = 200;

/// Number of values that a container holds.
pub(super) fn held(value: &Value) -> usize {
    match sequence_kind(value) {
        Some(SequenceKind::Range { .. }) => 0,
        _ => value.len().unwrap_or(0),
    }
}

/// Whether a container around `value` is nested too deeply. A list that holds another one twice, and so on, is large to
/// whoever compares or prints it: that is counted here.
pub(super) fn check_nesting(value: &Value) -> Result<()> {
    visit(value, 1, &|_| Ok(()))
}

/// The same for what is kept in a namespace and the like. These may not hold each other: a loop would build a chain or
/// a circle of them.
pub(super) fn check_kept(value: &Value) -> Result<()> {
    visit(value, 1, &|object| {
        let kind = object.as_object().map(DynObject::type_name).unwrap_or_default();
        let kind = kind.rsplit("::").next().unwrap_or_default().to_lowercase();
        Err(error(format!("a namespace, cycler or joiner that holds a {kind} is not supported")))
    })
}

fn visit(value: &Value, level: usize, on_object: &dyn Fn(&Value) -> Result<()>) -> Result<()> {
    let kind = type_of(value);
    if kind == Type::Object {
        return on_object(value);
    }
    if value.as_object().is_none() || matches!(sequence_kind(value), Some(SequenceKind::Range { .. })) {
        return Ok(());
    }
    if level > NESTING_MAX {
        return Err(error(format!(
            "lists and dicts nested deeper than {NESTING_MAX} levels are not supported"
        )));
    }
    budget::spend(CONTAINER_BYTES + held(value) * VISIT_BYTES)?;
    if kind == Type::Dict {
        for (key, item) in pairs(value) {
            visit(&key, level + 1, on_object)?;
            visit(&item, level + 1, on_object)?;
        }
        return Ok(());
    }
    value.try_iter()?.try_for_each(|item| visit(&item, level + 1, on_object))
}

pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub(super) fn undefined_error() -> Error {
    Error::new(ErrorKind::UndefinedError, "a value that the template uses is not defined")
}

/// Sequences that are no lists.
#[derive(Debug)]
pub(super) struct Sequence {
    kind: SequenceKind,
    items: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceKind {
    Tuple,
    /// A pair with the attributes `grouper` and `list`.
    Group,
    /// Its items are computed.
    Range {
        start: i128,
        stop: i128,
        step: i128,
        len: usize,
    },
    Keys,
    Values,
    Items,
    Generator,
}

impl Object for Sequence {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.kind {
            SequenceKind::Tuple | SequenceKind::Group | SequenceKind::Range { .. } => ObjectRepr::Seq,
            _ => ObjectRepr::Iterable,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = match (self.kind, key.as_str()) {
            (SequenceKind::Group, Some("grouper")) => 0,
            (SequenceKind::Group, Some("list")) => 1,
            _ => key.as_usize()?,
        };
        match self.kind {
            SequenceKind::Range { start, step, len, .. } => {
                (index < len).then(|| from_int(start + step * index as i128))
            }
            _ => self.items.get(index).cloned(),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.kind {
            SequenceKind::Range { len, .. } => Enumerator::Seq(len),
            _ => Enumerator::Values(self.items.clone()),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(match self.kind {
            SequenceKind::Range { len, .. } => len,
            _ => self.items.len(),
        })
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.kind == SequenceKind::Generator || self.enumerator_len() != Some(0)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

pub(super) fn sequence(kind: SequenceKind, items: Vec<Value>) -> Value {
    Value::from_object(Sequence { kind, items })
}

pub(super) fn tuple(items: Vec<Value>) -> Value {
    sequence(SequenceKind::Tuple, items)
}

/// A tuple of two, of which a filter makes many.
pub(super) fn pair(first: Value, second: Value) -> Result<Value> {
    budget::spend(CONTAINER_BYTES)?;
    Ok(tuple(vec![first, second]))
}

/// What a filter yields item by item in Python.
pub(super) fn generator(items: Vec<Value>) -> Value {
    sequence(SequenceKind::Generator, items)
}

pub(super) fn sequence_kind(value: &Value) -> Option<SequenceKind> {
    value.downcast_object_ref::<Sequence>().map(|sequence| sequence.kind)
}

/// `str(value)`.
pub(super) fn to_str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// A string value that keeps `Markup` if `like` is that.
pub(super) fn string_like(like: &Value, text: String) -> Value {
    if like.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, 0, &mut out);
    // What was cut is an error to whoever asked for it.
    let _ = budget::spend(out.len());
    out
}

fn write_repr(value: &Value, level: usize, out: &mut String) {
    if level > 100 {
        out.push_str("...");
        return;
    }
    if budget::check(out.len()).is_err() {
        return;
    }
    match type_of(value) {
        Type::Undefined => out.push_str("Undefined"),
        Type::None => out.push_str("None"),
        Type::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        Type::Int => {
            let _ = write!(out, "{value}");
        }
        Type::Float => out.push_str(&float_repr(float(value).unwrap_or(f64::NAN))),
        Type::Str => write_quoted(value.as_str().unwrap_or_default(), out),
        Type::List => write_items("[", value, level, "]", out),
        Type::Dict => write_dict(value, level, out),
        Type::Tuple => {
            let close = if value.len() == Some(1) { ",)" } else { ")" };
            write_items("(", value, level, close, out);
        }
        Type::Iterator => match sequence_kind(value) {
            Some(SequenceKind::Range { start, stop, step: 1, .. }) => {
                let _ = write!(out, "range({start}, {stop})");
            }
            Some(SequenceKind::Range { start, stop, step, .. }) => {
                let _ = write!(out, "range({start}, {stop}, {step})");
            }
            Some(SequenceKind::Keys) => write_items("dict_keys([", value, level, "])", out),
            Some(SequenceKind::Values) => write_items("dict_values([", value, level, "])", out),
            Some(SequenceKind::Items) => write_items("dict_items([", value, level, "])", out),
            _ => out.push_str("<generator object>"),
        },
        Type::Object => write_object(value, level, out),
    }
}

fn write_object(value: &Value, level: usize, out: &mut String) {
    let name = value.as_object().map(DynObject::type_name).unwrap_or_default();
    if name.ends_with("::Namespace") {
        out.push_str("<Namespace ");
        write_dict(value, level, out);
        out.push('>');
    } else if name.ends_with("::Loop") {
        let field = |name: &str| value.get_attr(name).map(|value| to_str(&value)).unwrap_or_default();
        let _ = write!(out, "<LoopContext {}/{}>", field("index"), field("length"));
    } else {
        let _ = write!(out, "{value}");
    }
}

fn write_dict(value: &Value, level: usize, out: &mut String) {
    out.push('{');
    for (i, (key, item)) in pairs(value).into_iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(&key, level + 1, out);
        out.push_str(": ");
        write_repr(&item, level + 1, out);
    }
    out.push('}');
}

fn write_items(open: &str, value: &Value, level: usize, close: &str, out: &mut String) {
    out.push_str(open);
    for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(&item, level + 1, out);
    }
    out.push_str(close);
}

/// Python's shortest form: exponents have a sign and two digits, and are used from 1e16 and below 1e-4.
pub(in super::super) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.into();
    }
    let text = format!("{float:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Characters that Python's `str.isprintable` is false for.
static UNPRINTABLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}--[ ]]$").ok());

pub(super) fn is_printable(c: char) -> bool {
    let unprintable = |c: char| {
        let mut text = [0; 4];
        UNPRINTABLE.as_ref().is_some_and(|regex| regex.is_match(c.encode_utf8(&mut text)))
    };
    (' '..='~').contains(&c) || super::super::json::is_private(c) || !unprintable(c)
}

fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xFF => write!(out, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// The integer that `value` is; a bool counts as one.
pub(super) fn int(value: &Value) -> Option<i128> {
    match type_of(value) {
        Type::Bool => Some(i128::from(value.is_true())),
        Type::Int => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// The number that `value` is, as a float.
pub(super) fn float(value: &Value) -> Option<f64> {
    match type_of(value) {
        Type::Float => f64::try_from(value.clone()).ok(),
        _ => int(value).map(|int| int as f64),
    }
}

pub(super) fn from_int(int: i128) -> Value {
    i64::try_from(int).map_or_else(|_| Value::from(int), Value::from)
}

/// Keys and values of a dict, in order.
pub(super) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value.as_object().and_then(DynObject::try_iter_pairs).into_iter().flatten().collect()
}

/// What a `for` loop or a filter iterates over.
pub(super) fn iter(value: &Value) -> Result<Vec<Value>> {
    match type_of(value) {
        Type::Undefined => Ok(Vec::new()),
        Type::Str => {
            let text = value.as_str().unwrap_or_default();
            budget::check(text.len() * size_of::<Value>())?;
            Ok(text.chars().map(Value::from).collect())
        }
        Type::List | Type::Tuple | Type::Dict | Type::Iterator => {
            budget::spend(value.len().unwrap_or(0) * VISIT_BYTES)?;
            Ok(value.try_iter()?.collect())
        }
        Type::Object
            if value.downcast_object_ref::<Sequence>().is_none() && value.kind() == ValueKind::Map =>
        {
            Err(error("'Namespace' object is not iterable"))
        }
        other => Err(error(format!("'{}' object is not iterable", other.name()))),
    }
}

/// `len(value)`.
pub(super) fn len(value: &Value) -> Result<usize> {
    match type_of(value) {
        Type::Undefined => Ok(0),
        Type::Str => Ok(value.as_str().unwrap_or_default().chars().count()),
        Type::Iterator if sequence_kind(value) == Some(SequenceKind::Generator) => {
            Err(error("object of type 'generator' has no len()"))
        }
        Type::List | Type::Tuple | Type::Dict | Type::Iterator => Ok(value.len().unwrap_or_default()),
        other => Err(error(format!("object of type '{}' has no len()", other.name()))),
    }
}

/// What reading a text costs, beside building one.
pub(super) fn scanned_bytes(value: &Value) -> usize {
    value.as_str().map_or(0, str::len) / 16
}

/// `value[key]`, undefined where there is no such item.
pub(super) fn item(value: &Value, key: &Value) -> Result<Value> {
    match type_of(value) {
        Type::Undefined => Err(undefined_error()),
        Type::Str | Type::List | Type::Tuple | Type::Iterator => {
            if let Some(
                SequenceKind::Keys | SequenceKind::Values | SequenceKind::Items | SequenceKind::Generator,
            ) = sequence_kind(value)
            {
                return Ok(Value::UNDEFINED);
            }
            let (Some(index), len) = (int(key), len(value)?) else { return Ok(Value::UNDEFINED) };
            let index = if index < 0 { index + len as i128 } else { index };
            match usize::try_from(index) {
                Ok(index) if index < len => value.get_item_by_index(index),
                _ => Ok(Value::UNDEFINED),
            }
        }
        Type::Dict if check_key(key).is_err() => Ok(Value::UNDEFINED),
        _ => value.get_item(key),
    }
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, bounds: [&Value; 3]) -> Result<Value> {
    let kind = type_of(value);
    match kind {
        Type::Undefined => return Err(undefined_error()),
        Type::Str | Type::List | Type::Tuple => {}
        Type::Iterator if matches!(sequence_kind(value), Some(SequenceKind::Range { .. })) => {}
        other => return Err(error(format!("'{}' object is not subscriptable", other.name()))),
    }
    let bound = |value: &Value| match type_of(value) {
        Type::None => Ok(None),
        _ => int(value).map(Some).ok_or_else(|| error("slice indices must be integers or None")),
    };
    let [start, stop, step] = bounds;
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(error("slice step cannot be zero"));
    }
    let items = iter(value)?;
    let len = items.len() as i128;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |bound: Option<i128>, default| match bound {
        None => default,
        Some(at) if at < 0 => at.saturating_add(len).clamp(low, high),
        Some(at) => at.clamp(low, high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (mut at, stop) = (clamp(bound(start)?, first), clamp(bound(stop)?, last));
    let first = at;
    let mut taken = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        taken.extend(usize::try_from(at).ok().and_then(|at| items.get(at).cloned()));
        at = at.saturating_add(step);
    }
    Ok(match kind {
        Type::Str => string_like(value, taken.iter().filter_map(Value::as_str).collect()),
        Type::Tuple => tuple(taken),
        _ => match sequence_kind(value) {
            Some(SequenceKind::Range { start, step: unit, .. }) => {
                let at = |index: i128| start.saturating_add(unit.saturating_mul(index));
                let (start, stop, step) = (at(first), at(stop), step.saturating_mul(unit));
                let range = SequenceKind::Range { start, stop, step, len: taken.len() };
                sequence(range, Vec::new())
            }
            _ => Value::from(taken),
        },
    })
}
