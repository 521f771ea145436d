//! The inner loops of attention: scores, softmax and weighted values of a few rows over one KV block.
//!
//! A tile is up to [`MAX_TILE_ROWS`] query rows that share every load of K and V. The number of rows does not affect a
//! result: each row's fma chains run over rising `d`, then over rising positions.
//!
//! A tile prefetches the data of the next phase: the scores prefetch the values of their block, the values the keys
//! of the next block. Both are as long as the data being read, one line prefetched per line read.

use crate::kv::BLOCK_TOKENS;
use crate::math::{exp16, tanh16};
use crate::simd::{LANES, MAX_TILE_ROWS, Simd16};

/// Vectors of positions in a block.
const VECTORS: usize = BLOCK_TOKENS / LANES;

/// The rows of a tile: row `r` at `start + r * stride`.
#[derive(Clone, Copy)]
pub(super) struct RowsPtr {
    pub(super) start: *const f32,
    pub(super) stride: usize,
}

/// As [`RowsPtr`], mutable.
#[derive(Clone, Copy)]
pub(super) struct RowsMut {
    pub(super) start: *mut f32,
    pub(super) stride: usize,
}

/// Calls `$f::<S, R, G>` with the number of rows as a constant.
macro_rules! with_rows {
    ($rows:expr, $f:ident, $g:literal, $($arg:expr),*) => {
        match $rows {
            1 => $f::<S, 1, $g>($($arg),*),
            2 => $f::<S, 2, $g>($($arg),*),
            3 => $f::<S, 3, $g>($($arg),*),
            4 if S::TILE_ROWS >= 4 => $f::<S, 4, $g>($($arg),*),
            5 if S::TILE_ROWS >= 5 => $f::<S, 5, $g>($($arg),*),
            6 if S::TILE_ROWS >= 6 => $f::<S, 6, $g>($($arg),*),
            rows => unreachable!("{rows} rows in a tile"),
        }
    };
}

/// Splits `$count` vectors into runs of at most `S::TILE_VECTORS` and calls `$f` for each.
macro_rules! with_vectors {
    ($count:expr, $rows:expr, $f:ident, |$at:ident| ($($arg:expr),*)) => {
        let mut $at = 0;
        while $at < $count {
            let left = $count - $at;
            if S::TILE_VECTORS >= 4 && left >= 4 {
                with_rows!($rows, $f, 4, $($arg),*);
                $at += 4;
            } else if S::TILE_VECTORS >= 2 && left >= 2 {
                with_rows!($rows, $f, 2, $($arg),*);
                $at += 2;
            } else {
                with_rows!($rows, $f, 1, $($arg),*);
                $at += 1;
            }
        }
    };
}

/// `out[r][p] = scale * Σ_d k[d][p] q[r][d]` for the first `visible` positions of a block, and minus infinity
/// for the others.
///
/// # Safety
/// `k` is `[dim][64]` halves; `q` has `rows` rows of `dim`; `out` has `rows` rows of 64; `rows` is 1 to
/// `S::TILE_ROWS`.
#[allow(clippy::too_many_arguments, reason = "an operation with as many operands")]
#[inline(always)]
pub(super) unsafe fn scores<S: Simd16>(
    s: S,
    k: *const u16,
    dim: usize,
    q: RowsPtr,
    rows: usize,
    visible: usize,
    scale: f32,
    prefetch: *const u8,
    out: *mut [f32; BLOCK_TOKENS],
) {
    let vectors = visible.div_ceil(LANES);
    // SAFETY: vectors `at..` up to `vectors`, at most 4, are inside the block and the rows of `out`.
    unsafe {
        with_vectors!(vectors, rows, score_tile, |at| (
            s,
            k.add(at * LANES),
            dim,
            q,
            scale,
            prefetch,
            out.cast::<f32>().add(at * LANES)
        ));
    }
    for r in 0..rows {
        // SAFETY: `out` has `rows` rows.
        let row = unsafe { &mut *out.add(r) };
        row[visible..].fill(f32::NEG_INFINITY);
    }
}

/// # Safety
/// As [`scores`], for the `G` vectors of positions that `k` and `out` point to.
#[inline(always)]
unsafe fn score_tile<S: Simd16, const R: usize, const G: usize>(
    s: S,
    k: *const u16,
    dim: usize,
    q: RowsPtr,
    scale: f32,
    prefetch: *const u8,
    out: *mut f32,
) {
    let mut sums = [[s.splat(0.0); G]; R];
    for d in 0..dim {
        s.prefetch(prefetch.wrapping_add(d * 2 * BLOCK_TOKENS));
        s.prefetch(prefetch.wrapping_add(d * 2 * BLOCK_TOKENS + 64));
        // SAFETY: `d` is below `dim`, and the caller promises the memory.
        unsafe {
            let mut keys = [s.splat(0.0); G];
            for (g, key) in keys.iter_mut().enumerate() {
                *key = s.load_f16(k.add(d * BLOCK_TOKENS + g * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = s.splat(*q.start.add(r * q.stride + d));
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = s.fma(key, q, *sum);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (g, sum) in sums.iter().enumerate() {
            // SAFETY: row `r` of `out` has room for these vectors.
            unsafe { s.store(out.add(r * BLOCK_TOKENS + g * LANES), s.mul(s.splat(scale), *sum)) };
        }
    }
}

/// `out[r][p] = scale * Σ_d k[p][d] q[r][d]` for the first `visible` positions of a block of latents, and minus infinity
/// for the others. The sum runs in 16 lanes over rising `d`, folded at the end.
///
/// # Safety
/// `k` is `[64][dim]` halves; `q` has `rows` rows of `dim`; `out` has `rows` rows of 64; `rows` is 1 to
/// `S::TILE_ROWS`.
#[allow(clippy::too_many_arguments, reason = "an operation with as many operands")]
#[inline(always)]
pub(super) unsafe fn latent_scores<S: Simd16>(
    s: S,
    k: *const u16,
    dim: usize,
    q: RowsPtr,
    rows: usize,
    visible: usize,
    scale: f32,
    out: *mut [f32; BLOCK_TOKENS],
) {
    // SAFETY: positions `at..` up to `visible`, at most 64, are inside the block and the rows of `out`.
    unsafe {
        with_vectors!(visible, rows, latent_tile, |at| (
            s,
            k.add(at * dim),
            dim,
            q,
            scale,
            out.cast::<f32>().add(at)
        ));
    }
    for r in 0..rows {
        // SAFETY: `out` has `rows` rows.
        let row = unsafe { &mut *out.add(r) };
        row[visible..].fill(f32::NEG_INFINITY);
    }
}

/// # Safety
/// As [`latent_scores`], for the `G` positions that `k` and `out` point to.
#[inline(always)]
unsafe fn latent_tile<S: Simd16, const R: usize, const G: usize>(
    s: S,
    k: *const u16,
    dim: usize,
    q: RowsPtr,
    scale: f32,
    out: *mut f32,
) {
    let mut sums = [[s.splat(0.0); G]; R];
    let whole = dim - dim % LANES;
    for d in (0..whole).step_by(LANES) {
        // SAFETY: `d + 16` is at most `dim`, and the caller promises the memory.
        unsafe {
            let mut keys = [s.splat(0.0); G];
            for (g, key) in keys.iter_mut().enumerate() {
                *key = s.load_f16(k.add(g * dim + d));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = s.load(q.start.add(r * q.stride + d));
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = s.fma(key, q, *sum);
                }
            }
        }
    }
    if whole < dim {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller promises the memory.
            let q = unsafe { std::slice::from_raw_parts(q.start.add(r * q.stride + whole), dim - whole) };
            let mut q_rest = [0.0; LANES];
            q_rest[..q.len()].copy_from_slice(q);
            for (g, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let k = unsafe { std::slice::from_raw_parts(k.add(g * dim + whole), dim - whole) };
                let mut k_rest = [0; LANES];
                k_rest[..k.len()].copy_from_slice(k);
                // SAFETY: the array has 16 values.
                let key = unsafe { s.load_f16(k_rest.as_ptr()) };
                *sum = s.fma(key, s.load_array(&q_rest), *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (g, sum) in sums.iter().enumerate() {
            // SAFETY: row `r` of `out` has room for these positions.
            unsafe { *out.add(r * BLOCK_TOKENS + g) = scale * s.fold_add(*sum) };
        }
    }
}

/// `cap * tanh(score / cap)` of the first `visible` scores of each row; the others stay minus infinity.
#[inline(always)]
pub(super) fn soften<S: Simd16>(s: S, scores: &mut [[f32; BLOCK_TOKENS]], visible: usize, cap: f32) {
    let inverse = s.splat(1.0 / cap);
    for row in scores {
        for vector in &mut row.as_chunks_mut::<LANES>().0[..visible.div_ceil(LANES)] {
            let t = tanh16(s, s.mul(s.load_array(vector), inverse));
            s.store_array(vector, s.mul(s.splat(cap), t));
        }
        row[visible..].fill(f32::NEG_INFINITY);
    }
}

/// Running softmax of the rows of a tile.
pub(super) struct Softmax<'a> {
    /// Largest score so far.
    pub(super) max: &'a mut [f32],
    /// `Σ e^(score - max)` so far.
    pub(super) sum: &'a mut [f32],
}

/// Replaces scores by weights `e^(score - max)`, and returns the factors by which the rows' accumulators must be
/// rescaled. A row without a visible position is left unchanged.
#[inline(always)]
pub(super) fn softmax_weights<S: Simd16>(
    s: S,
    scores: &mut [[f32; BLOCK_TOKENS]],
    state: Softmax<'_>,
) -> [f32; MAX_TILE_ROWS] {
    let mut shift = [0.0; LANES];
    let mut masked = [false; MAX_TILE_ROWS];
    for (r, row) in scores.iter().enumerate() {
        let (vectors, _) = row.as_chunks::<LANES>();
        let mut max = s.load_array(&vectors[0]);
        for vector in &vectors[1..VECTORS] {
            max = s.max(s.load_array(vector), max);
        }
        let max = s.fold_max(max);
        masked[r] = max == f32::NEG_INFINITY;
        let old = state.max[r];
        let new = if max > old { max } else { old };
        shift[r] = if masked[r] { 0.0 } else { old - new };
        state.max[r] = new;
    }
    let mut scale = [0.0; LANES];
    s.store_array(&mut scale, exp16(s, s.load_array(&shift)));
    for (r, row) in scores.iter_mut().enumerate() {
        if masked[r] {
            continue;
        }
        let max = s.splat(state.max[r]);
        let mut total = s.splat(0.0);
        for vector in row.as_chunks_mut::<LANES>().0 {
            let p = exp16(s, s.sub(s.load_array(vector), max));
            s.store_array(vector, p);
            total = s.add(total, p);
        }
        state.sum[r] = state.sum[r].mul_add(scale[r], s.fold_add(total));
    }
    std::array::from_fn(|r| scale[r])
}

/// Values of consecutive slots: `dim` halves each, a stride apart.
#[derive(Clone, Copy)]
pub(super) struct Values {
    pub(super) start: *const u16,
    pub(super) dim: usize,
    /// Halves from a position to the next.
    pub(super) stride: usize,
}

/// `acc[r] = acc[r] * rescale[r]`, then `acc[r] += weights[r][p] * v[p]` over rising `p` in `0..positions`.
///
/// # Safety
/// `v` is `positions` rows of `dim` halves; `weights` has `rows` rows of `positions`, 64 apart; `acc` has `rows` rows of `dim`.
#[allow(clippy::too_many_arguments, reason = "an operation with as many operands")]
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd16>(
    s: S,
    v: Values,
    positions: usize,
    weights: *const f32,
    rows: usize,
    rescale: &[f32; MAX_TILE_ROWS],
    prefetch: *const u8,
    acc: RowsMut,
) {
    let vectors = v.dim / LANES;
    // SAFETY: vectors `at..` up to `vectors` are inside `dim`.
    unsafe {
        with_vectors!(vectors, rows, value_tile, |at| (
            s,
            Values { start: v.start.add(at * LANES), ..v },
            positions,
            weights,
            rescale,
            prefetch.wrapping_add(2 * at * LANES * BLOCK_TOKENS),
            RowsMut { start: acc.start.add(at * LANES), ..acc }
        ));
        for d in vectors * LANES..v.dim {
            for (r, rescale) in rescale.iter().enumerate().take(rows) {
                let acc = &mut *acc.start.add(r * acc.stride + d);
                *acc *= rescale;
                for p in 0..positions {
                    let value = half::f16::from_bits(*v.start.add(p * v.stride + d)).to_f32_const();
                    *acc = (*weights.add(r * BLOCK_TOKENS + p)).mul_add(value, *acc);
                }
            }
        }
    }
}

/// # Safety
/// As [`accumulate`], for the `G` vectors that `v` and `acc` point to.
#[inline(always)]
unsafe fn value_tile<S: Simd16, const R: usize, const G: usize>(
    s: S,
    v: Values,
    positions: usize,
    weights: *const f32,
    rescale: &[f32; MAX_TILE_ROWS],
    prefetch: *const u8,
    acc: RowsMut,
) {
    let mut sums = [[s.splat(0.0); G]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        for (g, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller promises the memory.
            *sum = unsafe { s.mul(s.load(acc.start.add(r * acc.stride + g * LANES)), s.splat(rescale[r])) };
        }
    }
    for p in 0..positions {
        for line in 0..G.div_ceil(2) {
            s.prefetch(prefetch.wrapping_add(2 * p * G * LANES + 64 * line));
        }
        // SAFETY: `p` is below `positions`, and the caller promises the memory.
        unsafe {
            let mut values = [s.splat(0.0); G];
            for (g, value) in values.iter_mut().enumerate() {
                *value = s.load_f16(v.start.add(p * v.stride + g * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = s.splat(*weights.add(r * BLOCK_TOKENS + p));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = s.fma(value, weight, *sum);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (g, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { s.store(acc.start.add(r * acc.stride + g * LANES), *sum) };
        }
    }
}
