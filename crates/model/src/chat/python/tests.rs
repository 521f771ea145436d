//! Tests (`is`).

use minijinja::State;
use minijinja::value::{Kwargs, Value};

use super::Function;
use super::budget;
use super::comparison::equal;
use super::operators::holds;
use super::value::{
    Result, SequenceKind, Type, error, int, iter, scanned_bytes, sequence_kind, to_str, type_of,
};

pub(super) const TESTS: &[(&str, Function)] = &[
    ("defined", |_, args, _| is(!args[0].is_undefined())),
    ("undefined", |_, args, _| is(args[0].is_undefined())),
    ("none", |_, args, _| is(args[0].is_none())),
    ("boolean", |_, args, _| is(type_of(&args[0]) == Type::Bool)),
    ("true", |_, args, _| is(type_of(&args[0]) == Type::Bool && args[0].is_true())),
    ("false", |_, args, _| is(type_of(&args[0]) == Type::Bool && !args[0].is_true())),
    ("integer", |_, args, _| is(type_of(&args[0]) == Type::Int)),
    ("float", |_, args, _| is(type_of(&args[0]) == Type::Float)),
    ("number", |_, args, _| is(matches!(type_of(&args[0]), Type::Int | Type::Float | Type::Bool))),
    ("string", |_, args, _| is(type_of(&args[0]) == Type::Str)),
    ("mapping", |_, args, _| is(type_of(&args[0]) == Type::Dict)),
    ("sequence", |_, args, _| is(is_sequence(&args[0]))),
    ("iterable", |_, args, _| is(iter(&args[0]).is_ok())),
    ("callable", |_, args, _| is(super::methods::is_callable(&args[0]))),
    ("sameas", |_, args, _| is(same(&args[0], operand(args)?)?)),
    ("escaped", |_, args, _| is(args[0].is_safe())),
    ("odd", |_, args, _| is(divisor(&args[0], 2)? == 1)),
    ("even", |_, args, _| is(divisor(&args[0], 2)? == 0)),
    ("divisibleby", |_, args, _| {
        let by = int(operand(args)?).filter(|by| *by != 0).ok_or_else(|| error("integer modulo by zero"))?;
        is(divisor(&args[0], by)? == 0)
    }),
    ("lower", |_, args, _| is(super::strings::is_lower(&to_str(&args[0])))),
    ("upper", |_, args, _| is(super::strings::is_upper(&to_str(&args[0])))),
    ("in", |_, args, _| is(holds(&args[0], "in", operand(args)?)?)),
    ("eq", |_, args, _| is(holds(&args[0], "==", operand(args)?)?)),
    ("equalto", |_, args, _| is(holds(&args[0], "==", operand(args)?)?)),
    ("==", |_, args, _| is(holds(&args[0], "==", operand(args)?)?)),
    ("ne", |_, args, _| is(holds(&args[0], "!=", operand(args)?)?)),
    ("!=", |_, args, _| is(holds(&args[0], "!=", operand(args)?)?)),
    ("lt", |_, args, _| is(holds(&args[0], "<", operand(args)?)?)),
    ("lessthan", |_, args, _| is(holds(&args[0], "<", operand(args)?)?)),
    ("<", |_, args, _| is(holds(&args[0], "<", operand(args)?)?)),
    ("le", |_, args, _| is(holds(&args[0], "<=", operand(args)?)?)),
    ("<=", |_, args, _| is(holds(&args[0], "<=", operand(args)?)?)),
    ("gt", |_, args, _| is(holds(&args[0], ">", operand(args)?)?)),
    ("greaterthan", |_, args, _| is(holds(&args[0], ">", operand(args)?)?)),
    (">", |_, args, _| is(holds(&args[0], ">", operand(args)?)?)),
    ("ge", |_, args, _| is(holds(&args[0], ">=", operand(args)?)?)),
    (">=", |_, args, _| is(holds(&args[0], ">=", operand(args)?)?)),
    ("filter", |_, args, _| is(args[0].as_str().is_some_and(super::filters::is_filter))),
    ("test", |_, args, _| is(args[0].as_str().is_some_and(|name| find(name).is_some()))),
];

/// The test of that name.
pub(super) fn find(name: &str) -> Option<Function> {
    TESTS.iter().find(|(known, _)| *known == name).map(|(_, test)| *test)
}

/// Applies the test `name`.
pub(super) fn apply(state: &State<'_, '_>, name: &str, args: &[Value], kwargs: &Kwargs) -> Result<bool> {
    let test = find(name).ok_or_else(|| error(format!("No test named '{name}'.")))?;
    budget::spend(args.iter().map(scanned_bytes).sum())?;
    Ok(test(state, args, kwargs)?.is_true())
}

fn is(flag: bool) -> Result<Value> {
    Ok(Value::from(flag))
}

fn operand(args: &[Value]) -> Result<&Value> {
    args.get(1).ok_or_else(|| error("the test misses its argument"))
}

/// Whether it has a length and takes subscripts.
fn is_sequence(value: &Value) -> bool {
    match type_of(value) {
        Type::Str | Type::List | Type::Tuple | Type::Dict | Type::Undefined => true,
        Type::Iterator => matches!(sequence_kind(value), Some(SequenceKind::Range { .. })),
        _ => false,
    }
}

/// `is` for plain values, which are the same if they are equal and of one type.
fn same(a: &Value, b: &Value) -> Result<bool> {
    let is_object = |value: &Value| value.as_object().is_some();
    if is_object(a) && is_object(b) {
        return Err(error("`sameas` is supported for text, numbers, booleans and none only"));
    }
    Ok(type_of(a) == type_of(b) && equal(a, b)?)
}

fn divisor(value: &Value, by: i128) -> Result<i128> {
    int(value)
        .map(|value| value.checked_rem_euclid(by).unwrap_or(0))
        .ok_or_else(|| error("the test wants an integer"))
}
