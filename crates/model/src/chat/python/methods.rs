//! Attributes and methods of Python's values.

use std::sync::Arc;

use minijinja::State;
use minijinja::value::{Kwargs, Object, ObjectRepr, Value};

use super::Function;
use super::args::Args;
use super::comparison::{entry, equal};
use super::value::{
    Result, SequenceKind, Type, error, int, iter, pair, pairs, sequence, to_str, type_of, undefined_error,
};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("attr", |_, args, _| {
        let name = args[1].as_str().unwrap_or_default();
        let method = method_of(&args[0], name);
        method.map_or_else(|| args[0].get_attr(name), Ok)
    }),
    ("call", |state, args, kwargs| {
        let name = args[1].as_str().unwrap_or_default();
        call(state, &args[0], name, &args[2..], kwargs)
    }),
];

const DICT: &[&str] = &["get", "items", "keys", "values", "copy"];
const SEQUENCE: &[&str] = &["index", "count"];
/// Methods that change their value: templates run in a sandbox that forbids them.
const CHANGING: &[&str] = &[
    "append",
    "extend",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
    "clear",
    "update",
    "setdefault",
    "popitem",
];

/// Whether some Python value has a method of this name.
pub(super) fn is_method_name(name: &str) -> bool {
    DICT.contains(&name)
        || CHANGING.contains(&name)
        || super::strings::is_method(name)
        || name == "is_integer"
}

fn has_method(value: &Value, name: &str) -> bool {
    match type_of(value) {
        Type::Str => super::strings::is_method(name),
        Type::Dict => {
            DICT.contains(&name) || ["pop", "clear", "update", "setdefault", "popitem"].contains(&name)
        }
        Type::List => {
            let of_dicts = ["update", "setdefault", "popitem"];
            SEQUENCE.contains(&name)
                || name == "copy"
                || (CHANGING.contains(&name) && !of_dicts.contains(&name))
        }
        Type::Tuple => SEQUENCE.contains(&name),
        Type::Float => name == "is_integer",
        _ => false,
    }
}

/// A method that was looked up but not called.
#[derive(Debug)]
struct Method {
    of: Value,
    name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value> {
        let (args, kwargs) = minijinja::value::from_args::<(&[Value], Kwargs)>(args)?;
        call(state, &self.of, &self.name, args, &kwargs)
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {} of {} object>", self.name, type_of(&self.of).name())
    }
}

/// Whether `value` can be called.
pub(super) fn is_callable(value: &Value) -> bool {
    // Jinja2's Undefined has a `__call__`, which only raises.
    value.is_undefined()
        || value.downcast_object_ref::<Method>().is_some()
        || value.downcast_object_ref::<super::globals::Joiner>().is_some()
        || value.as_object().is_some_and(|object| {
            let name = object.type_name();
            name.contains("BoxedFunction") || name.ends_with("::Macro") || name.ends_with("::Loop")
        })
}

fn method_of(value: &Value, name: &str) -> Option<Value> {
    has_method(value, name).then(|| Value::from_object(Method { of: value.clone(), name: name.to_owned() }))
}

/// The attribute `name` where the value has no such item.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value> {
    Ok(method_of(value, name).unwrap_or(Value::UNDEFINED))
}

fn call(state: &State<'_, '_>, of: &Value, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let kind = type_of(of);
    if kind == Type::Undefined {
        return Err(undefined_error());
    }
    if !has_method(of, name) {
        let mut args = args.to_vec();
        if kwargs.args().next().is_some() {
            let kwargs: Result<Kwargs> =
                kwargs.args().map(|name| Ok((name.to_owned(), kwargs.peek::<Value>(name)?))).collect();
            args.push(Value::from(kwargs?));
        }
        return of.call_method(state, name, &args);
    }
    if kind != Type::Str && CHANGING.contains(&name) {
        let kind = kind.name();
        return Err(error(format!(
            "access to attribute '{name}' of '{kind}' object is unsafe: it changes the value"
        )));
    }
    match kind {
        Type::Str => super::strings::call(of, name, args, kwargs),
        Type::Dict => dict(of, name, args, kwargs),
        Type::Float => Ok(Value::from(f64::try_from(of.clone())?.fract() == 0.0)),
        _ => list(of, name, args, kwargs),
    }
}

fn dict(of: &Value, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    if name == "get" {
        let args = Args::bind("get", &["key", "default"], args, kwargs)?;
        let found = entry(of, args.required(0)?)?;
        return Ok(found.unwrap_or_else(|| args.optional(1).cloned().unwrap_or(Value::from(()))));
    }
    Args::bind("a method of a dict", &[], args, kwargs)?;
    let pairs = pairs(of);
    Ok(match name {
        "items" => {
            let items = pairs.into_iter().map(|(key, value)| pair(key, value));
            sequence(SequenceKind::Items, items.collect::<Result<_>>()?)
        }
        "keys" => sequence(SequenceKind::Keys, pairs.into_iter().map(|(key, _)| key).collect()),
        "values" => sequence(SequenceKind::Values, pairs.into_iter().map(|(_, value)| value).collect()),
        _ => of.clone(),
    })
}

fn list(of: &Value, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let items = iter(of)?;
    if name == "copy" {
        return Ok(Value::from(items));
    }
    let args = Args::bind("index", &["value", "start", "stop"], args, kwargs)?;
    let wanted = args.required(0)?;
    if name == "count" {
        let mut count = 0;
        for item in &items {
            count += usize::from(equal(item, wanted)?);
        }
        return Ok(Value::from(count));
    }
    let len = items.len() as i128;
    let bound = |at: usize, default: i128| {
        let bound = args.optional(at).and_then(int).unwrap_or(default);
        super::args::count(if bound < 0 { bound + len } else { bound }.min(len))
    };
    let (start, stop) = (bound(1, 0), bound(2, len));
    for (at, item) in items.iter().enumerate().take(stop).skip(start) {
        if equal(item, wanted)? {
            return Ok(Value::from(at));
        }
    }
    Err(error(format!("{} is not in list", to_str(wanted))))
}
