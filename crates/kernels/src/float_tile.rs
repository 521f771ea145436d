//! The inner loops of a matmul with float weights: several 16-row groups times several tokens.
//!
//! A group is stored as 16 values per column. Every output is one chain of fused multiply-adds over rising k, for any
//! size of tile, so the tile decides only how many chains are in flight and how often a load is reused. With one token
//! that is what hides the latency of an fma; with several it saves conversions and loads.

use std::marker::PhantomData;

use crate::simd::{LANES, Simd16};
use crate::tile::{AHEAD, Format, TileCall, TileSizes, store};

/// Most groups of a tile.
const GROUPS_MAX: usize = 4;

/// A type of float weights.
pub(crate) trait FloatType {
    /// Bytes of a value.
    const WIDTH: usize;

    /// Loads and widens 16 values.
    ///
    /// # Safety
    /// `at` must be readable for 16 values.
    unsafe fn load<S: Simd16>(s: S, at: *const u8) -> S::V;
}

/// The format of a type of float weights.
pub(crate) struct Float<W>(PhantomData<W>);

macro_rules! float_types {
    ($($name:ident: $width:literal, $load:ident;)+) => {
        $(
            pub(crate) struct $name;

            impl FloatType for $name {
                const WIDTH: usize = $width;

                #[inline(always)]
                unsafe fn load<S: Simd16>(s: S, at: *const u8) -> S::V {
                    // SAFETY: the caller's promise.
                    unsafe { s.$load(at.cast()) }
                }
            }
        )+
    };
}

float_types! {
    F32: 4, load;
    F16: 2, load_f16;
    BF16: 2, load_bf16;
}

/// Groups of a tile with `tokens` tokens and at most `sums` accumulators.
const fn groups_of_tile(sums: usize, tokens: usize) -> usize {
    let groups = sums / tokens;
    if groups > GROUPS_MAX {
        GROUPS_MAX
    } else if groups == 0 {
        1
    } else {
        groups
    }
}

impl<W: FloatType> Format for Float<W> {
    const SIZES: TileSizes = TileSizes::Float;

    #[inline(always)]
    unsafe fn run<S: Simd16, const T: usize>(s: S, call: &TileCall) {
        let size = const { groups_of_tile(S::FLOAT_SUMS, T) };
        let mut group = 0;
        while group < call.groups {
            let left = call.groups - group;
            // SAFETY: so many groups are left of those that the caller guarantees.
            unsafe {
                group += if size >= 4 && left >= 4 {
                    tile::<W, S, T, 4>(s, call, group)
                } else if size >= 3 && left >= 3 {
                    tile::<W, S, T, 3>(s, call, group)
                } else if size >= 2 && left >= 2 {
                    tile::<W, S, T, 2>(s, call, group)
                } else {
                    tile::<W, S, T, 1>(s, call, group)
                };
            }
        }
    }
}

/// Computes and stores the products of `G` groups with `T` tokens. Returns `G`.
///
/// # Safety
/// `call` must have groups `group..group + G` of this type, the float rows of `T` tokens, and their outputs.
#[inline(always)]
unsafe fn tile<W: FloatType, S: Simd16, const T: usize, const G: usize>(
    s: S,
    call: &TileCall,
    group: usize,
) -> usize {
    let column = const { LANES * W::WIDTH };
    let mut sums = [[s.splat(0.0); T]; G];
    for k in 0..call.cols {
        // The groups are consecutive: what follows a group's end is being read already, and the next tile is
        // `G - 1` groups further on.
        let end = if k * column + AHEAD < call.group_bytes { 0 } else { (G - 1) * call.group_bytes };
        // SAFETY: column k of these groups, and value k of every token's row; a prefetch doesn't read.
        unsafe {
            let weights = call.weights.add(group * call.group_bytes + k * column);
            let mut w = [s.splat(0.0); G];
            for (g, w) in w.iter_mut().enumerate() {
                let at = weights.add(g * call.group_bytes);
                s.prefetch(at.wrapping_add(AHEAD + end));
                *w = W::load(s, at);
            }
            for t in 0..T {
                let x = s.splat_at(call.activations.add(t * call.step + 4 * k).cast());
                for (w, sums) in w.iter().zip(&mut sums) {
                    sums[t] = s.fma(*w, x, sums[t]);
                }
            }
        }
    }
    for (g, sums) in sums.into_iter().enumerate() {
        for (t, sum) in sums.into_iter().enumerate() {
            // SAFETY: outputs of these groups and tokens.
            unsafe { store(s, call, (group + g) * LANES, t, sum) };
        }
    }
    G
}
