//! Equal slots of memory: allocated in slabs, handed out as zeros, and returned when dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

/// Alignment of every part's first byte, so that a kernel may use whole cache lines.
pub const BLOCK_ALIGN_BYTES: usize = 64;
/// Bytes allocated at a time: many huge pages, so that the loss at both ends is small.
const SLAB_BYTES: usize = 64 << 20;

/// A snapshot of how many slots of a kind are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolCounts {
    /// Total slots.
    pub capacity: usize,
    /// Slots that [`BlockPool::open`](super::BlockPool::open) can still return.
    pub free: usize,
    /// Slots that are being filled.
    pub open: usize,
    /// Slots that hold a sealed part, however many hold that part.
    pub sealed: usize,
}

/// Equal slots of one kind.
pub(super) struct Slots {
    bytes: usize,
    capacity: usize,
    /// Called with each slab before its first use.
    advise: fn(&mut [u8]),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Free slot memory, and whether it was used before.
    spare: Vec<(BytesMut, bool)>,
    /// Slots whose memory was allocated.
    made: usize,
    open: usize,
    sealed: usize,
}

impl Slots {
    pub(super) fn new(bytes: usize, capacity: usize, advise: fn(&mut [u8])) -> Arc<Slots> {
        Arc::new(Slots { bytes, capacity, advise, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every update below leaves the counts consistent, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates the memory of several slots at a time and splits it, each slot at a cache line. Its pages
    /// take no physical memory until they are written.
    fn make_slab(&self, state: &mut State) {
        let stride = self.bytes.next_multiple_of(BLOCK_ALIGN_BYTES).max(BLOCK_ALIGN_BYTES);
        let slots = (SLAB_BYTES / stride).clamp(1, self.capacity - state.made);
        let mut slab = BytesMut::zeroed(slots * stride + BLOCK_ALIGN_BYTES - 1);
        (self.advise)(&mut slab);
        let start = slab.as_ptr().align_offset(BLOCK_ALIGN_BYTES);
        assert!(start < BLOCK_ALIGN_BYTES, "a byte pointer can always be aligned");
        drop(slab.split_to(start));
        for _ in 0..slots {
            let mut slot = slab.split_to(stride);
            slot.truncate(self.bytes);
            state.spare.push((slot, false));
        }
        state.made += slots;
    }

    /// A slot of zeros, or `None` if all are taken.
    pub(super) fn open(self: &Arc<Self>) -> Option<Slot> {
        let (mut buffer, used) = {
            let mut state = self.state();
            if state.open + state.sealed == self.capacity {
                return None;
            }
            state.open += 1;
            if state.spare.is_empty() {
                self.make_slab(&mut state);
            }
            state.spare.pop().expect("fewer slots are taken than the pool may have")
        };
        if used {
            // Equal prefixes must give equal bytes, whatever the slot held before.
            buffer.fill(0);
        }
        Some(Slot { buffer, sealed: false, slots: self.clone() })
    }

    pub(super) fn counts(&self) -> PoolCounts {
        let capacity = self.capacity;
        let state = self.state();
        PoolCounts {
            capacity,
            free: capacity - state.open - state.sealed,
            open: state.open,
            sealed: state.sealed,
        }
    }
}

/// A slot in use; returned to the pool when dropped.
pub(super) struct Slot {
    pub(super) buffer: BytesMut,
    sealed: bool,
    slots: Arc<Slots>,
}

impl Slot {
    pub(super) fn seal(&mut self) {
        let mut state = self.slots.state();
        state.open -= 1;
        state.sealed += 1;
        self.sealed = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut state = self.slots.state();
        match self.sealed {
            true => state.sealed -= 1,
            false => state.open -= 1,
        }
        state.spare.push((buffer, true));
    }
}
