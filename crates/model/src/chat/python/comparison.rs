//! Equality, order, membership and keys of dicts, as Python has them.
//!
//! Lists may hold each other many times over, so what is compared is counted ([`budget`]).

use std::cmp::Ordering;

use minijinja::value::Value;

use super::budget;
use super::value::{
    CONTAINER_BYTES, Result, Type, error, float, int, iter, pairs, scanned_bytes, type_of, undefined_error,
};

/// `a == b`. Containers of different types differ.
pub(super) fn equal(a: &Value, b: &Value) -> Result<bool> {
    let (left, right) = (type_of(a), type_of(b));
    let is_container =
        |kind| matches!(kind, Type::List | Type::Tuple | Type::Dict | Type::Iterator | Type::Object);
    if !is_container(left) || !is_container(right) {
        budget::spend(compared_bytes(a, b))?;
        return Ok(a == b);
    }
    if left != right {
        return Ok(false);
    }
    match left {
        // Namespaces and so on are what they are; minijinja compares what they hold.
        Type::Object => Ok(minijinja::tests::is_sameas(a, b)),
        Type::Dict => {
            budget::spend(CONTAINER_BYTES)?;
            let (a, b) = (pairs(a), b.as_object().filter(|b| b.enumerator_len() == a.len()));
            let Some(b) = b else { return Ok(false) };
            for (key, item) in a {
                let same = b.get_value(&key).map(|other| equal(&item, &other)).transpose()?;
                if same != Some(true) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => {
            budget::spend(CONTAINER_BYTES)?;
            if value_len(a) != value_len(b) {
                return Ok(false);
            }
            for (a, b) in iter(a)?.iter().zip(&iter(b)?) {
                if !equal(a, b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// What comparing two scalars costs.
fn compared_bytes(a: &Value, b: &Value) -> usize {
    4 + scanned_bytes(a).min(scanned_bytes(b))
}

fn value_len(value: &Value) -> usize {
    value.len().unwrap_or(0)
}

/// Whether `value` is one of `items`.
pub(super) fn is_among(items: &[Value], value: &Value) -> Result<bool> {
    for item in items {
        if equal(item, value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The entry of a dict: keys are what Python can hash.
pub(super) fn entry(map: &Value, key: &Value) -> Result<Option<Value>> {
    check_key(key)?;
    Ok(map.as_object().and_then(|map| map.get_value(key)))
}

/// An error for what is no key of a dict.
pub(super) fn check_key(key: &Value) -> Result<()> {
    match type_of(key) {
        name @ (Type::List | Type::Dict) => Err(error(format!("unhashable type: '{}'", name.name()))),
        Type::Tuple => iter(key)?.iter().try_for_each(check_key),
        _ => Ok(()),
    }
}

/// The order of two values; an error for types that Python does not order.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>> {
    let (left, right) = (type_of(a), type_of(b));
    let incomparable = || {
        let (a, b) = (left.name(), right.name());
        error(format!("'<' not supported between instances of '{a}' and '{b}'"))
    };
    if let (Some(a), Some(b)) = (int(a), int(b)) {
        return Ok(Some(a.cmp(&b)));
    }
    if let (Some(a), Some(b)) = (float(a), float(b)) {
        return Ok(a.partial_cmp(&b));
    }
    match (left, right) {
        (Type::Undefined, _) | (_, Type::Undefined) => Err(undefined_error()),
        (Type::Str, Type::Str) => {
            budget::spend(compared_bytes(a, b))?;
            Ok(Some(a.as_str().cmp(&b.as_str())))
        }
        (Type::List, Type::List) | (Type::Tuple, Type::Tuple) => {
            let (a, b) = (iter(a)?, iter(b)?);
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b)? {
                    return compare(a, b);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => Err(incomparable()),
    }
}

/// `value in container`.
pub(super) fn contains(value: &Value, container: &Value) -> Result<bool> {
    match type_of(container) {
        Type::Undefined => Ok(false),
        Type::Str => match value.as_str() {
            Some(text) => {
                budget::spend(scanned_bytes(container))?;
                Ok(container.as_str().is_some_and(|container| container.contains(text)))
            }
            None => {
                let name = type_of(value).name();
                Err(error(format!("'in <string>' requires string as left operand, not {name}")))
            }
        },
        Type::Dict => Ok(entry(container, value)?.is_some()),
        Type::List | Type::Tuple | Type::Iterator => is_among(&iter(container)?, value),
        other => Err(error(format!("argument of type '{}' is not iterable", other.name()))),
    }
}
