//! Python's semantics for templates on minijinja.
//!
//! Templates of models are written for Jinja2, whose expressions are Python's: `str` of a list, methods of strings
//! and dicts, `%` formatting, tuples. minijinja has its own rules for these. What this module is for: [`lower`]
//! rewrites such expressions to calls of functions, and [`install`] registers the functions and replaces filters,
//! tests and globals. What it is not for: statements, scopes and white space, which are minijinja's.
//!
//! The invariant: what Jinja2 renders, this renders to the same bytes, and what is not supported is an error: the
//! filters `filesizeformat`, `pprint`, `random`, `striptags`, `urlize`, `wordwrap` and `xmlattr`, the function `lipsum`,
//! `varargs` and `kwargs` of macros, `sameas` of lists and dicts, integers of more than 128 bits, `\N{...}` in strings.

mod args;
mod comparison;
mod filters;
mod filters_text;
mod globals;
mod lexer;
mod lower;
mod methods;
mod operators;
mod parser;
mod percent;
mod spec;
mod strings;
mod tests;
mod value;

use minijinja::value::{Kwargs, Rest, Value, from_args};
use minijinja::{Environment, Error, Output, State};

use super::budget;
pub(super) use lower::lower;
use value::error;
pub(super) use value::float_repr;

/// Start of the names of the functions that [`lower`] calls.
const PREFIX: &str = "__python_";

/// A function, filter or test: positional and keyword arguments to a value.
type Function = fn(&State<'_, '_>, &[Value], &Kwargs) -> Result<Value, Error>;

/// Registers everything that lowered templates use.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.set_formatter(format);
    for (name, function) in operators::FUNCTIONS.iter().chain(methods::FUNCTIONS) {
        environment.add_function(format!("{PREFIX}{name}"), wrap(*function));
    }
    for (name, function) in globals::FUNCTIONS {
        environment.add_function(*name, wrap(*function));
    }
    for (name, function) in filters::FILTERS.iter().chain(filters_text::FILTERS) {
        environment.add_filter(*name, wrap(*function));
    }
    for (name, function) in tests::TESTS {
        environment.add_test(*name, wrap(*function));
    }
}

fn wrap(
    function: Function,
) -> impl Fn(&State<'_, '_>, Rest<Value>) -> Result<Value, Error> + Send + Sync + 'static {
    move |state, args| {
        let (args, kwargs) = from_args::<(&[Value], Kwargs)>(&args)?;
        budget::spend(args.iter().map(value::scanned_bytes).sum())?;
        let result = function(state, args, &kwargs)?;
        budget::spend(built_bytes(&result, args))?;
        // A text that was cut because nothing is left.
        if budget::is_used_up() { Err(budget::used_up()) } else { Ok(result) }
    }
}

/// The size of a function's result, without what it shares with `args` or holds of other values.
fn built_bytes(result: &Value, args: &[Value]) -> usize {
    match (result.as_str(), value::type_of(result)) {
        (Some(text), _) if args.iter().filter_map(Value::as_str).any(|arg| std::ptr::eq(arg, text)) => 0,
        (Some(text), _) => text.len(),
        (None, value::Type::List | value::Type::Tuple | value::Type::Dict | value::Type::Iterator) => {
            value::CONTAINER_BYTES + value::held(result) * size_of::<Value>()
        }
        _ => 0,
    }
}

/// Prints a value as `str` does.
fn format(out: &mut Output<'_>, _state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let failed = |error: std::fmt::Error| Error::new(minijinja::ErrorKind::WriteFailure, error.to_string());
    match value.as_str() {
        Some(text) => {
            budget::spend(text.len())?;
            out.write_str(text).map_err(failed)
        }
        None => {
            let text = value::to_str(value);
            budget::spend(text.len())?;
            out.write_str(&text).map_err(failed)
        }
    }
}

/// The items of a value that is an array in JSON.
pub(super) fn json_items(value: &Value) -> Option<Vec<Value>> {
    match value::type_of(value) {
        value::Type::List | value::Type::Tuple => value::iter(value).ok(),
        _ => None,
    }
}

/// The entries of a value that is an object in JSON.
pub(super) fn json_entries(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    match value::type_of(value) {
        value::Type::Dict => Ok(value::pairs(value)),
        other => Err(error(format!("Object of type {} is not JSON serializable", other.name()))),
    }
}
