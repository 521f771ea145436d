//! Arguments of a call, bound to the names of a signature.

use minijinja::value::{Kwargs, Value};

use super::value::{Result, error, int, type_of};

/// The arguments in the order of the signature.
pub(super) struct Args {
    function: &'static str,
    names: &'static [&'static str],
    values: Vec<Option<Value>>,
}

impl Args {
    pub(super) fn bind(
        function: &'static str,
        names: &'static [&'static str],
        args: &[Value],
        kwargs: &Kwargs,
    ) -> Result<Self> {
        if args.len() > names.len() {
            let (most, found) = (names.len(), args.len());
            return Err(error(format!("{function}() takes at most {most} arguments ({found} given)")));
        }
        let mut values: Vec<Option<Value>> = args.iter().cloned().map(Some).collect();
        values.resize(names.len(), None);
        for name in kwargs.args() {
            let Some(at) = names.iter().position(|known| *known == name) else {
                return Err(error(format!("{function}() got an unexpected keyword argument '{name}'")));
            };
            if values[at].is_some() {
                return Err(error(format!("{function}() got multiple values for argument '{name}'")));
            }
            values[at] = Some(kwargs.peek::<Value>(name)?);
        }
        Ok(Args { function, names, values })
    }

    pub(super) fn optional(&self, at: usize) -> Option<&Value> {
        self.values.get(at).and_then(Option::as_ref)
    }

    /// An argument that is neither missing nor `none`.
    pub(super) fn given(&self, at: usize) -> Option<&Value> {
        self.optional(at).filter(|value| !value.is_none())
    }

    pub(super) fn required(&self, at: usize) -> Result<&Value> {
        let (function, name) = (self.function, self.names[at]);
        self.optional(at).ok_or_else(|| error(format!("{function}() misses the argument '{name}'")))
    }

    pub(super) fn string(&self, at: usize) -> Result<&str> {
        let value = self.required(at)?;
        value.as_str().ok_or_else(|| self.wrong(at, value, "a string"))
    }

    pub(super) fn string_or<'b>(&'b self, at: usize, default: &'b str) -> Result<&'b str> {
        if self.optional(at).is_some() { self.string(at) } else { Ok(default) }
    }

    pub(super) fn int_or(&self, at: usize, default: i128) -> Result<i128> {
        match self.optional(at) {
            None => Ok(default),
            Some(value) => int(value).ok_or_else(|| self.wrong(at, value, "an integer")),
        }
    }

    pub(super) fn flag_or(&self, at: usize, default: bool) -> bool {
        self.optional(at).map_or(default, Value::is_true)
    }

    fn wrong(&self, at: usize, value: &Value, wanted: &str) -> minijinja::Error {
        let (function, name, found) = (self.function, self.names[at], type_of(value).name());
        error(format!("{function}() wants {wanted} for '{name}', not '{found}'"))
    }
}

/// A count or width; negative ones are 0.
pub(super) fn count(number: i128) -> usize {
    usize::try_from(number.max(0)).unwrap_or(usize::MAX)
}
