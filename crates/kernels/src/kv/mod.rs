//! Paged keys and values: the block table of a sequence, and the code that writes blocks.
//!
//! A block holds 64 tokens of all layers as f16, and is opaque bytes outside this crate; [`KvLayout`] says what is where.
//! This module does not own, share or evict blocks; a [`KvView`] is the block table of one sequence for one step.

mod layout;
mod store;

use std::ops::Range;

pub(crate) use layout::{HeadsPlace, LatentPlace, LayerPlace};
pub use layout::{KvLayout, LayerKv};
pub use store::{store_kv, store_latent, through_f16};

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 64;
/// Alignment that a block's first byte must have.
pub const BLOCK_ALIGN: usize = 64;

/// The block table of one sequence. Token slot `s` is lane `s % 64` of block `s / 64`.
#[derive(Debug)]
pub struct KvView<'a> {
    layout: KvLayout,
    sealed: Vec<&'a [u8]>,
    open: Vec<&'a mut [u8]>,
}

impl<'a> KvView<'a> {
    /// `sealed`: full blocks, possibly shared; `open`: the blocks after them, which this sequence writes.
    ///
    /// # Panics
    /// If a block's size differs from the layout's, or it is not aligned to [`BLOCK_ALIGN`].
    pub fn new(layout: &KvLayout, sealed: Vec<&'a [u8]>, open: Vec<&'a mut [u8]>) -> Self {
        let bytes = layout.block_bytes();
        for block in sealed.iter().copied().chain(open.iter().map(|block| &**block)) {
            assert_eq!(block.len(), bytes, "a KV block whose size differs from the layout's");
            assert!(block.as_ptr().addr().is_multiple_of(BLOCK_ALIGN), "a KV block that is not aligned");
        }
        Self { layout: layout.clone(), sealed, open }
    }

    /// Slots that the blocks have room for.
    pub fn capacity(&self) -> usize {
        (self.sealed.len() + self.open.len()) * BLOCK_TOKENS
    }

    /// The shape that the blocks have.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Stores the model's hidden row at the last token of a block.
    ///
    /// # Panics
    /// If the row's length differs from the layout's, or the block is sealed.
    pub fn keep_hidden(&mut self, block: usize, row: &[f32]) {
        assert_eq!(row.len(), self.layout.hidden(), "a hidden row whose length differs from the layout's");
        let place = self.layout.hidden_bytes();
        let bytes = self.open_block(block)[place].as_chunks_mut().0;
        bytes.iter_mut().zip(row).for_each(|(bytes, x)| *bytes = x.to_ne_bytes());
    }

    /// The hidden row stored in a block.
    pub fn hidden(&self, block: usize) -> Vec<f32> {
        let bytes = self.block(block)[self.layout.hidden_bytes()].as_chunks().0;
        bytes.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
    }

    /// Moves one token's keys and values of all layers to another slot: done when a path of a draft tree is accepted.
    ///
    /// # Panics
    /// If a slot is out of range, or `to` is in a sealed block.
    pub fn copy_slot(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let layout = self.layout.clone();
        for layer in 0..layout.layers().len() {
            match layout.place(layer) {
                LayerPlace::Heads(place) => self.copy_heads(place, from, to),
                LayerPlace::Latent(place) => {
                    let row = 2 * place.width();
                    let at = |slot| (slot / BLOCK_TOKENS, place.rows().start + row * (slot % BLOCK_TOKENS));
                    self.copy_bytes(at(from), at(to), row);
                }
                LayerPlace::None => {}
            }
        }
    }

    /// [`KvView::copy_slot`] for one layer of heads.
    fn copy_heads(&mut self, place: HeadsPlace, from: usize, to: usize) {
        let (from_lane, to_lane) = (from % BLOCK_TOKENS, to % BLOCK_TOKENS);
        for head in 0..place.kv_heads {
            let (keys, values) = (place.keys(head), place.values(head));
            let spans = (0..place.dim_k)
                .map(|d| (keys.start + 2 * (d * BLOCK_TOKENS), 2))
                .map(|(row, len)| (row + 2 * from_lane, row + 2 * to_lane, len));
            let row = 2 * place.dim_v;
            let value = (values.start + row * from_lane, values.start + row * to_lane, row);
            for (source, target, len) in spans.chain([value]) {
                self.copy_bytes((from / BLOCK_TOKENS, source), (to / BLOCK_TOKENS, target), len);
            }
        }
    }

    /// Copies `len` bytes between (block, offset) places.
    fn copy_bytes(&mut self, from: (usize, usize), to: (usize, usize), len: usize) {
        if from.0 == to.0 {
            let block = self.open_block(to.0);
            block.copy_within(from.1..from.1 + len, to.1);
            return;
        }
        let source = self.block(from.0)[from.1..from.1 + len].as_ptr();
        let target = self.open_block(to.0)[to.1..to.1 + len].as_mut_ptr();
        // SAFETY: both ranges were bounds-checked, and lie in different blocks, which don't overlap since
        // one of them is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
    }

    pub(crate) fn block(&self, index: usize) -> &[u8] {
        match index.checked_sub(self.sealed.len()) {
            None => self.sealed[index],
            Some(open) => &*self.open[open],
        }
    }

    fn open_block(&mut self, index: usize) -> &mut [u8] {
        let open = index.checked_sub(self.sealed.len()).expect("a write to a sealed KV block");
        &mut *self.open[open]
    }

    fn assert_open(&self, slots: Range<usize>) {
        let open = self.sealed.len() * BLOCK_TOKENS..self.capacity();
        assert!(
            open.start <= slots.start && slots.end <= open.end,
            "KV slots {slots:?} outside the open {open:?}"
        );
    }
}

/// The part of a step that belongs to one sequence.
#[derive(Debug)]
pub struct AttnSeq<'s, 'a> {
    /// Its blocks, with room for `committed + rows.len()` slots, the new ones in open blocks.
    pub kv: &'s mut KvView<'a>,
    /// Range of its rows in the step.
    pub rows: Range<usize>,
    /// Slots filled before this step. Row `i` of the sequence fills slot `committed + i`.
    pub committed: usize,
    /// For a draft tree: each row's parent among this sequence's rows, -1 for the committed context.
    /// Parents come before their children. `None` is a chain.
    pub parents: Option<&'s [i32]>,
}
