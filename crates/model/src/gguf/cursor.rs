//! A bounds-checked reader over a file's bytes. Its errors name the offset and what was being read.

use std::fmt;
use std::path::Path;

use super::error::GgufError;

/// What is being read, for error messages. Formatted only on an error.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Header,
    KeyNumber(u64),
    Key(&'a str),
    TensorNumber(u64),
    Tensor(&'a str),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Header => f.write_str("header"),
            Subject::KeyNumber(n) => write!(f, "metadata key number {n}"),
            Subject::Key(key) => write!(f, "key `{key}`"),
            Subject::TensorNumber(n) => write!(f, "tensor number {n}"),
            Subject::Tensor(name) => write!(f, "tensor `{name}`"),
        }
    }
}

/// A position in a file.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    pub(super) subject: Subject<'a>,
}

impl<'a> Cursor<'a> {
    /// Starts at byte `at` of a file; reads past `bytes` are errors.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], at: usize, subject: Subject<'a>) -> Self {
        Cursor { path, bytes, at: at.min(bytes.len()), subject }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about the subject, at byte `at`.
    pub(super) fn fault(&self, at: usize, problem: impl Into<String>) -> GgufError {
        GgufError::Malformed {
            path: self.path.to_path_buf(),
            subject: self.subject.to_string(),
            at: at as u64,
            problem: problem.into(),
        }
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], GgufError> {
        match usize::try_from(len).ok().filter(|&len| len <= self.remaining()) {
            Some(len) => {
                let taken = &self.bytes[self.at..self.at + len];
                self.at += len;
                Ok(taken)
            }
            None => {
                let rest = self.remaining();
                Err(self.fault(self.at, format!("{what} needs {len} bytes but the file ends after {rest}")))
            }
        }
    }

    /// Checks that `count` items of at least `least` bytes each fit into the remaining bytes.
    pub(super) fn expect_room(&self, count: u64, least: u64, what: &str) -> Result<(), GgufError> {
        match count.checked_mul(least) {
            Some(need) if need <= self.remaining() as u64 => Ok(()),
            _ => {
                let rest = self.remaining();
                Err(self
                    .fault(self.at, format!("{count} {what} cannot fit into the {rest} bytes that follow")))
            }
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A string's bytes: a 64-bit length, then that many bytes.
    pub(super) fn blob(&mut self, what: &str) -> Result<&'a [u8], GgufError> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    /// A string that must be UTF-8.
    pub(super) fn str(&mut self, what: &str) -> Result<&'a str, GgufError> {
        let bytes = self.blob(what)?;
        std::str::from_utf8(bytes).map_err(|e| {
            let at = self.at - bytes.len() + e.valid_up_to();
            self.fault(at, format!("{what} is not valid UTF-8"))
        })
    }
}
