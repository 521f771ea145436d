//! Zeroed memory for packed weights and KV blocks: aligned to cache lines, in huge pages where it is large.
//!
//! It exists because `Vec` neither aligns its memory nor lets the threads that fill it touch the pages first.
//! What is read together is allocated together, since matrices below 2 MiB would each be in pages of 4 KiB.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

const LINE: usize = 64;
/// Bytes that an [`Arena`] asks the operating system for, at least; those that are not used take no physical memory.
const ARENA_BYTES: usize = 64 << 20;
#[cfg(unix)]
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of bytes, aligned to 64.
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
    /// What the bytes are part of; parts do not overlap.
    _allocation: Arc<Allocation>,
}

// SAFETY: a `Memory` owns its bytes, as `Box<[u8]>` does.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zero bytes; `None` when the allocation fails. Large ones take no physical memory until written.
    pub fn zeroed(len: usize) -> Option<Self> {
        let allocation = Allocation::zeroed(len)?;
        Some(Self { start: allocation.start, len, _allocation: Arc::new(allocation) })
    }
}

/// Allocates many regions next to each other, so that small ones are in huge pages too. Their memory is freed once all
/// regions of an allocation are dropped.
#[derive(Default)]
pub struct Arena {
    allocation: Option<Arc<Allocation>>,
    used: usize,
}

impl Arena {
    /// As [`Memory::zeroed`].
    pub fn zeroed(&mut self, len: usize) -> Option<Memory> {
        let step = len.checked_next_multiple_of(LINE)?;
        let has_room = self.allocation.as_ref().is_some_and(|of| step <= of.len - self.used);
        if !has_room {
            self.allocation = Some(Arc::new(Allocation::zeroed(step.max(ARENA_BYTES))?));
            self.used = 0;
        }
        let allocation = Arc::clone(self.allocation.as_ref()?);
        // SAFETY: `step` bytes from here are in the allocation, and no other region has them.
        let start = unsafe { allocation.start.add(self.used) };
        self.used += step;
        Some(Memory { start, len, _allocation: allocation })
    }
}

/// What the operating system or the allocator gave.
struct Allocation {
    start: NonNull<u8>,
    len: usize,
    mapped: bool,
}

// SAFETY: only its parts give access to the bytes.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn zeroed(len: usize) -> Option<Self> {
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

impl Drop for Allocation {
    fn drop(&mut self) {
        #[cfg(unix)]
        if self.mapped {
            // SAFETY: `map` made this mapping with this length, and no part of it is left.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
            return;
        }
        debug_assert!(!self.mapped);
        // SAFETY: `zeroed` allocated with this layout, whose validity it checked, and no part is left.
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

    #[test]
    fn regions_of_an_arena_do_not_overlap_and_outlive_it() {
        let mut arena = Arena::default();
        let sizes =
            [0, 1, 100, HUGE_PAGE + 1, ARENA_BYTES - 4 * HUGE_PAGE, 2 * HUGE_PAGE, ARENA_BYTES + 1, 64];
        let mut regions: Vec<Memory> = sizes.map(|len| arena.zeroed(len).unwrap()).into();
        drop(arena);
        for (value, region) in regions.iter_mut().enumerate() {
            assert!(region.len() == sizes[value] && (region.as_ptr() as usize).is_multiple_of(LINE));
            assert!(region.iter().all(|&byte| byte == 0), "region {value}");
            region.fill(value as u8 + 1);
        }
        let last = regions.pop().unwrap();
        for (value, region) in regions.into_iter().enumerate() {
            assert!(region.iter().all(|&byte| byte == value as u8 + 1), "region {value}");
        }
        assert!(last.iter().all(|&byte| byte == sizes.len() as u8));
    }
}
