//! Sixteen lanes of f32 on every instruction set, with the same bits.
//!
//! Float kernels are written once, generic over [`Simd16`], and run through [`dispatch`] under the chosen
//! instruction set. Each operation here is one correctly rounded IEEE operation per lane (or a fixed
//! sequence of them), so a kernel's result cannot depend on the implementation. Integer dots have their
//! own code in `arch`. A token of an implementation is the proof that the CPU has the features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use crate::compute::Compute;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Operations on 16 lanes. A value of the implementing type proves that the CPU can do them.
pub(crate) trait Simd16: Copy + Send + Sync {
    /// 16 lanes of f32.
    type V: Copy;
    /// Rows of a register tile in attention, at most [`MAX_TILE_ROWS`].
    const TILE_ROWS: usize;
    /// Vectors per row of a register tile in attention: 1, 2 or 4.
    const TILE_VECTORS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// 16 floats are readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// 16 floats are writable at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Widens 16 f16 values, exactly.
    /// # Safety
    /// 16 half-precision values are readable at `p`.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// Narrows to f16, to nearest even; values beyond the range become infinite.
    /// # Safety
    /// 16 half-precision values are writable at `p`.
    unsafe fn store_f16(self, p: *mut u16, v: Self::V);

    /// Asks for the cache line at `p`, which need not be readable.
    fn prefetch(self, p: *const u8);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { yes } else { no }`.
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Adds the low 9 bits of `n`'s representation to the exponent of `x`, as an integer.
    fn add_exponent(self, x: Self::V, n: Self::V) -> Self::V;
    /// Sum of all lanes in the canonical tree: `i += i + 8`, then `+ 4`, `+ 2`, `+ 1`.
    fn fold_add(self, v: Self::V) -> f32;
    /// Maximum of all lanes, in the same tree.
    fn fold_max(self, v: Self::V) -> f32;

    #[inline(always)]
    fn load_array(self, a: &[f32; LANES]) -> Self::V {
        // SAFETY: the array has 16 floats.
        unsafe { self.load(a.as_ptr()) }
    }

    #[inline(always)]
    fn store_array(self, a: &mut [f32; LANES], v: Self::V) {
        // SAFETY: the array has 16 floats.
        unsafe { self.store(a.as_mut_ptr(), v) }
    }
}

/// The largest [`Simd16::TILE_ROWS`].
pub(crate) const MAX_TILE_ROWS: usize = 6;

/// A float kernel, generic over the instruction set. `run` must be `#[inline(always)]`, down to the last
/// vector operation, so that it is compiled with the features of the instruction set it runs under.
pub(crate) trait Kernel {
    /// What the kernel returns.
    type Out;
    fn run<S: Simd16>(self, simd: S) -> Self::Out;
}

/// Runs a kernel under the instruction set of `compute`, which was found to be available when it was made.
#[inline]
pub(crate) fn dispatch<K: Kernel>(compute: &Compute, kernel: K) -> K::Out {
    match compute.isa() {
        // SAFETY: a `Compute` exists only for an instruction set that this CPU has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::run(kernel) },
        _ => kernel.run(scalar::Scalar),
    }
}
