//! Global functions: `range`, `dict`, `namespace`, `cycler`, `joiner`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::State;
use minijinja::value::{Kwargs, Object, ObjectRepr, Value};

use super::Function;
use super::args::Args;
use super::budget;
use super::comparison::check_key;
use super::value::{
    CONTAINER_BYTES, Result, SequenceKind, Type, check_kept, check_nesting, error, int, iter, pairs,
    sequence, type_of,
};

/// Maximum length of a range, as in Jinja2's sandbox.
const RANGE_MAX: u128 = 100_000;

pub(super) const FUNCTIONS: &[(&str, Function)] =
    &[("range", range), ("dict", dict), ("namespace", namespace), ("cycler", cycler), ("joiner", joiner)];

fn range(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    let bounds: Option<Vec<i128>> = args.iter().map(int).collect();
    let bounds = bounds.ok_or_else(|| error("range() wants integers"))?;
    let (start, stop, step) = match bounds[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        [_, _, _] => return Err(error("range() arg 3 must not be zero")),
        _ => return Err(error("range() wants one to three arguments")),
    };
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let len = if span <= 0 { 0 } else { (span.unsigned_abs() - 1) / step.unsigned_abs() + 1 };
    if len > RANGE_MAX {
        return Err(error(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({RANGE_MAX})."
        )));
    }
    let len = usize::try_from(len).unwrap_or_default();
    Ok(sequence(SequenceKind::Range { start, stop, step, len }, Vec::new()))
}

fn dict(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let mut entries = Vec::new();
    match args {
        [] => {}
        [map] if type_of(map) == Type::Dict => entries = pairs(map),
        [list] => {
            for pair in iter(list)? {
                match iter(&pair)?.as_slice() {
                    [key, value] => entries.push((key.clone(), value.clone())),
                    other => {
                        let found = other.len();
                        return Err(error(format!("dict() wants pairs, not a sequence of length {found}")));
                    }
                }
            }
        }
        _ => return Err(error("dict expected at most 1 argument")),
    }
    for name in kwargs.args() {
        entries.push((Value::from(name), kwargs.peek::<Value>(name)?));
    }
    dict_of(entries)
}

/// A dict of these entries.
pub(super) fn dict_of(entries: Vec<(Value, Value)>) -> Result<Value> {
    budget::spend(entries.len() * 2 * CONTAINER_BYTES)?;
    for (key, value) in &entries {
        check_key(key)?;
        check_nesting(key)?;
        check_nesting(value)?;
    }
    Ok(Value::from_iter(entries))
}

/// minijinja's namespace, with the arguments of `dict`.
fn namespace(state: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let entries = dict(state, args, kwargs)?;
    check_kept(&entries)?;
    minijinja::functions::namespace(Some(entries))
}

#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let current = || self.items[self.at.load(Ordering::Relaxed) % self.items.len()].clone();
        match key.as_str()? {
            "current" => Some(current()),
            "pos" => Some(Value::from(self.at.load(Ordering::Relaxed) % self.items.len())),
            "items" => Some(super::value::tuple(self.items.clone())),
            _ => None,
        }
    }

    fn call_method(self: &Arc<Self>, _: &State<'_, '_>, method: &str, _: &[Value]) -> Result<Value> {
        match method {
            "next" => Ok(self.items[self.at.fetch_add(1, Ordering::Relaxed) % self.items.len()].clone()),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(error(format!("'Cycler' object has no attribute '{method}'"))),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Cycler object>")
    }
}

fn cycler(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    if args.is_empty() {
        return Err(error("at least one item has to be provided"));
    }
    args.iter().try_for_each(check_kept)?;
    Ok(Value::from_object(Cycler { items: args.to_vec(), at: AtomicUsize::new(0) }))
}

/// Nothing at its first call, the separator after that.
#[derive(Debug)]
pub(super) struct Joiner {
    separator: Value,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &State<'_, '_>, _: &[Value]) -> Result<Value> {
        let first = !self.used.swap(true, Ordering::Relaxed);
        Ok(if first { Value::from("") } else { self.separator.clone() })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Joiner object>")
    }
}

fn joiner(_: &State<'_, '_>, args: &[Value], kwargs: &Kwargs) -> Result<Value> {
    let args = Args::bind("joiner", &["sep"], args, kwargs)?;
    let separator = args.optional(0).cloned().unwrap_or_else(|| Value::from(", "));
    check_kept(&separator)?;
    Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
}
