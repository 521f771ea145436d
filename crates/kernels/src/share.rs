//! A mutable slice that the workers of one fork write in disjoint parts.

use std::marker::PhantomData;

/// Writable from several threads, each at places that no other one touches.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from an exclusive borrow, and `part` makes its callers keep parts disjoint.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    pub(crate) fn start(self) -> *mut T {
        self.start
    }

    /// The part of `len` elements from `from`.
    ///
    /// # Safety
    /// No other part that is in use may overlap it.
    #[allow(clippy::mut_from_ref)] // that is what the promise is for
    pub(crate) unsafe fn part(&self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from <= self.len && len <= self.len - from, "part {from}+{len} of {}", self.len);
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
