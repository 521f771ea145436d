//! Operators, lookups and iteration.

use std::cmp::Ordering;

use minijinja::State;
use minijinja::value::{Kwargs, Value};

use super::Function;
use super::budget;
use super::comparison::{compare, contains, equal};
use super::value::{
    Result, Type, check_kept, check_nesting, error, float, from_int, int, item, iter, slice, string_like,
    to_str, tuple, type_of, undefined_error,
};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("add", |_, args, _| add_all(args)),
    ("sub", |_, args, _| fold(args, |a, b| arithmetic("-", a, b))),
    ("mul", |_, args, _| fold(args, mul)),
    ("div", |_, args, _| fold(args, |a, b| arithmetic("/", a, b))),
    ("floordiv", |_, args, _| fold(args, |a, b| arithmetic("//", a, b))),
    ("mod", |_, args, _| fold(args, modulo)),
    ("pow", |_, args, _| fold(args, |a, b| arithmetic("**", a, b))),
    ("concat", |_, args, _| Ok(Value::from(super::strings::joined(args, "")?))),
    ("neg", |_, args, _| sign(args, -1)),
    ("pos", |_, args, _| sign(args, 1)),
    ("list", |_, args, _| nested(args).map(Value::from)),
    ("tuple", |_, args, _| nested(args).map(tuple)),
    ("dict", |_, args, _| {
        super::globals::dict_of(args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }),
    ("keep", |_, args, _| check_kept(&args[0]).map(|()| args[0].clone())),
    ("flat", |_, args, _| check_nesting(&args[0]).map(|()| args[0].clone())),
    ("text", |_, args, _| text(&args[0])),
    ("in", |_, args, _| Ok(Value::from(contains(&args[0], &args[1])?))),
    ("compare", chain),
    ("item", |_, args, _| index(&args[0], &args[1])),
    ("slice", |_, args, _| slice(&args[0], [&args[1], &args[2], &args[3]])),
    ("iter", |_, args, _| iterate(&args[0])),
];

/// Items of a list or tuple.
fn nested(items: &[Value]) -> Result<Vec<Value>> {
    items.iter().try_for_each(check_nesting)?;
    Ok(items.to_vec())
}

/// Counts the text of so many bytes that follows a tag, and prints nothing.
fn text(bytes: &Value) -> Result<Value> {
    budget::spend(bytes.as_usize().unwrap_or_default())?;
    Ok(Value::from(""))
}

fn fold(args: &[Value], op: fn(&Value, &Value) -> Result<Value>) -> Result<Value> {
    let mut left = args[0].clone();
    for (i, right) in args[1..].iter().enumerate() {
        if i > 0 {
            // The last one is counted as the result.
            budget::spend(super::built_bytes(&left, &[]))?;
        }
        left = op(&left, right)?;
    }
    Ok(left)
}

/// A sum of texts is put together at once: templates add several to one that grows with every message.
fn add_all(args: &[Value]) -> Result<Value> {
    match args.iter().all(|arg| arg.as_str().is_some() && !arg.is_safe()) {
        true => Ok(Value::from(super::strings::joined(args, "")?)),
        false => fold(args, add),
    }
}

fn unsupported(op: &str, a: &Value, b: &Value) -> minijinja::Error {
    if a.is_undefined() || b.is_undefined() {
        return undefined_error();
    }
    let (a, b) = (type_of(a).name(), type_of(b).name());
    error(format!("unsupported operand type(s) for {op}: '{a}' and '{b}'"))
}

/// `Markup` escapes the plain strings that it is joined with.
pub(super) fn add(a: &Value, b: &Value) -> Result<Value> {
    match (type_of(a), type_of(b)) {
        (Type::Str, Type::Str) => {
            let safe = a.is_safe() || b.is_safe();
            let escaped = |value: &Value| match safe && !value.is_safe() {
                true => super::filters_text::escape_html(&to_str(value)),
                false => Ok(to_str(value)),
            };
            let (left, right) = (escaped(a)?, escaped(b)?);
            budget::check(left.len() + right.len())?;
            let text = left + &right;
            Ok(if safe { Value::from_safe_string(text) } else { Value::from(text) })
        }
        (Type::List, Type::List) => Ok(Value::from(joined_lists(a, b)?)),
        (Type::Tuple, Type::Tuple) => Ok(tuple(joined_lists(a, b)?)),
        _ => arithmetic("+", a, b),
    }
}

fn joined_lists(a: &Value, b: &Value) -> Result<Vec<Value>> {
    let (mut items, more) = (iter(a)?, iter(b)?);
    budget::check((items.len() + more.len()) * size_of::<Value>())?;
    items.extend(more);
    Ok(items)
}

fn mul(a: &Value, b: &Value) -> Result<Value> {
    let (value, times) = match (type_of(a), type_of(b)) {
        (Type::Str | Type::List | Type::Tuple, _) => (a, int(b)),
        (_, Type::Str | Type::List | Type::Tuple) => (b, int(a)),
        _ => return arithmetic("*", a, b),
    };
    let times = super::args::count(times.ok_or_else(|| unsupported("*", a, b))?);
    let size = value.as_str().map_or_else(|| value.len().unwrap_or(0) * size_of::<Value>(), str::len);
    budget::check(size.saturating_mul(times))?;
    Ok(match type_of(value) {
        Type::Str => string_like(value, value.as_str().unwrap_or_default().repeat(times)),
        Type::Tuple => tuple(repeated(value, times)?),
        _ => Value::from(repeated(value, times)?),
    })
}

fn repeated(value: &Value, times: usize) -> Result<Vec<Value>> {
    let items = iter(value)?;
    Ok(std::iter::repeat_n(items, times).flatten().collect())
}

fn modulo(a: &Value, b: &Value) -> Result<Value> {
    match a.as_str() {
        Some(format) => Ok(string_like(a, super::percent::format(format, b)?)),
        None => arithmetic("%", a, b),
    }
}

fn arithmetic(op: &str, a: &Value, b: &Value) -> Result<Value> {
    if op != "/"
        && let (Some(x), Some(y)) = (int(a), int(b))
    {
        let by_zero = || error("integer modulo by zero");
        // The rest has the divisor's sign, which rounds the quotient down.
        let rounds_down = |rest: i128| rest != 0 && (rest < 0) != (y < 0);
        let floor = || {
            let rest = x.checked_rem(y)?;
            x.checked_div(y)?.checked_sub(i128::from(rounds_down(rest)))
        };
        let modulo = || {
            let rest = x.checked_rem(y).unwrap_or(0);
            if rounds_down(rest) { rest.checked_add(y) } else { Some(rest) }
        };
        let result = match op {
            "+" => x.checked_add(y),
            "-" => x.checked_sub(y),
            "*" => x.checked_mul(y),
            "//" | "%" if y == 0 => return Err(by_zero()),
            "//" => floor(),
            "%" => modulo(),
            _ if y < 0 => return Ok(Value::from((x as f64).powf(y as f64))),
            _ => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        };
        return result.map(from_int).ok_or_else(|| error(format!("the result of {op} is too large")));
    }
    let (Some(x), Some(y)) = (float(a), float(b)) else { return Err(unsupported(op, a, b)) };
    if matches!(op, "/" | "//" | "%") && y == 0.0 {
        return Err(error("division by zero"));
    }
    Ok(Value::from(match op {
        "+" => x + y,
        "-" => x - y,
        "*" => x * y,
        "/" => x / y,
        "//" => (x / y).floor(),
        "%" => {
            let rest = x % y;
            if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
        }
        _ => x.powf(y),
    }))
}

fn sign(args: &[Value], sign: i128) -> Result<Value> {
    match (int(&args[0]), float(&args[0])) {
        (Some(int), _) => {
            let negated = int.checked_mul(sign).map(from_int);
            negated.ok_or_else(|| error("the result of the unary operator is too large"))
        }
        (None, Some(float)) => Ok(Value::from(float * sign as f64)),
        _ if args[0].is_undefined() => Err(undefined_error()),
        _ => Err(error(format!("bad operand type for unary operator: '{}'", type_of(&args[0]).name()))),
    }
}

/// `a < b <= c`: values and operators in turn.
fn chain(_: &State<'_, '_>, args: &[Value], _: &Kwargs) -> Result<Value> {
    for step in args.windows(3).step_by(2) {
        if !holds(&step[0], step[1].as_str().unwrap_or_default(), &step[2])? {
            return Ok(Value::from(false));
        }
    }
    Ok(Value::from(true))
}

/// Whether `a op b`.
pub(super) fn holds(a: &Value, op: &str, b: &Value) -> Result<bool> {
    let order = match op {
        "==" => return equal(a, b),
        "!=" => return Ok(!equal(a, b)?),
        "in" => return contains(a, b),
        "not in" => return Ok(!contains(a, b)?),
        _ => compare(a, b)?,
    };
    Ok(match op {
        "<" => order == Some(Ordering::Less),
        "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        ">" => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

/// `value[key]`: an item, else an attribute of that name.
fn index(value: &Value, key: &Value) -> Result<Value> {
    let found = item(value, key)?;
    match key.as_str() {
        Some(name) if found.is_undefined() => super::methods::attribute(value, name),
        _ => Ok(found),
    }
}

fn iterate(value: &Value) -> Result<Value> {
    match type_of(value) {
        Type::List | Type::Tuple | Type::Iterator => Ok(value.clone()),
        _ => iter(value).map(Value::from),
    }
}
