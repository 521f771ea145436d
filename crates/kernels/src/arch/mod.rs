//! One token type per instruction set, and the operations that the kernels are written in.
//!
//! A token can only be made where the processor has the instructions, so holding one is the proof that its
//! operations may run. Kernels are written once against `Simd`, in vectors of 16 floats, 16 integers or 64
//! bytes, and compiled for each token by `enter`. Every operation gives the same bits on every token.

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

use crate::tile::{Format, TileCall};

/// Work that is compiled once per instruction set.
pub(crate) trait Kernel {
    type Out;

    /// Must be `#[inline(always)]`, or it won't be compiled with the token's instructions.
    fn run<S: Simd>(self, simd: S) -> Self::Out;
}

/// The operations of an instruction set. Vectors have 16 lanes of 32 bits, or 64 bytes.
///
/// Functions that take a pointer read or write what their summary says, at any alignment; that this memory
/// is there is the caller's duty.
pub(crate) trait Simd: Copy {
    /// 16 floats.
    type F: Copy;
    /// 16 integers.
    type I: Copy;
    /// 64 bytes.
    type B: Copy;
    /// Whether 8-bit codes are turned into signed numbers around 128 before they are multiplied, so that
    /// `dot_wide` takes off the zero point by itself.
    const WIDE_IS_SIGNED: bool;

    /// Runs `kernel` compiled for this instruction set.
    fn enter<K: Kernel>(self, kernel: K) -> K::Out;

    /// Multiplies as many of the `tokens` first tokens as one tile kernel can, and returns how many it did.
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

    /// Adds to lane i the products of bytes 4i … 4i+3 of `codes` (unsigned, below 64) with 4 signed bytes.
    unsafe fn dot(self, sum: Self::I, codes: Self::B, at: *const u8) -> Self::I;
    /// As `dot` for codes up to 255; see `WIDE_IS_SIGNED`. The signed bytes are not -128.
    unsafe fn dot_wide(self, sum: Self::I, codes: Self::B, at: *const u8) -> Self::I;

    fn zero_f(self) -> Self::F;
    /// One f32 in all lanes.
    unsafe fn splat_f(self, at: *const f32) -> Self::F;
    /// 16 floats.
    unsafe fn load_f(self, at: *const f32) -> Self::F;
    /// 16 floats.
    unsafe fn store_f(self, at: *mut f32, x: Self::F);
    /// 16 halves.
    unsafe fn load_f16(self, at: *const u8) -> Self::F;
    /// 16 upper halves of floats.
    unsafe fn load_bf16(self, at: *const u8) -> Self::F;
    /// 16 exponents (e8m0), each half of its power of two.
    unsafe fn load_exponent(self, at: *const u8) -> Self::F;
    fn convert(self, x: Self::I) -> Self::F;
    fn add_f(self, x: Self::F, y: Self::F) -> Self::F;
    fn mul_f(self, x: Self::F, y: Self::F) -> Self::F;
    /// x · y + z, rounded once.
    fn fma(self, x: Self::F, y: Self::F, z: Self::F) -> Self::F;
    /// z - x · y, rounded once.
    fn fnma(self, x: Self::F, y: Self::F, z: Self::F) -> Self::F;

    /// The largest bit pattern of |x| among 32 floats.
    unsafe fn max_abs_bits(self, at: *const f32) -> u32;
    /// Rounds 16 products `x · by` (below 128 in size) to even integers, writes them as bytes, returns their sum.
    unsafe fn quantise(self, at: *const f32, by: f32, out: *mut u8) -> i32;

    /// Asks for the cache line at `at`, which need not be readable.
    fn prefetch(self, at: *const u8);
}

/// Chooses the largest tile of the list that has no more than `tokens`, runs it, and returns its size.
macro_rules! tiles {
    ($simd:expr, $format:ty, $call:expr, $tokens:expr, [$($size:literal),+]) => {
        $(if $tokens >= $size {
            // SAFETY: the promise made to `Simd::tile`, whose body this is.
            $simd.enter(unsafe { $crate::tile::Tile::<$format, $size>::new($call) });
            $size
        } else)+ {
            0
        }
    };
}
pub(crate) use tiles;
