//! Paged keys and values: the block table of a sequence, and the code that writes blocks.
//!
//! A block holds 64 tokens of all layers as f16, and is opaque bytes outside this crate; [`KvLayout`] says what is where.
//! Its two parts may lie apart, and sealed blocks that no window reaches any more may lack the windowed one.
//! This module does not own, share or evict blocks; a [`KvView`] is the block table of one sequence for one step.

mod layout;
mod store;

use std::ops::Range;

pub(crate) use layout::{HeadsPlace, LatentPlace, LayerPlace, Part};
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
    sealed: Vec<SealedParts<'a>>,
    open: Vec<OpenParts<'a>>,
}

/// The parts of a full block, possibly shared.
#[derive(Clone, Copy, Debug)]
pub struct SealedParts<'a> {
    /// What every later position reads.
    pub lasting: &'a [u8],
    /// What layers with a window keep; `None` if no position to come reads it. Empty if no layer has a window.
    pub windowed: Option<&'a [u8]>,
}

/// The parts of a block that its sequence writes.
#[derive(Debug)]
pub struct OpenParts<'a> {
    /// What every later position reads.
    pub lasting: &'a mut [u8],
    /// What layers with a window keep. Empty if no layer has a window.
    pub windowed: &'a mut [u8],
}

impl<'a> KvView<'a> {
    /// Blocks whose parts are one slice, the lasting one first. `sealed`: full blocks, possibly shared; `open`: the blocks
    /// after them, which this sequence writes.
    ///
    /// # Panics
    /// As [`KvView::of_parts`].
    pub fn new(layout: &KvLayout, sealed: Vec<&'a [u8]>, open: Vec<&'a mut [u8]>) -> Self {
        let lasting = layout.lasting_bytes();
        let split = |block: &'a [u8]| {
            let (lasting, windowed) = block.split_at(lasting.min(block.len()));
            SealedParts { lasting, windowed: Some(windowed) }
        };
        let split_mut = |block: &'a mut [u8]| {
            let (lasting, windowed) = block.split_at_mut(lasting.min(block.len()));
            OpenParts { lasting, windowed }
        };
        let (sealed, open) =
            (sealed.into_iter().map(split).collect(), open.into_iter().map(split_mut).collect());
        Self::of_parts(layout, sealed, open)
    }

    /// `sealed`: full blocks, possibly shared; `open`: the blocks after them, which this sequence writes.
    ///
    /// # Panics
    /// If the size of a part differs from the layout's, or it is not aligned to [`BLOCK_ALIGN`].
    pub fn of_parts(layout: &KvLayout, sealed: Vec<SealedParts<'a>>, open: Vec<OpenParts<'a>>) -> Self {
        let (lasting, windowed) = (layout.lasting_bytes(), layout.windowed_bytes());
        let check = |part: &[u8], bytes: usize| {
            assert_eq!(part.len(), bytes, "a KV block whose size differs from the layout's");
            let aligned = bytes == 0 || part.as_ptr().addr().is_multiple_of(BLOCK_ALIGN);
            assert!(aligned, "a KV block that is not aligned");
        };
        for block in &sealed {
            check(block.lasting, lasting);
            block.windowed.iter().for_each(|part| check(part, windowed));
        }
        for block in &open {
            check(block.lasting, lasting);
            check(block.windowed, windowed);
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
        let bytes = self.open_part(block, Part::Lasting)[place].as_chunks_mut().0;
        bytes.iter_mut().zip(row).for_each(|(bytes, x)| *bytes = x.to_ne_bytes());
    }

    /// The hidden row stored in a block.
    pub fn hidden(&self, block: usize) -> Vec<f32> {
        let bytes = self.part(block, Part::Lasting)[self.layout.hidden_bytes()].as_chunks().0;
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
                    self.copy_bytes(Part::Lasting, at(from), at(to), row);
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
                self.copy_bytes(place.part, (from / BLOCK_TOKENS, source), (to / BLOCK_TOKENS, target), len);
            }
        }
    }

    /// Copies `len` bytes between (block, offset) places of one kind of part.
    fn copy_bytes(&mut self, part: Part, from: (usize, usize), to: (usize, usize), len: usize) {
        if from.0 == to.0 {
            let block = self.open_part(to.0, part);
            block.copy_within(from.1..from.1 + len, to.1);
            return;
        }
        let source = self.part(from.0, part)[from.1..from.1 + len].as_ptr();
        let target = self.open_part(to.0, part)[to.1..to.1 + len].as_mut_ptr();
        // SAFETY: both ranges were bounds-checked, and lie in different blocks, which don't overlap since
        // one of them is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
    }

    /// # Panics
    /// If it is the windowed part of a block that lacks it.
    pub(crate) fn part(&self, index: usize, part: Part) -> &[u8] {
        match (index.checked_sub(self.sealed.len()), part) {
            (None, Part::Lasting) => self.sealed[index].lasting,
            (None, Part::Windowed) => {
                self.sealed[index].windowed.expect("a window reaches into a block without a windowed part")
            }
            (Some(open), Part::Lasting) => &*self.open[open].lasting,
            (Some(open), Part::Windowed) => &*self.open[open].windowed,
        }
    }

    fn open_part(&mut self, index: usize, part: Part) -> &mut [u8] {
        let open = index.checked_sub(self.sealed.len()).expect("a write to a sealed KV block");
        match part {
            Part::Lasting => &mut *self.open[open].lasting,
            Part::Windowed => &mut *self.open[open].windowed,
        }
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
