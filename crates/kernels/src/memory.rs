//! Zeroed memory for packed weights and KV blocks: aligned to cache lines, in huge pages where it is large.
//!
//! It exists because `Vec` neither aligns its memory nor lets the threads that fill it touch the pages first.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const LINE: usize = 64;
#[cfg(unix)]
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of bytes, aligned to 64.
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
    mapped: bool,
}

// SAFETY: a `Memory` owns its bytes, as `Box<[u8]>` does.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zero bytes; `None` when the allocation fails. Large ones take no physical memory until written.
    pub fn zeroed(len: usize) -> Option<Self> {
        #[cfg(unix)]
        if len >= HUGE_PAGE {
            return Self::map(len);
        }
        let layout = Layout::from_size_align(len.max(1), LINE).ok()?;
        // SAFETY: the size isn't zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Some(Self { start, len, mapped: false })
    }

    #[cfg(unix)]
    fn map(len: usize) -> Option<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping touches no memory that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: advice on the mapping just made; its failure affects only speed.
        unsafe {
            libc::madvise(start, len, libc::MADV_HUGEPAGE);
        }
        Some(Self { start: NonNull::new(start.cast())?, len, mapped: true })
    }
}

/// Requests huge pages for the whole huge pages in `bytes`. Affects only speed, and only before first use.
pub fn advise_huge_pages(bytes: &mut [u8]) {
    #[cfg(target_os = "linux")]
    {
        let start = bytes.as_ptr().align_offset(HUGE_PAGE);
        let Some(len) = bytes.len().checked_sub(start).map(|rest| rest / HUGE_PAGE * HUGE_PAGE) else {
            return;
        };
        // SAFETY: advice on whole pages of exclusively borrowed memory; its failure affects only speed.
        unsafe {
            libc::madvise(bytes.as_mut_ptr().add(start).cast(), len, libc::MADV_HUGEPAGE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

impl Drop for Memory {
    fn drop(&mut self) {
        #[cfg(unix)]
        if self.mapped {
            // SAFETY: `map` made this mapping with this length, and nothing borrows it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
            return;
        }
        debug_assert!(!self.mapped);
        // SAFETY: `zeroed` made this allocation with this layout, whose validity it checked.
        unsafe { dealloc(self.start.as_ptr(), Layout::from_size_align_unchecked(self.len.max(1), LINE)) };
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` owns `len` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `start` owns `len` initialised bytes, borrowed exclusively through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zero_and_writable_on_both_sides_of_the_huge_page() {
        for len in [0, 1, 1000, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 4097] {
            let mut memory = Memory::zeroed(len).unwrap();
            assert_eq!(memory.as_ptr() as usize % LINE, 0, "{len}");
            assert!(memory.iter().all(|&byte| byte == 0), "{len}");
            memory.fill(7);
            assert_eq!(memory.iter().filter(|&&byte| byte == 7).count(), len);
        }
    }
}
