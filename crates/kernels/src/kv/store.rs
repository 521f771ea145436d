//! Writing the KV of a step's rows into blocks, rounded to f16.

use std::ops::Range;

use half::f16;

use super::{AttnSeq, BLOCK_TOKENS, HeadsPlace, KvLayout, LatentPlace, LayerPlace, Part};
use crate::compute::Compute;
use crate::share::Shared;
use crate::simd::{Kernel, LANES, Simd16, dispatch};

/// The largest finite f16; larger magnitudes are clamped to it.
const F16_MAX: f32 = 65_504.0;

/// Rounds the step's keys and values to f16 (nearest even, clamped to ±65504, NaN preserved) and stores them.
/// `k` is `[rows][kv_heads][dim_k]` over all rows of the step, `v` likewise.
///
/// # Panics
/// If the layer has no heads, a slot lies outside a sequence's open blocks, or a row outside `k` or `v`.
pub fn store_kv(
    c: &Compute,
    layout: &KvLayout,
    layer: usize,
    seqs: &mut [AttnSeq<'_, '_>],
    k: &[f32],
    v: &[f32],
) {
    let LayerPlace::Heads(place) = layout.place(layer) else { panic!("layer {layer} keeps no heads") };
    let (row_k, row_v) = (place.kv_heads * place.dim_k, place.kv_heads * place.dim_v);
    for seq in seqs {
        let (rows, first) = (seq.rows.clone(), seq.committed);
        let (sealed, blocks) = open_parts(layout, seq, place.part);
        let k = &k[rows.start * row_k..rows.end * row_k];
        let v = &v[rows.start * row_v..rows.end * row_v];
        c.pool().split(place.kv_heads, k.len() + v.len(), &|heads| {
            for head in heads {
                let head = StoreHead { place, head, blocks: &blocks, sealed, first, k, v };
                dispatch(c, head);
            }
        });
    }
}

/// Rounds the step's latents to f16, as [`store_kv`] does, and stores them. `x` is `[rows][rank + rope]` over all
/// rows of the step.
///
/// # Panics
/// If the layer has no latents, a slot lies outside a sequence's open blocks, or a row outside `x`.
pub fn store_latent(c: &Compute, layout: &KvLayout, layer: usize, seqs: &mut [AttnSeq<'_, '_>], x: &[f32]) {
    let LayerPlace::Latent(place) = layout.place(layer) else { panic!("layer {layer} keeps no latents") };
    let width = place.width();
    for seq in seqs {
        let (rows, first) = (seq.rows.clone(), seq.committed);
        let (sealed, blocks) = open_parts(layout, seq, Part::Lasting);
        let x = &x[rows.start * width..rows.end * width];
        c.pool().split(rows.len(), x.len(), &|rows| {
            for row in rows {
                let slot = first + row;
                let block = &blocks[slot / BLOCK_TOKENS - sealed];
                let lane = slot % BLOCK_TOKENS;
                dispatch(c, StoreLatent { place, block, lane, x: &x[row * width..][..width] });
            }
        });
    }
}

/// The number of sealed blocks, and one part of the open ones.
fn open_parts<'b>(
    layout: &KvLayout,
    seq: &'b mut AttnSeq<'_, '_>,
    part: Part,
) -> (usize, Vec<Shared<'b, u8>>) {
    assert_eq!(*layout, seq.kv.layout, "the sequence's KV layout differs from the model's");
    seq.kv.assert_open(seq.committed..seq.committed + seq.rows.len());
    let open = seq.kv.open.iter_mut().map(|block| match part {
        Part::Lasting => Shared::new(&mut *block.lasting),
        Part::Windowed => Shared::new(&mut *block.windowed),
    });
    (seq.kv.sealed.len(), open.collect())
}

/// Stores one head of one sequence's rows.
struct StoreHead<'a> {
    place: HeadsPlace,
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
        let HeadsPlace { kv_heads, dim_k, dim_v, .. } = self.place;
        let (row_k, row_v) = (kv_heads * dim_k, kv_heads * dim_v);
        for (row, (k, v)) in self.k.chunks_exact(row_k).zip(self.v.chunks_exact(row_v)).enumerate() {
            let slot = self.first + row;
            let (block, lane) = (&self.blocks[slot / BLOCK_TOKENS - self.sealed], slot % BLOCK_TOKENS);
            // SAFETY: a head is stored by one worker, and parts of different heads don't overlap.
            let keys = unsafe { part(block, self.place.keys(self.head)) };
            // SAFETY: as above, and keys and values don't overlap.
            let values = unsafe { part(block, self.place.values(self.head)) };
            let k = &k[self.head * dim_k..][..dim_k];
            for (k, keys) in k.chunks(LANES).zip(keys.chunks_mut(LANES * BLOCK_TOKENS * 2)) {
                for (half, lanes) in
                    narrow(s, k).into_iter().zip(keys.as_chunks_mut::<{ 2 * BLOCK_TOKENS }>().0)
                {
                    lanes[2 * lane..2 * lane + 2].copy_from_slice(&half.to_ne_bytes());
                }
            }
            let v = &v[self.head * dim_v..][..dim_v];
            store_row(s, &mut values[2 * lane * dim_v..2 * (lane + 1) * dim_v], v);
        }
    }
}

/// Stores the latent of one row.
struct StoreLatent<'a> {
    place: LatentPlace,
    block: &'a Shared<'a, u8>,
    lane: usize,
    x: &'a [f32],
}

impl Kernel for StoreLatent<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let row = 2 * self.x.len();
        let start = self.place.rows().start + row * self.lane;
        // SAFETY: a row is stored by one worker, and rows don't overlap.
        let target = unsafe { part(self.block, start..start + row) };
        store_row(s, target, self.x);
    }
}

#[inline(always)]
fn store_row<S: Simd16>(s: S, target: &mut [u8], x: &[f32]) {
    for (x, target) in x.chunks(LANES).zip(target.chunks_mut(2 * LANES)) {
        write_halves(target, &narrow(s, x));
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
