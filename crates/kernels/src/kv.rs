//! Paged keys and values: the layout of a block, and the code that writes it.
//!
//! A block holds 64 tokens of all layers as f16, and is opaque bytes outside this crate:
//!
//! ```text
//! [layer] [K: kv head][head_dim_k][64 tokens]      transposed, so that 16 positions are 16 lanes
//!         [V: kv head][64 tokens][head_dim_v]
//! [hidden row]                                     f32
//! ```
//!
//! The layers of a draft head (multi-token prediction) follow the model's own and are stored and attended to like
//! them. The hidden row is the model's at the block's last token, the head's input for the next one, so a cache hit
//! restores the head's state too.
//!
//! Only this module knows the layout. It does not own, share or evict blocks; a [`KvView`] is the block table of one
//! sequence for one step.

use std::ops::Range;

use half::f16;

use crate::compute::Compute;
use crate::share::Shared;
use crate::simd::{Kernel, LANES, Simd16, dispatch};

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 64;
/// Alignment that a block's first byte must have.
pub const BLOCK_ALIGN: usize = 64;
/// The largest finite f16; larger magnitudes are clamped to it.
const F16_MAX: f32 = 65_504.0;

/// The shape of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// Layers of the model that have keys and values.
    pub layers: usize,
    /// Layers of a draft head (multi-token prediction) that have keys and values of the same shape; 0 without one.
    pub draft_layers: usize,
    /// Length of the hidden row that a draft head takes as input; 0 without one.
    pub hidden: usize,
    /// Key and value heads per layer.
    pub kv_heads: usize,
    /// Length of a key.
    pub head_dim_k: usize,
    /// Length of a value.
    pub head_dim_v: usize,
}

impl KvLayout {
    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.hidden_bytes().end.next_multiple_of(BLOCK_ALIGN)
    }

    /// Layers that have keys and values, including those of a draft head.
    pub fn all_layers(&self) -> usize {
        self.layers + self.draft_layers
    }

    /// Bytes of a block that hold the hidden row.
    fn hidden_bytes(&self) -> Range<usize> {
        let start = self.all_layers() * self.layer_bytes();
        start..start + self.hidden * size_of::<f32>()
    }

    fn layer_bytes(&self) -> usize {
        self.kv_heads * (self.head_dim_k + self.head_dim_v) * BLOCK_TOKENS * size_of::<u16>()
    }

    /// Bytes of a block that hold the keys of one head: `[head_dim_k][64]`.
    pub(crate) fn keys(&self, layer: usize, head: usize) -> Range<usize> {
        debug_assert!(layer < self.all_layers() && head < self.kv_heads);
        let len = self.head_dim_k * BLOCK_TOKENS * size_of::<u16>();
        let start = layer * self.layer_bytes() + head * len;
        start..start + len
    }

    /// Bytes of a block that hold the values of one head: `[64][head_dim_v]`.
    pub(crate) fn values(&self, layer: usize, head: usize) -> Range<usize> {
        debug_assert!(layer < self.all_layers() && head < self.kv_heads);
        let keys = self.kv_heads * self.head_dim_k * BLOCK_TOKENS * size_of::<u16>();
        let len = self.head_dim_v * BLOCK_TOKENS * size_of::<u16>();
        let start = layer * self.layer_bytes() + keys + head * len;
        start..start + len
    }
}

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
        assert_eq!(row.len(), self.layout.hidden, "a hidden row whose length differs from the layout's");
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
        let (from_lane, to_lane) = (from % BLOCK_TOKENS, to % BLOCK_TOKENS);
        for layer in 0..layout.all_layers() {
            for head in 0..layout.kv_heads {
                let (keys, values) = (layout.keys(layer, head), layout.values(layer, head));
                let spans = (0..layout.head_dim_k)
                    .map(|d| (keys.start + 2 * (d * BLOCK_TOKENS), 2))
                    .map(|(row, len)| (row + 2 * from_lane, row + 2 * to_lane, len));
                let row = 2 * layout.head_dim_v;
                let value = (values.start + row * from_lane, values.start + row * to_lane, row);
                for (source, target, len) in spans.chain([value]) {
                    self.copy_bytes((from / BLOCK_TOKENS, source), (to / BLOCK_TOKENS, target), len);
                }
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

/// Rounds the step's keys and values to f16 (nearest even, clamped to ±65504, NaN preserved) and stores them.
/// `k` is `[rows][kv_heads][head_dim_k]` over all rows of the step, `v` likewise.
///
/// # Panics
/// If a slot lies outside a sequence's open blocks, or a row outside `k` or `v`.
pub fn store_kv(
    c: &Compute,
    layout: &KvLayout,
    layer: usize,
    seqs: &mut [AttnSeq<'_, '_>],
    k: &[f32],
    v: &[f32],
) {
    for seq in seqs {
        assert_eq!(*layout, seq.kv.layout, "the sequence's KV layout differs from the model's");
        seq.kv.assert_open(seq.committed..seq.committed + seq.rows.len());
        let sealed = seq.kv.sealed.len();
        let (row_k, row_v) = (layout.kv_heads * layout.head_dim_k, layout.kv_heads * layout.head_dim_v);
        let k = &k[seq.rows.start * row_k..seq.rows.end * row_k];
        let v = &v[seq.rows.start * row_v..seq.rows.end * row_v];
        let blocks: Vec<Shared<'_, u8>> = seq.kv.open.iter_mut().map(|block| Shared::new(block)).collect();
        c.pool().split(layout.kv_heads, k.len() + v.len(), &|heads| {
            for head in heads {
                let head =
                    StoreHead { layout, layer, head, blocks: &blocks, sealed, first: seq.committed, k, v };
                dispatch(c, head);
            }
        });
    }
}

/// Stores one head of one sequence's rows.
struct StoreHead<'a> {
    layout: &'a KvLayout,
    layer: usize,
    head: usize,
    blocks: &'a [Shared<'a, u8>],
    sealed: usize,
    first: usize,
    k: &'a [f32],
    v: &'a [f32],
}

impl Kernel for StoreHead<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let (dim_k, dim_v) = (self.layout.head_dim_k, self.layout.head_dim_v);
        let (row_k, row_v) = (self.layout.kv_heads * dim_k, self.layout.kv_heads * dim_v);
        for (row, (k, v)) in self.k.chunks_exact(row_k).zip(self.v.chunks_exact(row_v)).enumerate() {
            let slot = self.first + row;
            let (block, lane) = (&self.blocks[slot / BLOCK_TOKENS - self.sealed], slot % BLOCK_TOKENS);
            // SAFETY: a head is stored by one worker, and parts of different heads don't overlap.
            let keys = unsafe { part(block, self.layout.keys(self.layer, self.head)) };
            // SAFETY: as above, and keys and values don't overlap.
            let values = unsafe { part(block, self.layout.values(self.layer, self.head)) };
            let k = &k[self.head * dim_k..][..dim_k];
            for (k, keys) in k.chunks(LANES).zip(keys.chunks_mut(LANES * BLOCK_TOKENS * 2)) {
                for (half, lanes) in
                    narrow(s, k).into_iter().zip(keys.as_chunks_mut::<{ 2 * BLOCK_TOKENS }>().0)
                {
                    lanes[2 * lane..2 * lane + 2].copy_from_slice(&half.to_ne_bytes());
                }
            }
            let v = &v[self.head * dim_v..][..dim_v];
            let values = &mut values[2 * lane * dim_v..2 * (lane + 1) * dim_v];
            for (v, values) in v.chunks(LANES).zip(values.chunks_mut(2 * LANES)) {
                write_halves(values, &narrow(s, v));
            }
        }
    }
}

/// A part of a block.
///
/// # Safety
/// As [`Shared::part`].
unsafe fn part<'a>(block: &Shared<'a, u8>, range: Range<usize>) -> &'a mut [u8] {
    // SAFETY: the caller's promise.
    unsafe { block.part(range.start, range.len()) }
}

/// Converts up to 16 numbers to f16: clamped to the finite range, NaN preserved, round to nearest even.
#[inline(always)]
fn narrow<S: Simd16>(s: S, x: &[f32]) -> [u16; LANES] {
    let x = match x.try_into() {
        Ok(whole) => s.load_array(whole),
        Err(_) => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            s.load_array(&lanes)
        }
    };
    let x = s.max(s.splat(-F16_MAX), s.min(s.splat(F16_MAX), x));
    let mut halves = [0; LANES];
    // SAFETY: the array has room for 16 values.
    unsafe { s.store_f16(halves.as_mut_ptr(), x) };
    halves
}

#[inline(always)]
fn write_halves(target: &mut [u8], halves: &[u16; LANES]) {
    if target.len() == 2 * LANES {
        // SAFETY: the target has 32 bytes, and bytes have no alignment.
        unsafe { target.as_mut_ptr().cast::<[u16; LANES]>().write_unaligned(*halves) };
    } else {
        for (target, half) in target.chunks_exact_mut(2).zip(halves) {
            target.copy_from_slice(&half.to_ne_bytes());
        }
    }
}

/// A number rounded as [`store_kv`] rounds it: for tests and reference implementations.
pub fn through_f16(x: f32) -> f32 {
    let cut = x.clamp(-F16_MAX, F16_MAX);
    f16::from_f32_const(cut).to_f32_const()
}
