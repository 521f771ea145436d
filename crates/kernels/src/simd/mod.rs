//! One token type per instruction set, and the operations that all kernels are written in.
//!
//! A token can only be made where the CPU has the instructions, so a value of it is the proof that its operations may
//! run. Kernels are written once against [`Simd16`], in vectors of 16 floats, 16 integers or 64 bytes, and compiled for
//! each token by `enter`. The invariant: every operation gives the same bits on every token, because each is one
//! correctly rounded or exact operation per lane, or a fixed sequence of them.

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use absent::{Avx2, Avx512, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

use crate::compute::Compute;
use crate::tile::{Format, TileCall};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The largest [`Simd16::TILE_ROWS`].
pub(crate) const MAX_TILE_ROWS: usize = 6;

/// Work that is compiled once per instruction set.
pub(crate) trait Kernel {
    /// What the kernel returns.
    type Out;

    /// Must be `#[inline(always)]`, down to the last vector operation, or it isn't compiled with the token's
    /// instructions. The same holds for closures, so there are none in vector code.
    fn run<S: Simd16>(self, simd: S) -> Self::Out;
}

/// Runs a kernel compiled for the instruction set of `compute`.
#[inline]
pub(crate) fn dispatch<K: Kernel>(compute: &Compute, kernel: K) -> K::Out {
    compute.token().dispatch(kernel)
}

/// The operations of an instruction set. Vectors have 16 lanes of 32 bits, or 64 bytes. Operations without a suffix are
/// on floats, `_i` on integers, `_b` on bytes.
///
/// # Safety
/// Functions that take a pointer read or write what their summary says, at any alignment; the caller guarantees that
/// this memory is valid.
pub(crate) trait Simd16: Copy + Send + Sync {
    /// 16 floats.
    type V: Copy;
    /// 16 integers.
    type I: Copy;
    /// 64 bytes.
    type B: Copy;
    /// Whether `dot_wide` converts codes to signed numbers around 128, and so subtracts the zero point itself.
    const WIDE_IS_SIGNED: bool;
    /// Rows of a register tile in attention, at most [`MAX_TILE_ROWS`].
    const TILE_ROWS: usize;
    /// Vectors per row of a register tile in attention: 1, 2 or 4.
    const TILE_VECTORS: usize;
    /// Accumulators (vectors) of a register tile of float weights.
    const FLOAT_SUMS: usize;

    /// Runs `kernel` compiled for this instruction set.
    fn enter<K: Kernel>(self, kernel: K) -> K::Out;

    /// Multiplies the largest number of tokens, at most `tokens`, that one tile kernel handles, and returns it.
    ///
    /// # Safety
    /// As `tile::Tile`.
    unsafe fn tile<F: Format>(self, call: &TileCall, tokens: usize) -> usize;

    /// 64 bytes.
    unsafe fn load_b(self, at: *const u8) -> Self::B;
    /// The bits of `mask` in every byte.
    fn and_b(self, x: Self::B, mask: u8) -> Self::B;
    fn or_b(self, x: Self::B, y: Self::B) -> Self::B;
    /// Shifts bytes; the bits that enter a byte are unspecified and must be masked off.
    fn shr_b(self, x: Self::B, bits: usize) -> Self::B;
    /// Shifts bytes; the bits that enter a byte are unspecified and must be masked off.
    fn shl_b(self, x: Self::B, bits: usize) -> Self::B;
    /// Replaces every byte (below 16) by its entry.
    fn lookup(self, table: &[u8; 16], x: Self::B) -> Self::B;

    fn zero_i(self) -> Self::I;
    /// One i32 in all lanes.
    unsafe fn splat_i(self, at: *const i32) -> Self::I;
    fn add_i(self, x: Self::I, y: Self::I) -> Self::I;
    fn mul_i(self, x: Self::I, y: Self::I) -> Self::I;
    fn and_i(self, x: Self::I, mask: i32) -> Self::I;
    fn shl_i(self, x: Self::I, bits: u32) -> Self::I;
    fn shr_i(self, x: Self::I, bits: u32) -> Self::I;
    /// 16 unsigned bytes.
    unsafe fn load_u8(self, at: *const u8) -> Self::I;
    /// 16 signed bytes.
    unsafe fn load_i8(self, at: *const u8) -> Self::I;

    /// Adds to lane i the products of bytes 4i … 4i+3 of `codes` (unsigned, at most 128) with 4 signed bytes that are
    /// not -128.
    unsafe fn dot(self, sum: Self::I, codes: Self::B, at: *const u8) -> Self::I;
    /// As `dot` for codes up to 255; see `WIDE_IS_SIGNED`.
    unsafe fn dot_wide(self, sum: Self::I, codes: Self::B, at: *const u8) -> Self::I;

    fn splat(self, x: f32) -> Self::V;
    /// One f32 in all lanes.
    unsafe fn splat_at(self, at: *const f32) -> Self::V;
    /// 16 floats.
    unsafe fn load(self, at: *const f32) -> Self::V;
    /// 16 floats.
    unsafe fn store(self, at: *mut f32, x: Self::V);
    /// Widens 16 halves, exactly.
    unsafe fn load_f16(self, at: *const u16) -> Self::V;
    /// Narrows to 16 halves, round to nearest even; values beyond the range become infinite.
    unsafe fn store_f16(self, at: *mut u16, x: Self::V);
    /// 16 upper halves of floats.
    unsafe fn load_bf16(self, at: *const u16) -> Self::V;
    /// 16 exponents (e8m0), each half of its power of two.
    unsafe fn load_exponent(self, at: *const u8) -> Self::V;
    fn convert(self, x: Self::I) -> Self::V;
    fn add(self, x: Self::V, y: Self::V) -> Self::V;
    fn sub(self, x: Self::V, y: Self::V) -> Self::V;
    fn mul(self, x: Self::V, y: Self::V) -> Self::V;
    fn div(self, x: Self::V, y: Self::V) -> Self::V;
    /// `x * y + z`, rounded once.
    fn fma(self, x: Self::V, y: Self::V, z: Self::V) -> Self::V;
    /// `z - x * y`, rounded once.
    fn fnma(self, x: Self::V, y: Self::V, z: Self::V) -> Self::V;
    /// `if x > y { x } else { y }`: `y` where either is NaN.
    fn max(self, x: Self::V, y: Self::V) -> Self::V;
    /// `if x < y { x } else { y }`: `y` where either is NaN.
    fn min(self, x: Self::V, y: Self::V) -> Self::V;
    /// `if x < y { yes } else { no }`.
    fn select_lt(self, x: Self::V, y: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Adds the low 9 bits of `n`'s representation to the exponent of `x`, as an integer.
    fn add_exponent(self, x: Self::V, n: Self::V) -> Self::V;
    /// Sum of all lanes in the canonical tree: `i += i + 8`, then `+ 4`, `+ 2`, `+ 1`.
    fn fold_add(self, x: Self::V) -> f32;
    /// Maximum of all lanes, in the same tree.
    fn fold_max(self, x: Self::V) -> f32;

    /// The largest bit pattern of |x| among 32 floats.
    unsafe fn max_abs_bits(self, at: *const f32) -> u32;
    /// Rounds 16 products `x · by` (below 128 in size) to even integers, writes them as bytes, returns their sum.
    unsafe fn quantise(self, at: *const f32, by: f32, out: *mut u8) -> i32;

    /// Prefetches the cache line at `at`, which need not be readable.
    fn prefetch(self, at: *const u8);

    #[inline(always)]
    fn load_array(self, a: &[f32; LANES]) -> Self::V {
        // SAFETY: the array has 16 floats.
        unsafe { self.load(a.as_ptr()) }
    }

    #[inline(always)]
    fn store_array(self, a: &mut [f32; LANES], x: Self::V) {
        // SAFETY: the array has 16 floats.
        unsafe { self.store(a.as_mut_ptr(), x) }
    }
}

/// Runs the largest tile of the list that has at most `tokens` tokens, and returns its size.
macro_rules! tiles {
    ($simd:expr, $format:ty, $call:expr, $tokens:expr, [$($size:literal),+]) => {
        $(if $tokens >= $size {
            // SAFETY: the promise made to `Simd16::tile`, whose body this is.
            $simd.enter(unsafe { $crate::tile::Tile::<$format, $size>::new($call) });
            $size
        } else)+ {
            0
        }
    };
}
pub(crate) use tiles;
