//! A mutex without poisoning: its data is consistent between any two calls, and drafts that a panic left inconsistent
//! are rejected draft tokens at worst.

use std::sync::{MutexGuard, PoisonError};

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
