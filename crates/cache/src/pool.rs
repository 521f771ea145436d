//! The blocks in memory: a bounded number of equal slots, each in one state at a time.
//!
//! A block's state is its type. [`OpenBlock`] is exclusive and writable; [`SealedBlock`] is immutable and
//! shared by reference count; [`Evictable`] is the proof that nobody else holds the block, and the only way
//! to take a sealed block's memory while it is cached. Dropping the last handle returns the slot, on any
//! thread, so nothing leaks on any path. The invariant: `free + open + sealed == capacity`, always.
//!
//! The pool knows of a block's prefix only what was sealed into it, and it evicts
//! nothing itself: see [`tree`](crate::tree) for the eviction order.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

use crate::BLOCK_TOKENS;
use crate::keys::{BlockKey, Place, Scope};

/// Alignment of every block's first byte, so that a kernel may use whole cache lines.
pub const BLOCK_ALIGN_BYTES: usize = 64;
/// Bytes allocated at a time: many huge pages, so that the loss at both ends is small.
const SLAB_BYTES: usize = 64 << 20;

/// The size of a block. The bytes are the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    /// Bytes of one block of [`BLOCK_TOKENS`] tokens.
    pub bytes: usize,
}

/// A snapshot of how many slots are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolCounts {
    /// Total slots.
    pub capacity: usize,
    /// Slots that [`BlockPool::open`] can still return.
    pub free: usize,
    /// Slots that are being filled.
    pub open: usize,
    /// Slots that hold a sealed block, however many hold that block.
    pub sealed: usize,
}

/// A bounded set of block slots. Clones are handles on the same slots.
#[derive(Clone)]
pub struct BlockPool {
    shared: Arc<Shared>,
}

struct Shared {
    layout: BlockLayout,
    capacity: usize,
    /// Called with each slab before its first use.
    advise: fn(&mut [u8]),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Free block memory, and whether it was used before.
    spare: Vec<(BytesMut, bool)>,
    /// Blocks whose memory was allocated.
    made: usize,
    open: usize,
    sealed: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every update below leaves the counts consistent, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates the memory of several blocks at a time and splits it, each block at a cache line. Its pages
    /// take no physical memory until they are written.
    fn make_slab(&self, state: &mut State) {
        let stride = self.layout.bytes.next_multiple_of(BLOCK_ALIGN_BYTES).max(BLOCK_ALIGN_BYTES);
        let blocks = (SLAB_BYTES / stride).clamp(1, self.capacity - state.made);
        let mut slab = BytesMut::zeroed(blocks * stride + BLOCK_ALIGN_BYTES - 1);
        (self.advise)(&mut slab);
        let start = slab.as_ptr().align_offset(BLOCK_ALIGN_BYTES);
        assert!(start < BLOCK_ALIGN_BYTES, "a byte pointer can always be aligned");
        drop(slab.split_to(start));
        for _ in 0..blocks {
            let mut block = slab.split_to(stride);
            block.truncate(self.layout.bytes);
            state.spare.push((block, false));
        }
        state.made += blocks;
    }
}

impl BlockPool {
    /// A pool of `capacity` slots. Memory is allocated when a slot is first opened, not here.
    pub fn new(layout: BlockLayout, capacity: usize) -> Self {
        Self::advised(layout, capacity, |_| {})
    }

    /// As [`new`](Self::new), with a function that may advise the system to use huge pages for the memory it is given.
    pub fn advised(layout: BlockLayout, capacity: usize, advise: fn(&mut [u8])) -> Self {
        Self { shared: Arc::new(Shared { layout, capacity, advise, state: Mutex::default() }) }
    }

    /// The size of every block in this pool.
    pub fn layout(&self) -> BlockLayout {
        self.shared.layout
    }

    /// A block of zeros to fill, or `None` if all slots are taken.
    pub fn open(&self) -> Option<OpenBlock> {
        let (mut buffer, used) = {
            let mut state = self.shared.state();
            if state.open + state.sealed == self.shared.capacity {
                return None;
            }
            state.open += 1;
            if state.spare.is_empty() {
                self.shared.make_slab(&mut state);
            }
            state.spare.pop().expect("fewer blocks are taken than the pool may have")
        };
        if used {
            // Equal prefixes must give equal bytes, whatever the slot held before.
            buffer.fill(0);
        }
        Some(OpenBlock { slot: Slot { buffer, sealed: false, pool: self.shared.clone() } })
    }

    /// How many slots are in which state, now.
    pub fn counts(&self) -> PoolCounts {
        let capacity = self.shared.capacity;
        let state = self.shared.state();
        PoolCounts {
            capacity,
            free: capacity - state.open - state.sealed,
            open: state.open,
            sealed: state.sealed,
        }
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("layout", &self.shared.layout)
            .field("counts", &self.counts())
            .finish()
    }
}

/// A slot in use; returned to the pool when dropped.
struct Slot {
    buffer: BytesMut,
    sealed: bool,
    pool: Arc<Shared>,
}

impl Slot {
    fn seal(&mut self) {
        let mut state = self.pool.state();
        state.open -= 1;
        state.sealed += 1;
        self.sealed = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut state = self.pool.state();
        match self.sealed {
            true => state.sealed -= 1,
            false => state.open -= 1,
        }
        state.spare.push((buffer, true));
    }
}

/// A block that is being filled. Exclusive; dropping it gives the slot back.
pub struct OpenBlock {
    slot: Slot,
}

impl OpenBlock {
    /// Copies another block's bytes, for copy on write.
    ///
    /// # Panics
    /// If `from` has another length than this block.
    pub fn copy_from(&mut self, from: &[u8]) {
        self.slot.buffer.copy_from_slice(from);
    }

    /// Ends writing. The block now holds the state needed to resume after `tokens` at `place`.
    ///
    /// A block of fewer than [`BLOCK_TOKENS`] tokens has no key: it is the end of a sequence, matchable in
    /// memory and never written to a lower tier.
    ///
    /// # Panics
    /// If `tokens` is empty or longer than a block.
    pub fn seal(mut self, scope: &Scope, place: Place, tokens: &[u32]) -> SealedBlock {
        assert!(!tokens.is_empty() && tokens.len() <= BLOCK_TOKENS, "{} tokens in a block", tokens.len());
        let key = <&[u32; BLOCK_TOKENS]>::try_from(tokens).ok().map(|full| scope.key(place, full));
        self.slot.seal();
        SealedBlock {
            inner: Arc::new(Sealed {
                slot: self.slot,
                scope: scope.at(place.depth),
                place,
                key,
                tokens: tokens.into(),
            }),
        }
    }
}

impl Deref for OpenBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.slot.buffer
    }
}

impl DerefMut for OpenBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.slot.buffer
    }
}

impl fmt::Debug for OpenBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenBlock({} bytes)", self.len())
    }
}

struct Sealed {
    slot: Slot,
    scope: Scope,
    place: Place,
    key: Option<BlockKey>,
    tokens: Arc<[u32]>,
}

/// A finished block: immutable, shared by reference count. A handle keeps it in memory.
#[derive(Clone)]
pub struct SealedBlock {
    inner: Arc<Sealed>,
}

impl SealedBlock {
    /// The tokens whose state the block holds: 1 to [`BLOCK_TOKENS`].
    pub fn tokens(&self) -> &[u32] {
        &self.inner.tokens
    }

    /// The block's position in its prefix.
    pub fn place(&self) -> Place {
        self.inner.place
    }

    /// The block's scope, which names tenant and model.
    pub fn scope(&self) -> &Scope {
        &self.inner.scope
    }

    /// The block's key; `None` if it is not full.
    pub fn key(&self) -> Option<BlockKey> {
        self.inner.key
    }

    /// The place right after this block; `None` if it is not full.
    pub fn next(&self) -> Option<Place> {
        self.inner.key.map(|key| self.inner.place.child(key))
    }

    /// Whether two handles are on the same memory.
    pub fn same(&self, other: &SealedBlock) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether this is the only handle. Another thread's clone can outdate the result; only
    /// [`SealedBlock::into_evictable`] proves it.
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// Proves that this is the only handle, or returns the block.
    ///
    /// # Errors
    /// Returns the block itself while another handle exists.
    pub fn into_evictable(self) -> Result<Evictable, SealedBlock> {
        match Arc::try_unwrap(self.inner) {
            Ok(sealed) => Ok(Evictable { sealed }),
            Err(inner) => Err(SealedBlock { inner }),
        }
    }

    pub(crate) fn shared_tokens(&self) -> Arc<[u32]> {
        self.inner.tokens.clone()
    }
}

impl Deref for SealedBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.inner.slot.buffer
    }
}

impl fmt::Debug for SealedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBlock")
            .field("tokens", &self.tokens().len())
            .field("depth", &self.place().depth)
            .field("key", &self.key())
            .finish()
    }
}

/// A sealed block without other handles: the proof that eviction requires.
pub struct Evictable {
    sealed: Sealed,
}

impl Evictable {
    /// Returns the slot to its pool, and the block's key.
    pub fn evict(self) -> Option<BlockKey> {
        self.sealed.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Fingerprint, ServerSecret};

    fn pool(capacity: usize) -> BlockPool {
        BlockPool::new(BlockLayout { bytes: 1000 }, capacity)
    }

    fn scope() -> Scope {
        ServerSecret::new([7; 32]).scope("t", Fingerprint::of(&[]))
    }

    fn counts(pool: &BlockPool) -> (usize, usize, usize) {
        let PoolCounts { free, open, sealed, .. } = pool.counts();
        (free, open, sealed)
    }

    #[test]
    fn blocks_are_aligned_and_have_the_layouts_size() {
        let pool = pool(3);
        for block in [pool.open().unwrap(), pool.open().unwrap(), pool.open().unwrap()] {
            assert_eq!(block.as_ptr() as usize % BLOCK_ALIGN_BYTES, 0);
            assert_eq!(block.len(), 1000);
        }
    }

    #[test]
    fn no_more_than_capacity_can_be_open() {
        let pool = pool(2);
        let held = (pool.open().unwrap(), pool.open().unwrap());
        assert!(pool.open().is_none());
        drop(held);
        assert!(pool.open().is_some());
    }

    #[test]
    fn counts_follow_a_block_through_its_states() {
        let pool = pool(2);
        assert_eq!(counts(&pool), (2, 0, 0));
        let open = pool.open().unwrap();
        assert_eq!(counts(&pool), (1, 1, 0));
        let sealed = open.seal(&scope(), scope().root(), &[1]);
        let again = sealed.clone();
        assert_eq!(counts(&pool), (1, 0, 1));
        drop(sealed);
        assert_eq!(counts(&pool), (1, 0, 1));
        drop(again);
        assert_eq!(counts(&pool), (2, 0, 0));
    }

    #[test]
    fn a_reused_slot_shows_nothing_of_its_past() {
        let pool = pool(1);
        pool.open().unwrap().fill(0xff);
        assert!(pool.open().unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_block_that_someone_holds_cannot_be_evicted() {
        let pool = pool(1);
        let sealed = pool.open().unwrap().seal(&scope(), scope().root(), &[1]);
        let reader = sealed.clone();
        let sealed = sealed.into_evictable().err().unwrap();
        assert!(sealed.same(&reader));
        drop(reader);
        sealed.into_evictable().unwrap_or_else(|_| panic!("nobody else holds it")).evict();
        assert_eq!(counts(&pool), (1, 0, 0));
    }

    #[test]
    fn sealing_keeps_the_bytes_and_names_only_full_blocks() {
        let (pool, scope) = (pool(2), scope());
        let mut open = pool.open().unwrap();
        open[999] = 42;
        let full: Vec<u32> = (0..64).collect();
        let full = open.seal(&scope, scope.root(), &full);
        assert_eq!(full[999], 42);
        assert_eq!(full.next().unwrap().parent, full.key().unwrap());
        let part = pool.open().unwrap().seal(&scope, full.next().unwrap(), &[9]);
        assert_eq!((part.key(), part.next(), part.place().depth), (None, None, 1));
    }

    #[test]
    fn copy_on_write_leaves_the_original_alone() {
        let (pool, scope) = (pool(2), scope());
        let mut open = pool.open().unwrap();
        open.fill(1);
        let original = open.seal(&scope, scope.root(), &[1]);
        let mut copy = pool.open().unwrap();
        copy.copy_from(&original);
        copy[0] = 2;
        assert_eq!((original[0], copy[0], copy[1]), (1, 2, 1));
    }

    #[test]
    fn slots_come_back_from_other_threads() {
        let pool = pool(8);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..200 {
                        if let Some(open) = pool.open() {
                            let sealed = open.seal(&scope(), scope().root(), &[1]);
                            std::thread::spawn(move || drop(sealed)).join().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(counts(&pool), (8, 0, 0));
    }
}
