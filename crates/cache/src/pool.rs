//! The blocks in memory: a bounded number of equal slots, each in one state at a time.
//!
//! A block's state is its type. [`OpenBlock`] is exclusive and writable; [`SealedBlock`] is immutable and
//! shared by reference count; [`Evictable`] is the proof that nobody else holds the block, and the only way
//! to take a sealed block's memory while it is cached. Dropping the last handle returns the slot, on any
//! thread, so nothing leaks on any path. The invariant: `free + open + sealed == capacity`, always.
//!
//! A block has two parts, each in a slot of its own kind. The lasting part is read by everything after the block. The
//! windowed part is only read near it, by layers with a sliding window; a handle may give it up, and it is freed when
//! no handle has it any more. Dereferencing a block gives its lasting part.
//!
//! The pool knows of a block's prefix only what was sealed into it, and it evicts
//! nothing itself: see [`tree`](crate::tree) for the eviction order.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::BLOCK_TOKENS;
use crate::block_layout::{BlockLayout, Capacity, Part};
use crate::keys::{BlockKey, Place, Scope};

mod slots;

pub use slots::{BLOCK_ALIGN_BYTES, PoolCounts};
use slots::{Slot, Slots};

/// A bounded set of block slots. Clones are handles on the same slots.
#[derive(Clone)]
pub struct BlockPool {
    layout: BlockLayout,
    lasting: Arc<Slots>,
    windowed: Arc<Slots>,
}

impl BlockPool {
    /// A pool with slots for both parts of `capacity` blocks, or as many of each as [`Capacity`] says. Memory is
    /// allocated when a slot is first opened, not here.
    pub fn new(layout: BlockLayout, capacity: impl Into<Capacity>) -> Self {
        Self::advised(layout, capacity, |_| {})
    }

    /// As [`new`](Self::new), with a function that may advise the system to use huge pages for the memory it is given.
    pub fn advised(layout: BlockLayout, capacity: impl Into<Capacity>, advise: fn(&mut [u8])) -> Self {
        let Capacity { blocks, windowed } = capacity.into();
        let lasting = Slots::new(layout.lasting, blocks, advise);
        Self { layout, lasting, windowed: Slots::new(layout.windowed, windowed, advise) }
    }

    /// The size of every block in this pool.
    pub fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// A block of zeros to fill, or `None` if all slots of a part are taken.
    pub fn open(&self) -> Option<OpenBlock> {
        self.try_open().ok()
    }

    /// As [`open`](Self::open).
    ///
    /// # Errors
    /// The part whose slots are all taken.
    pub(crate) fn try_open(&self) -> Result<OpenBlock, Part> {
        let mut block = self.open_lasting().ok_or(Part::Lasting)?;
        if self.layout.windowed > 0 {
            block.windowed = Some(self.windowed.open().ok_or(Part::Windowed)?);
        }
        Ok(block)
    }

    /// A block to fill without its windowed part.
    pub(crate) fn open_lasting(&self) -> Option<OpenBlock> {
        Some(OpenBlock { slot: self.lasting.open()?, windowed: None, windows: self.layout.windowed > 0 })
    }

    /// The windowed part of a block, to fill.
    pub fn open_windowed(&self) -> Option<OpenWindowed> {
        self.windowed.open().map(|slot| OpenWindowed { slot })
    }

    /// How many slots for lasting parts are in which state, now.
    pub fn counts(&self) -> PoolCounts {
        self.lasting.counts()
    }

    /// How many slots for windowed parts are in which state, now.
    pub fn windowed_counts(&self) -> PoolCounts {
        self.windowed.counts()
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("layout", &self.layout)
            .field("counts", &self.counts())
            .field("windowed", &self.windowed_counts())
            .finish()
    }
}

/// A block that is being filled. Exclusive; dropping it gives the slots back.
pub struct OpenBlock {
    slot: Slot,
    windowed: Option<Slot>,
    /// Whether blocks of this pool have a windowed part.
    windows: bool,
}

impl OpenBlock {
    /// Copies another block's bytes, for copy on write.
    ///
    /// # Panics
    /// If `from` has another length than this block, or lacks a part that this one has.
    pub fn copy_from(&mut self, from: &SealedBlock) {
        self.slot.buffer.copy_from_slice(from);
        if let Some(windowed) = &mut self.windowed {
            windowed.buffer.copy_from_slice(from.windowed().expect("a copy of a whole block"));
        }
    }

    /// The lasting and the windowed part, which is empty in a pool without windows.
    pub fn parts_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let windowed = self.windowed.as_mut().map_or(&mut [][..], |slot| &mut slot.buffer);
        (&mut self.slot.buffer, windowed)
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
                windows: self.windows,
            }),
            windowed: self.windowed.map(|slot| OpenWindowed { slot }.seal()),
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

/// The windowed part of a block that is being filled.
pub struct OpenWindowed {
    slot: Slot,
}

impl OpenWindowed {
    /// Ends writing.
    pub(crate) fn seal(mut self) -> SealedWindowed {
        self.slot.seal();
        SealedWindowed(Arc::new(self.slot))
    }
}

impl Deref for OpenWindowed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.slot.buffer
    }
}

impl DerefMut for OpenWindowed {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.slot.buffer
    }
}

impl fmt::Debug for OpenWindowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenWindowed({} bytes)", self.len())
    }
}

/// A finished windowed part: immutable, shared by reference count.
#[derive(Clone)]
pub(crate) struct SealedWindowed(Arc<Slot>);

impl fmt::Debug for SealedWindowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedWindowed({} bytes)", self.0.buffer.len())
    }
}

struct Sealed {
    slot: Slot,
    scope: Scope,
    place: Place,
    key: Option<BlockKey>,
    tokens: Arc<[u32]>,
    windows: bool,
}

/// A finished block: immutable, shared by reference count. A handle keeps it in memory, its windowed part only if the
/// handle has it.
#[derive(Clone)]
pub struct SealedBlock {
    inner: Arc<Sealed>,
    windowed: Option<SealedWindowed>,
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

    /// The windowed part: empty in a pool without windows, `None` if this handle lacks it.
    pub fn windowed(&self) -> Option<&[u8]> {
        match &self.windowed {
            Some(windowed) => Some(&windowed.0.buffer),
            None => (!self.inner.windows).then_some(&[]),
        }
    }

    /// Whether this handle lacks no part.
    pub fn is_whole(&self) -> bool {
        self.windowed.is_some() || !self.inner.windows
    }

    /// Gives up this handle's windowed part.
    pub fn drop_windowed(&mut self) {
        self.windowed = None;
    }

    /// A handle without the windowed part.
    pub fn without_windowed(&self) -> SealedBlock {
        SealedBlock { inner: self.inner.clone(), windowed: None }
    }

    /// A part's bytes; `None` if this handle lacks it, or there is no such part.
    pub(crate) fn part(&self, part: Part) -> Option<&[u8]> {
        match part {
            Part::Lasting => Some(self),
            Part::Windowed => self.windowed.as_ref().map(|windowed| &windowed.0.buffer[..]),
        }
    }

    pub(crate) fn has_windowed(&self) -> bool {
        self.windowed.is_some()
    }

    pub(crate) fn take_windowed(&mut self) -> Option<SealedWindowed> {
        self.windowed.take()
    }

    /// Completes a handle. False if it has a windowed part already.
    pub(crate) fn put_windowed(&mut self, windowed: SealedWindowed) -> bool {
        let missing = self.inner.windows && self.windowed.is_none();
        if missing {
            self.windowed = Some(windowed);
        }
        missing
    }

    /// Frees the windowed part if no other handle has it. False if there is one.
    pub(crate) fn evict_windowed(&mut self) -> bool {
        match self.windowed.take().map(|windowed| Arc::try_unwrap(windowed.0)) {
            Some(Err(held)) => {
                self.windowed = Some(SealedWindowed(held));
                false
            }
            _ => true,
        }
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
        let windowed = self.windowed;
        match Arc::try_unwrap(self.inner) {
            Ok(sealed) => Ok(Evictable { sealed }),
            Err(inner) => Err(SealedBlock { inner, windowed }),
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
            .field("whole", &self.is_whole())
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
        BlockPool::new(BlockLayout::whole(1000), capacity)
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

    const WINDOWED: BlockLayout = BlockLayout { lasting: 100, windowed: 300, window: 100 };

    #[test]
    fn the_window_says_which_windowed_parts_resuming_reads() {
        assert_eq!(
            [0, 64, 100, 128, 163, 164, 192].map(|n| WINDOWED.windowed_from(n)),
            [0, 0, 0, 0, 0, 1, 1]
        );
        assert_eq!(WINDOWED.windowed_blocks(), 2);
        let plain = BlockLayout::whole(9);
        assert_eq!(
            ([0, 1, 64, 65].map(|n| plain.windowed_from(n)), plain.windowed_blocks()),
            ([0, 1, 1, 2], 0)
        );
    }

    #[test]
    fn a_windowed_part_is_freed_with_the_last_handle_that_has_it() {
        let (pool, scope) = (BlockPool::new(WINDOWED, 2), scope());
        let mut block = pool.open().unwrap().seal(&scope, scope.root(), &[1]);
        let (lasting, whole) = (block.without_windowed(), block.clone());
        assert!(block.is_whole() && !lasting.is_whole());
        assert_eq!((whole.windowed().map(<[u8]>::len), lasting.windowed()), (Some(300), None));
        block.drop_windowed();
        assert_eq!(pool.windowed_counts().sealed, 1);
        drop(whole);
        assert_eq!((pool.windowed_counts().sealed, pool.counts().sealed), (0, 1));
    }

    #[test]
    fn a_block_without_room_for_one_part_takes_no_slot_for_the_other() {
        let pool = BlockPool::new(WINDOWED, Capacity { blocks: 3, windowed: 1 });
        let first = pool.open().unwrap();
        assert_eq!(pool.try_open().err(), Some(Part::Windowed));
        assert_eq!((pool.counts().open, pool.windowed_counts().open), (1, 1));
        let second = pool.open_lasting().unwrap();
        assert!(!second.seal(&scope(), scope().root(), &[1]).is_whole());
        drop(first);
        assert!(pool.open().is_some());
    }

    #[test]
    fn a_copy_has_both_parts() {
        let (pool, scope) = (BlockPool::new(WINDOWED, 2), scope());
        let mut open = pool.open().unwrap();
        open.parts_mut().0[99] = 1;
        open.parts_mut().1[299] = 2;
        let original = open.seal(&scope, scope.root(), &[1]);
        let mut copy = pool.open().unwrap();
        copy.copy_from(&original);
        assert_eq!((copy.parts_mut().0[99], copy.parts_mut().1[299]), (1, 2));
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
