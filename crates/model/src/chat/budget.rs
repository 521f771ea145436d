//! The memory and the work of one render.
//!
//! minijinja counts instructions, not bytes: a loop that doubles a text needs thirty of them for a gibibyte. What
//! this is for: everything that builds, prints or scans a value says beforehand or afterwards how much, and is
//! refused when the render has used up its budget. What it is not for: the instructions themselves, which are fuel.
//!
//! The invariant: the bytes that a render has built, kept or dropped, are at most its budget, but for a constant
//! factor. What has been used up stays used up, so a writer that cannot return an error just stops, and whoever called
//! it fails.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};
use serde_json::Value;

/// Bytes of a render with an empty context, and for each byte of the context: templates that append every message to
/// a text copy it once per turn.
const BYTES_MIN: u64 = 16 << 20;
const BYTES_PER_BYTE: u64 = 1024;
/// Maximum bytes of a render.
const BYTES_MAX: u64 = 512 << 20;
/// Bytes that one node of the context counts for, beside its text.
const NODE_BYTES: u64 = 16;

thread_local! {
    /// What the render on this thread has left, and its whole. Outside of a render nothing is counted.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    static WHOLE: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// The budget of a request with this context.
pub(super) fn of(context: &Value) -> u64 {
    BYTES_MIN.saturating_add(size_of(context).saturating_mul(BYTES_PER_BYTE)).min(BYTES_MAX)
}

/// Runs `render` with a budget of `whole` bytes.
pub(super) fn with<T>(whole: u64, render: impl FnOnce() -> T) -> T {
    let _restored = Restored(LEFT.get(), WHOLE.get());
    LEFT.set(whole);
    WHOLE.set(whole);
    render()
}

/// Puts the budget of an outer render back, also if the inner one panics.
struct Restored(u64, u64);

impl Drop for Restored {
    fn drop(&mut self) {
        LEFT.set(self.0);
        WHOLE.set(self.1);
    }
}

fn size_of(value: &Value) -> u64 {
    NODE_BYTES
        + match value {
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(size_of).sum(),
            Value::Object(map) => map.iter().map(|(key, item)| key.len() as u64 + size_of(item)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// Takes `bytes` off the budget; all that is left if it has fewer.
pub(super) fn spend(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get();
    if left == u64::MAX {
        return Ok(());
    }
    LEFT.set(left.saturating_sub(bytes as u64));
    if left < bytes as u64 { Err(used_up()) } else { Ok(()) }
}

/// Whether `bytes` are left. What is built after this is spent by who builds it.
pub(super) fn check(bytes: usize) -> Result<(), Error> {
    if LEFT.get() < bytes as u64 {
        LEFT.set(0);
        return Err(used_up());
    }
    Ok(())
}

/// Whether nothing is left.
pub(super) fn is_used_up() -> bool {
    LEFT.get() == 0
}

pub(super) fn used_up() -> Error {
    let mib = WHOLE.get() >> 20;
    let message = format!(
        "it built more than {mib} MiB of text and lists for this request; a value may grow in one of its loops"
    );
    Error::new(ErrorKind::InvalidOperation, message)
}
