//! Metadata values: their extent in the file, and how they are read.
//!
//! Opening a file only *skips* values ([`skip`]), which proves that each lies inside the file. They are read on demand
//! and borrow from the map, so a vocabulary of 150,000 strings costs nothing until it is used.

use std::fmt;

use super::cursor::Cursor;
use super::error::GgufError;
use super::value_type::ValueType;

/// Arrays inside arrays, counted from the outermost. No known file nests at all.
const DEPTH_MAX: usize = 4;

/// A metadata value, borrowed from the file.
#[derive(Clone)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value as an integer, if it is one of the eight integer types.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value as a single-precision number, if it is `f32` or `f64`.
    pub fn as_float(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Reads a value of type `ty`.
    pub(super) fn read(cursor: &mut Cursor<'a>, ty: ValueType) -> Result<Self, GgufError> {
        let what = "its value";
        Ok(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
            ValueType::Bool => {
                let at = cursor.at();
                match cursor.array(what)? {
                    [0] => Value::Bool(false),
                    [1] => Value::Bool(true),
                    [other] => return Err(cursor.fault(at, format!("a bool must be 0 or 1, not {other}"))),
                }
            }
            ValueType::Str => Value::Str(cursor.str(what)?),
            ValueType::Array => Value::Array(Array::read(cursor)?),
        })
    }
}

impl fmt::Debug for Value<'_> {
    /// Scalars and strings in full; arrays as length and type, since one may be a whole vocabulary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => v.fmt(f),
            Value::Str(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
            Value::Array(v) => write!(f, "[{}; {}]", v.element, v.len),
            other => match other.as_integer() {
                Some(v) => v.fmt(f),
                None => f.write_str("?"),
            },
        }
    }
}

/// An array value, read element by element from the file.
#[derive(Clone)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    first: Cursor<'a>,
}

impl<'a> Array<'a> {
    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order. An error, such as a string that is not UTF-8, ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, GgufError>> + use<'a> {
        let (mut cursor, element, mut left) = (self.first.clone(), self.element, self.len);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let value = Value::read(&mut cursor, element);
            if value.is_err() {
                left = 0;
            }
            Some(value)
        })
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        let (element, len) = array_head(cursor)?;
        let first = cursor.clone();
        skip_elements(cursor, element, len, 1)?;
        // `skip_elements` proved that `len` elements of at least a byte each are in memory.
        Ok(Array { element, len: len as usize, first })
    }
}

/// Reads the number of a type.
pub(super) fn read_type(cursor: &mut Cursor<'_>) -> Result<ValueType, GgufError> {
    let at = cursor.at();
    let id = cursor.u32("its value type")?;
    ValueType::from_id(id).ok_or_else(|| cursor.fault(at, format!("value type {id} does not exist")))
}

fn array_head(cursor: &mut Cursor<'_>) -> Result<(ValueType, u64), GgufError> {
    let element = read_type(cursor)?;
    let len = cursor.u64("the array's length")?;
    cursor.expect_room(len, element.least_size(), &format!("elements of type {element}"))?;
    Ok((element, len))
}

fn skip_elements(
    cursor: &mut Cursor<'_>,
    element: ValueType,
    len: u64,
    depth: usize,
) -> Result<(), GgufError> {
    match element.fixed_size() {
        // No overflow: `array_head` checked this very product against the file.
        Some(size) => cursor.take(len * size, "the array").map(|_| ()),
        None => (0..len).try_for_each(|_| skip(cursor, element, depth)),
    }
}

/// Advances past a value; `depth` is the number of enclosing arrays.
pub(super) fn skip(cursor: &mut Cursor<'_>, ty: ValueType, depth: usize) -> Result<(), GgufError> {
    match ty {
        ValueType::Str => cursor.blob("its string").map(|_| ()),
        ValueType::Array if depth == DEPTH_MAX => {
            Err(cursor.fault(cursor.at(), format!("arrays are nested deeper than {DEPTH_MAX}")))
        }
        ValueType::Array => {
            let (element, len) = array_head(cursor)?;
            skip_elements(cursor, element, len, depth + 1)
        }
        fixed => cursor.take(fixed.least_size(), "its value").map(|_| ()),
    }
}
