//! Typed access to the fields of a JSON object, with errors that name the field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// The fields of an object; `path` leads to it from the body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// The body's own fields.
    pub(crate) fn of_body(object: &'a Map<String, Value>) -> Self {
        Fields { object, path: "" }
    }

    /// The fields of an object that was found at `path`.
    pub(crate) fn at(path: &'a str, value: &'a Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(object) => Ok(Fields { object, path }),
            other => Err(ApiError::bad_value(path, format!("must be an object, got {}", describe(other)))),
        }
    }

    /// Path of a field in error messages.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    /// The value, unless absent or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// All fields but `known`.
    pub(crate) fn others(&self, known: &[&str]) -> Map<String, Value> {
        let others = self.object.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        others.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn wrong(&self, name: &str, wanted: &str, got: &Value) -> ApiError {
        ApiError::bad_value(self.path_of(name), format!("must be {wanted}, got {}", describe(got)))
    }

    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // JSON has no infinities, but a huge number overflows to one as f32; the range check that follows rejects it.
        value.as_f64().map(|number| Some(number as f32)).ok_or_else(|| self.wrong(name, "a number", value))
    }

    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match as_integer(value) {
            Some(integer) if range.contains(&integer) => Ok(Some(integer)),
            _ => Err(self.wrong(name, &describe_range(&range), value)),
        }
    }

    pub(crate) fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong(name, "an array", other)),
        }
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }
}

/// An integer, also when it is written as `5.0`.
pub(crate) fn as_integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// Token ids below `vocab`; `path` is the array's name in error messages.
pub(crate) fn token_ids(path: &str, items: &[Value], vocab: usize) -> Result<Vec<u32>, ApiError> {
    let id = |(at, item): (usize, &Value)| match as_integer(item).and_then(|id| u32::try_from(id).ok()) {
        Some(id) if (id as usize) < vocab => Ok(id),
        _ => {
            let message = format!("must be a token id below {vocab}, got {}", describe(item));
            Err(ApiError::bad_value(format!("{path}[{at}]"), message))
        }
    };
    items.iter().enumerate().map(id).collect()
}

fn describe_range(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => "an integer".into(),
        (low, i64::MAX) => format!("an integer of at least {low}"),
        (low, high) => format!("an integer from {low} to {high}"),
    }
}

/// A short description of a value for error messages. Long texts are not quoted: they may be prompts.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}
