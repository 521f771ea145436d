//! Plain Rust: arrays in place of vectors. The definition that the other instruction sets must match.

use half::f16;

use super::{Kernel, Simd16, tiles};
use crate::quant::{exponent, half};
use crate::tile::{Format, TileCall};

/// The proof that anything can run plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Reads `N` elements.
///
/// # Safety
/// `at` must be readable for `N` elements; alignment doesn't matter.
unsafe fn read<T: Copy, const N: usize>(at: *const T) -> [T; N] {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<[T; N]>().read_unaligned() }
}

/// Lane-wise results of a binary operation.
#[inline(always)]
fn zip(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Reduces the lanes in the canonical tree.
#[inline(always)]
fn fold(mut v: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            v[i] = f(v[i], v[i + half]);
        }
    }
    v[0]
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

impl Simd16 for Scalar {
    type V = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    const WIDE_IS_SIGNED: bool = false;
    const TILE_ROWS: usize = 2;
    const TILE_VECTORS: usize = 1;
    const FLOAT_SUMS: usize = 4;

    fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }

    unsafe fn tile<F: Format>(self, call: &TileCall, tokens: usize) -> usize {
        tiles!(self, F, call, tokens, [4, 1])
    }

    #[inline(always)]
    unsafe fn load_b(self, at: *const u8) -> [u8; 64] {
        // SAFETY: the caller's promise.
        unsafe { read(at) }
    }
    #[inline(always)]
    fn and_b(self, x: [u8; 64], mask: u8) -> [u8; 64] {
        x.map(|x| x & mask)
    }
    #[inline(always)]
    fn or_b(self, x: [u8; 64], y: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| x[i] | y[i])
    }
    #[inline(always)]
    fn shr_b(self, x: [u8; 64], bits: usize) -> [u8; 64] {
        x.map(|x| x >> bits)
    }
    #[inline(always)]
    fn shl_b(self, x: [u8; 64], bits: usize) -> [u8; 64] {
        x.map(|x| x << bits)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: [u8; 64]) -> [u8; 64] {
        x.map(|x| table[usize::from(x & 15)])
    }

    #[inline(always)]
    fn zero_i(self) -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    unsafe fn splat_i(self, at: *const i32) -> [i32; 16] {
        // SAFETY: the caller's promise.
        [unsafe { at.read_unaligned() }; 16]
    }
    #[inline(always)]
    fn add_i(self, x: [i32; 16], y: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| x[i].wrapping_add(y[i]))
    }
    #[inline(always)]
    fn mul_i(self, x: [i32; 16], y: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| x[i].wrapping_mul(y[i]))
    }
    #[inline(always)]
    fn and_i(self, x: [i32; 16], mask: i32) -> [i32; 16] {
        x.map(|x| x & mask)
    }
    #[inline(always)]
    fn shl_i(self, x: [i32; 16], bits: u32) -> [i32; 16] {
        x.map(|x| x << bits)
    }
    #[inline(always)]
    fn shr_i(self, x: [i32; 16], bits: u32) -> [i32; 16] {
        x.map(|x| x >> bits)
    }
    #[inline(always)]
    unsafe fn load_u8(self, at: *const u8) -> [i32; 16] {
        // SAFETY: the caller's promise.
        unsafe { read::<u8, 16>(at) }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> [i32; 16] {
        // SAFETY: the caller's promise.
        unsafe { read::<i8, 16>(at.cast()) }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn dot(self, sum: [i32; 16], codes: [u8; 64], at: *const u8) -> [i32; 16] {
        // SAFETY: the caller's promise.
        let x = unsafe { read::<i8, 4>(at.cast()) };
        std::array::from_fn(|i| {
            (0..4).fold(sum[i], |sum, j| sum + i32::from(codes[4 * i + j]) * i32::from(x[j]))
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(self, sum: [i32; 16], codes: [u8; 64], at: *const u8) -> [i32; 16] {
        // SAFETY: the caller's promise.
        unsafe { self.dot(sum, codes, at) }
    }

    #[inline(always)]
    unsafe fn splat_at(self, at: *const f32) -> [f32; 16] {
        // SAFETY: the caller's promise.
        [unsafe { at.read_unaligned() }; 16]
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> [f32; 16] {
        // SAFETY: the caller's promise.
        unsafe { read(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: [f32; 16]) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> [f32; 16] {
        // SAFETY: the caller's promise.
        unsafe { read::<u16, 16>(at) }.map(half)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> [f32; 16] {
        // SAFETY: the caller's promise.
        unsafe { read::<u16, 16>(at) }.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    unsafe fn load_exponent(self, at: *const u8) -> [f32; 16] {
        // SAFETY: the caller's promise.
        unsafe { read::<u8, 16>(at) }.map(exponent)
    }
    #[inline(always)]
    fn convert(self, x: [i32; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn add(self, x: [f32; 16], y: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[i] + y[i])
    }
    #[inline(always)]
    fn mul(self, x: [f32; 16], y: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[i] * y[i])
    }
    #[inline(always)]
    fn fma(self, x: [f32; 16], y: [f32; 16], z: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[i].mul_add(y[i], z[i]))
    }
    #[inline(always)]
    fn fnma(self, x: [f32; 16], y: [f32; 16], z: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| (-x[i]).mul_add(y[i], z[i]))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u16, x: [f32; 16]) {
        let bits = x.map(|x| f16::from_f32_const(x).to_bits());
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[u16; 16]>().write_unaligned(bits) }
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, greater)
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, lesser)
    }
    #[inline(always)]
    fn select_lt(self, a: [f32; 16], b: [f32; 16], yes: [f32; 16], no: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn add_exponent(self, x: [f32; 16], n: [f32; 16]) -> [f32; 16] {
        zip(x, n, |x, n| f32::from_bits(x.to_bits().wrapping_add(n.to_bits() << 23)))
    }
    #[inline(always)]
    fn fold_add(self, v: [f32; 16]) -> f32 {
        fold(v, |a, b| a + b)
    }
    #[inline(always)]
    fn fold_max(self, v: [f32; 16]) -> f32 {
        fold(v, greater)
    }

    #[inline(always)]
    unsafe fn max_abs_bits(self, at: *const f32) -> u32 {
        // SAFETY: the caller's promise.
        let x = unsafe { read::<f32, 32>(at) };
        x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff))
    }
    #[inline(always)]
    unsafe fn quantise(self, at: *const f32, by: f32, out: *mut u8) -> i32 {
        // SAFETY: the caller's promise.
        let q = unsafe { read::<f32, 16>(at) }.map(|x| (x * by).round_ties_even() as i8);
        // SAFETY: the caller's promise.
        unsafe { out.cast::<[i8; 16]>().write_unaligned(q) };
        q.iter().map(|&q| i32::from(q)).sum()
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
