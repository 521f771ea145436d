//! Two ymm registers. The lower half has lanes 0 to 7.

use std::arch::x86_64::*;

use super::{Kernel, Simd16};

/// Proof that the CPU has avx2, fma, f16c.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Compiles a kernel with the features and runs it.
///
/// # Safety
/// The CPU has the features named in the attribute.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// To nearest even, whatever the mode register says.
const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT;

/// 16 lanes.
#[derive(Clone, Copy)]
pub(super) struct Pair(__m256, __m256);

/// See [`Simd16::add_exponent`].
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn add_exponent_8(x: __m256, n: __m256) -> __m256 {
    // SAFETY: the caller promises the features.
    unsafe {
        let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), shifted))
    }
}

/// The last three levels of the canonical tree of sums.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn fold_add_8(v: __m256) -> f32 {
    // SAFETY: the caller promises the features.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// The last three levels of the canonical tree of maxima.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn fold_max_8(v: __m256) -> f32 {
    // SAFETY: the caller promises the features.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

impl Simd16 for Avx2 {
    type V = Pair;
    const TILE_ROWS: usize = 3;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe {
            let half = _mm256_set1_ps(x);
            Pair(half, half)
        }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the token proves the features; the caller promises the memory.
        unsafe { Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the token proves the features; the caller promises the memory.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1)
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: the token proves the features; the caller promises the memory.
        unsafe {
            Pair(
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        // SAFETY: the token proves the features; the caller promises the memory.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<ROUND>(v.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<ROUND>(v.1))
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe {
            Pair(
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }

    #[inline(always)]
    fn add_exponent(self, x: Self::V, n: Self::V) -> Self::V {
        // SAFETY: the token proves the features.
        unsafe { Pair(add_exponent_8(x.0, n.0), add_exponent_8(x.1, n.1)) }
    }

    #[inline(always)]
    fn fold_add(self, v: Self::V) -> f32 {
        // SAFETY: the token proves the features.
        unsafe { fold_add_8(_mm256_add_ps(v.0, v.1)) }
    }

    #[inline(always)]
    fn fold_max(self, v: Self::V) -> f32 {
        // SAFETY: the token proves the features.
        unsafe { fold_max_8(_mm256_max_ps(v.0, v.1)) }
    }
}
