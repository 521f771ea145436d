//! AVX-512 with VNNI: a vector is one register.

use std::arch::x86_64::*;

use super::avx2::{fold_add_8, fold_max_8};
use super::{Kernel, Simd16, tiles};
use crate::tile::{Format, TileCall, TileSizes};

/// The proof that the CPU has AVX-512 F, BW, VL, DQ and VNNI, and what AVX2 kernels need.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// An expression of intrinsics, where `self` is the proof that the CPU has them.
macro_rules! proven {
    ($($body:tt)*) => {{
        // SAFETY: an `Avx512` exists only where its instructions do, and what pointers point to is promised
        // by the caller of the function.
        unsafe { $($body)* }
    }};
}

/// To nearest even, whatever the mode register says.
const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Lanes 0 to 7 and 8 to 15.
///
/// # Safety
/// The CPU has AVX-512F.
#[inline(always)]
unsafe fn halves(v: __m512) -> (__m256, __m256) {
    // SAFETY: the caller promises the features.
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
        (_mm512_castps512_ps256(v), _mm256_castpd_ps(high))
    }
}

impl Simd16 for Avx512 {
    type V = __m512;
    type I = __m512i;
    type B = __m512i;
    const WIDE_IS_SIGNED: bool = false;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 4;
    const FLOAT_SUMS: usize = 24;

    fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) -> K::Out {
            kernel.run(simd)
        }
        proven!(compiled(self, kernel))
    }

    unsafe fn tile<F: Format>(self, call: &TileCall, tokens: usize) -> usize {
        match F::SIZES {
            TileSizes::All => {
                tiles!(self, F, call, tokens, [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
            }
            TileSizes::Powers => tiles!(self, F, call, tokens, [16, 8, 4, 2, 1]),
            TileSizes::Float => tiles!(self, F, call, tokens, [8, 7, 6, 5, 4, 3, 2, 1]),
        }
    }

    #[inline(always)]
    unsafe fn load_b(self, at: *const u8) -> __m512i {
        proven!(_mm512_loadu_si512(at.cast()))
    }
    #[inline(always)]
    fn and_b(self, x: __m512i, mask: u8) -> __m512i {
        proven!(_mm512_and_si512(x, _mm512_set1_epi8(mask as i8)))
    }
    #[inline(always)]
    fn or_b(self, x: __m512i, y: __m512i) -> __m512i {
        proven!(_mm512_or_si512(x, y))
    }
    #[inline(always)]
    fn shr_b(self, x: __m512i, bits: usize) -> __m512i {
        proven!(_mm512_srl_epi16(x, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn shl_b(self, x: __m512i, bits: usize) -> __m512i {
        proven!(_mm512_sll_epi16(x, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: __m512i) -> __m512i {
        proven! {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, x)
        }
    }

    #[inline(always)]
    fn zero_i(self) -> __m512i {
        proven!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn splat_i(self, at: *const i32) -> __m512i {
        proven!(_mm512_set1_epi32(at.read_unaligned()))
    }
    #[inline(always)]
    fn add_i(self, x: __m512i, y: __m512i) -> __m512i {
        proven!(_mm512_add_epi32(x, y))
    }
    #[inline(always)]
    fn mul_i(self, x: __m512i, y: __m512i) -> __m512i {
        proven!(_mm512_mullo_epi32(x, y))
    }
    #[inline(always)]
    fn and_i(self, x: __m512i, mask: i32) -> __m512i {
        proven!(_mm512_and_si512(x, _mm512_set1_epi32(mask)))
    }
    #[inline(always)]
    fn shl_i(self, x: __m512i, bits: u32) -> __m512i {
        proven!(_mm512_sll_epi32(x, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn shr_i(self, x: __m512i, bits: u32) -> __m512i {
        proven!(_mm512_sra_epi32(x, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    unsafe fn load_u8(self, at: *const u8) -> __m512i {
        proven!(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast())))
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> __m512i {
        proven!(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast())))
    }

    #[inline(always)]
    unsafe fn dot(self, sum: __m512i, codes: __m512i, at: *const u8) -> __m512i {
        proven!(_mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(at.cast::<i32>().read_unaligned())))
    }
    #[inline(always)]
    unsafe fn dot_wide(self, sum: __m512i, codes: __m512i, at: *const u8) -> __m512i {
        proven!(self.dot(sum, codes, at))
    }

    #[inline(always)]
    unsafe fn splat_at(self, at: *const f32) -> __m512 {
        proven!(_mm512_set1_ps(at.read_unaligned()))
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> __m512 {
        proven!(_mm512_loadu_ps(at))
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: __m512) {
        proven!(_mm512_storeu_ps(at, x))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> __m512 {
        proven! {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_exponent(self, at: *const u8) -> __m512 {
        proven! {
            let e = self.load_u8(at);
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
            let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
            let is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
            _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_small, small))
        }
    }
    #[inline(always)]
    fn convert(self, x: __m512i) -> __m512 {
        proven!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn add(self, x: __m512, y: __m512) -> __m512 {
        proven!(_mm512_add_ps(x, y))
    }
    #[inline(always)]
    fn mul(self, x: __m512, y: __m512) -> __m512 {
        proven!(_mm512_mul_ps(x, y))
    }
    #[inline(always)]
    fn fma(self, x: __m512, y: __m512, z: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(x, y, z))
    }
    #[inline(always)]
    fn fnma(self, x: __m512, y: __m512, z: __m512) -> __m512 {
        proven!(_mm512_fnmadd_ps(x, y, z))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        proven!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u16, x: __m512) {
        proven!(_mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<ROUND>(x)))
    }
    #[inline(always)]
    fn sub(self, x: __m512, y: __m512) -> __m512 {
        proven!(_mm512_sub_ps(x, y))
    }
    #[inline(always)]
    fn div(self, x: __m512, y: __m512) -> __m512 {
        proven!(_mm512_div_ps(x, y))
    }
    #[inline(always)]
    fn max(self, x: __m512, y: __m512) -> __m512 {
        proven!(_mm512_max_ps(x, y))
    }
    #[inline(always)]
    fn min(self, x: __m512, y: __m512) -> __m512 {
        proven!(_mm512_min_ps(x, y))
    }
    #[inline(always)]
    fn select_lt(self, x: __m512, y: __m512, yes: __m512, no: __m512) -> __m512 {
        proven!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, y), no, yes))
    }
    #[inline(always)]
    fn add_exponent(self, x: __m512, n: __m512) -> __m512 {
        proven! {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), shifted))
        }
    }
    #[inline(always)]
    fn fold_add(self, x: __m512) -> f32 {
        proven! {
            let (low, high) = halves(x);
            fold_add_8(_mm256_add_ps(low, high))
        }
    }
    #[inline(always)]
    fn fold_max(self, x: __m512) -> f32 {
        proven! {
            let (low, high) = halves(x);
            fold_max_8(_mm256_max_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn max_abs_bits(self, at: *const f32) -> u32 {
        proven! {
            let sign = _mm512_set1_epi32(0x7fff_ffff);
            let low = _mm512_and_si512(_mm512_loadu_si512(at.cast()), sign);
            let high = _mm512_and_si512(_mm512_loadu_si512(at.add(16).cast()), sign);
            _mm512_reduce_max_epu32(_mm512_max_epu32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn quantise(self, at: *const f32, by: f32, out: *mut u8) -> i32 {
        proven! {
            let q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at), _mm512_set1_ps(by)));
            let bytes = _mm512_cvtepi32_epi8(q);
            _mm_storeu_si128(out.cast(), bytes);
            // `vpsadbw` adds unsigned bytes: 128 is added to each of the 16, and taken off their sum.
            let sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
            _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}
