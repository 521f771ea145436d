//! Typed access to metadata. An absent key is `None`; a key of another type than requested is an error that names both,
//! because a default in its place would load the model wrongly.

use super::Gguf;
use super::error::GgufError;
use super::part::Entry;
use super::value::{Array, Value};

impl Gguf {
    /// All keys in the file's order, with their values. Strings that are not UTF-8 are errors.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Result<Value<'_>, GgufError>)> {
        self.first().entries.iter().map(|entry| (entry.key.as_str(), self.first().value(entry)))
    }

    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Result<Option<Value<'_>>, GgufError> {
        self.first().entry(key).map(|entry| self.first().value(entry)).transpose()
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.scalar(key, "string", |value| match value {
            Value::Str(v) => Some(*v),
            _ => None,
        })
    }

    /// A bool.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.scalar(key, "bool", as_bool)
    }

    /// A number stored as `f32` or `f64`.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.scalar(key, "f32", Value::as_float)
    }

    /// An integer of any width that fits `u32`.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "u32")
    }

    /// An integer of any width that fits `u64`.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "u64")
    }

    /// An integer of any width that fits `usize`.
    pub fn get_usize(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.integer(key, "usize")
    }

    /// An integer of any width that fits `i32`.
    pub fn get_i32(&self, key: &str) -> Result<Option<i32>, GgufError> {
        self.integer(key, "i32")
    }

    /// An array, whatever its elements.
    pub fn get_array(&self, key: &str) -> Result<Option<Array<'_>>, GgufError> {
        self.scalar(key, "array", |value| match value {
            Value::Array(v) => Some(v.clone()),
            _ => None,
        })
    }

    /// An array of strings, borrowed from the file.
    pub fn get_str_array(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        self.elements(key, "array of strings", |value| match value {
            Value::Str(v) => Some(v),
            _ => None,
        })
    }

    /// An array of `f32` or `f64`.
    pub fn get_f32_array(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.elements(key, "array of f32", |value| value.as_float())
    }

    /// An array of bools.
    pub fn get_bool_array(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.elements(key, "array of bool", |value| as_bool(&value))
    }

    /// An array of integers of any width, each of which fits `i32`.
    pub fn get_i32_array(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.integers(key, "array of i32")
    }

    /// An array of integers of any width, each of which fits `u32`.
    pub fn get_u32_array(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.integers(key, "array of u32")
    }

    fn scalar<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(entry) = self.first().entry(key) else { return Ok(None) };
        let value = self.first().value(entry)?;
        read(&value).map(Some).ok_or_else(|| self.wrong_type(entry, wanted))
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, wanted: &'static str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.scalar(key, wanted, Value::as_integer)? else { return Ok(None) };
        T::try_from(value).map(Some).map_err(|_| self.out_of_range(key, wanted, value))
    }

    fn elements<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(entry) = self.first().entry(key) else { return Ok(None) };
        let Value::Array(array) = self.first().value(entry)? else {
            return Err(self.wrong_type(entry, wanted));
        };
        // The file holds all elements, each of at least a byte; none becomes more than 16 times its size.
        let mut out = Vec::with_capacity(array.len());
        for value in array.iter() {
            let value = value?;
            let found = value.value_type();
            match read(value) {
                Some(element) => out.push(element),
                None => {
                    let (path, key) = (self.path().to_path_buf(), format!("{key}[{}]", out.len()));
                    return Err(GgufError::WrongType { path, key, wanted, found });
                }
            }
        }
        Ok(Some(out))
    }

    fn integers<T: TryFrom<i128>>(
        &self,
        key: &str,
        wanted: &'static str,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(values) = self.elements(key, wanted, |value| {
            value.as_integer().map(|v| T::try_from(v).map_err(|_| self.out_of_range(key, wanted, v)))
        })?
        else {
            return Ok(None);
        };
        values.into_iter().collect::<Result<_, _>>().map(Some)
    }

    fn wrong_type(&self, entry: &Entry, wanted: &'static str) -> GgufError {
        let (path, key) = (self.path().to_path_buf(), entry.key.clone());
        GgufError::WrongType { path, key, wanted, found: entry.ty }
    }

    fn out_of_range(&self, key: &str, wanted: &'static str, value: i128) -> GgufError {
        let (path, key) = (self.path().to_path_buf(), key.to_owned());
        GgufError::OutOfRange { path, key, wanted, value: value.to_string() }
    }
}

fn as_bool(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(v) => Some(*v),
        _ => None,
    }
}
