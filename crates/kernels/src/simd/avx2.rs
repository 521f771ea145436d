//! AVX2 and AVX-VNNI: a vector is a pair of registers, the first with the lower lanes.

use std::arch::x86_64::*;

use super::{Kernel, Simd16, tiles};
use crate::tile::{Format, TileCall, TileSizes};

/// The proof that the CPU has AVX2, FMA and F16C, and with `VNNI` also AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Ymm<const VNNI: bool>(());

/// 256-bit vectors; dot products by `vpmaddubsw`.
pub(crate) type Avx2 = Ymm<false>;
/// 256-bit vectors; dot products by `vpdpbusd`.
pub(crate) type AvxVnni = Ymm<true>;

impl<const VNNI: bool> Ymm<VNNI> {
    pub(crate) fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        found.then_some(Self(()))
    }
}

/// An expression of intrinsics, where `self` is the proof that the CPU has them.
macro_rules! proven {
    ($($body:tt)*) => {{
        // SAFETY: a `Ymm` exists only where its instructions do, and what pointers point to is promised by
        // the caller of the function.
        unsafe { $($body)* }
    }};
}

/// Four signed bytes in every lane.
///
/// # Safety
/// The CPU must have AVX2, and `at` be readable for 4 bytes.
#[inline(always)]
unsafe fn four_bytes(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
}

/// The same for both registers of a pair. A macro, because a closure would be compiled without the
/// instructions that `enter` turns on.
macro_rules! both {
    (|$($x:ident),+| $body:expr) => {
        [
            { $(let $x = $x[0];)+ $body },
            { $(let $x = $x[1];)+ $body },
        ]
    };
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

/// To nearest even, whatever the mode register says.
const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT;

impl<const VNNI: bool> Simd16 for Ymm<VNNI> {
    type V = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    const WIDE_IS_SIGNED: bool = !VNNI;
    const TILE_ROWS: usize = 3;
    const TILE_VECTORS: usize = 2;
    const FLOAT_SUMS: usize = 6;

    fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn plain<S: Simd16, K: Kernel>(simd: S, kernel: K) -> K::Out {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn vnni<S: Simd16, K: Kernel>(simd: S, kernel: K) -> K::Out {
            kernel.run(simd)
        }
        if VNNI { proven!(vnni(self, kernel)) } else { proven!(plain(self, kernel)) }
    }

    unsafe fn tile<F: Format>(self, call: &TileCall, tokens: usize) -> usize {
        match F::SIZES {
            TileSizes::All | TileSizes::Powers => tiles!(self, F, call, tokens, [4, 2, 1]),
            TileSizes::Float => tiles!(self, F, call, tokens, [6, 5, 4, 3, 2, 1]),
        }
    }

    #[inline(always)]
    unsafe fn load_b(self, at: *const u8) -> [__m256i; 2] {
        proven!([_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())])
    }
    #[inline(always)]
    fn and_b(self, x: [__m256i; 2], mask: u8) -> [__m256i; 2] {
        both!(|x| proven!(_mm256_and_si256(x, _mm256_set1_epi8(mask as i8))))
    }
    #[inline(always)]
    fn or_b(self, x: [__m256i; 2], y: [__m256i; 2]) -> [__m256i; 2] {
        both!(|x, y| proven!(_mm256_or_si256(x, y)))
    }
    #[inline(always)]
    fn shr_b(self, x: [__m256i; 2], bits: usize) -> [__m256i; 2] {
        both!(|x| proven!(_mm256_srl_epi16(x, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn shl_b(self, x: [__m256i; 2], bits: usize) -> [__m256i; 2] {
        both!(|x| proven!(_mm256_sll_epi16(x, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: [__m256i; 2]) -> [__m256i; 2] {
        both!(|x| {
            proven! {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, x)
            }
        })
    }

    #[inline(always)]
    fn zero_i(self) -> [__m256i; 2] {
        proven!([_mm256_setzero_si256(); 2])
    }
    #[inline(always)]
    unsafe fn splat_i(self, at: *const i32) -> [__m256i; 2] {
        proven!([_mm256_set1_epi32(at.read_unaligned()); 2])
    }
    #[inline(always)]
    fn add_i(self, x: [__m256i; 2], y: [__m256i; 2]) -> [__m256i; 2] {
        both!(|x, y| proven!(_mm256_add_epi32(x, y)))
    }
    #[inline(always)]
    fn mul_i(self, x: [__m256i; 2], y: [__m256i; 2]) -> [__m256i; 2] {
        both!(|x, y| proven!(_mm256_mullo_epi32(x, y)))
    }
    #[inline(always)]
    fn and_i(self, x: [__m256i; 2], mask: i32) -> [__m256i; 2] {
        both!(|x| proven!(_mm256_and_si256(x, _mm256_set1_epi32(mask))))
    }
    #[inline(always)]
    fn shl_i(self, x: [__m256i; 2], bits: u32) -> [__m256i; 2] {
        both!(|x| proven!(_mm256_sll_epi32(x, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn shr_i(self, x: [__m256i; 2], bits: u32) -> [__m256i; 2] {
        both!(|x| proven!(_mm256_sra_epi32(x, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    unsafe fn load_u8(self, at: *const u8) -> [__m256i; 2] {
        {
            let i = [0, 8];
            both!(|i| proven!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(i).cast()))))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> [__m256i; 2] {
        {
            let i = [0, 8];
            both!(|i| proven!(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(i).cast()))))
        }
    }

    #[inline(always)]
    unsafe fn dot(self, sum: [__m256i; 2], codes: [__m256i; 2], at: *const u8) -> [__m256i; 2] {
        let x = proven!(four_bytes(at));
        both!(|sum, codes| {
            if VNNI {
                proven!(_mm256_dpbusd_avx_epi32(sum, codes, x))
            } else {
                // A pair of products is at most 128 · 127 · 2 = 32512 and doesn't saturate.
                proven! {
                    let pairs = _mm256_maddubs_epi16(codes, x);
                    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
                }
            }
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(self, sum: [__m256i; 2], codes: [__m256i; 2], at: *const u8) -> [__m256i; 2] {
        let x = proven!(four_bytes(at));
        both!(|sum, codes| {
            if VNNI {
                proven!(_mm256_dpbusd_avx_epi32(sum, codes, x))
            } else {
                // |w| · sign(w) x: a pair is at most 128 · 127 · 2 = 32512 and doesn't saturate.
                proven! {
                    let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
                    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
                }
            }
        })
    }

    #[inline(always)]
    unsafe fn splat_at(self, at: *const f32) -> [__m256; 2] {
        proven!([_mm256_set1_ps(at.read_unaligned()); 2])
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> [__m256; 2] {
        proven!([_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))])
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: [__m256; 2]) {
        proven! {
            _mm256_storeu_ps(at, x[0]);
            _mm256_storeu_ps(at.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> [__m256; 2] {
        {
            let i = [0, 8];
            both!(|i| proven!(_mm256_cvtph_ps(_mm_loadu_si128(at.add(i).cast()))))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> [__m256; 2] {
        let i = [0, 8];
        both!(|i| {
            proven! {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(i).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        })
    }
    #[inline(always)]
    unsafe fn load_exponent(self, at: *const u8) -> [__m256; 2] {
        let e = proven!(self.load_u8(at));
        both!(|e| {
            proven! {
                let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
                let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
                let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
                _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small))
            }
        })
    }
    #[inline(always)]
    fn convert(self, x: [__m256i; 2]) -> [__m256; 2] {
        both!(|x| proven!(_mm256_cvtepi32_ps(x)))
    }
    #[inline(always)]
    fn add(self, x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y| proven!(_mm256_add_ps(x, y)))
    }
    #[inline(always)]
    fn mul(self, x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y| proven!(_mm256_mul_ps(x, y)))
    }
    #[inline(always)]
    fn fma(self, x: [__m256; 2], y: [__m256; 2], z: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y, z| proven!(_mm256_fmadd_ps(x, y, z)))
    }
    #[inline(always)]
    fn fnma(self, x: [__m256; 2], y: [__m256; 2], z: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y, z| proven!(_mm256_fnmadd_ps(x, y, z)))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        proven!([_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u16, x: [__m256; 2]) {
        proven! {
            _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<ROUND>(x[0]));
            _mm_storeu_si128(at.add(8).cast(), _mm256_cvtps_ph::<ROUND>(x[1]));
        }
    }
    #[inline(always)]
    fn sub(self, x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y| proven!(_mm256_sub_ps(x, y)))
    }
    #[inline(always)]
    fn div(self, x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y| proven!(_mm256_div_ps(x, y)))
    }
    #[inline(always)]
    fn max(self, x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y| proven!(_mm256_max_ps(x, y)))
    }
    #[inline(always)]
    fn min(self, x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y| proven!(_mm256_min_ps(x, y)))
    }
    #[inline(always)]
    fn select_lt(self, x: [__m256; 2], y: [__m256; 2], yes: [__m256; 2], no: [__m256; 2]) -> [__m256; 2] {
        both!(|x, y, yes, no| proven!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(x, y))))
    }
    #[inline(always)]
    fn add_exponent(self, x: [__m256; 2], n: [__m256; 2]) -> [__m256; 2] {
        both!(|x, n| {
            proven! {
                let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), shifted))
            }
        })
    }
    #[inline(always)]
    fn fold_add(self, x: [__m256; 2]) -> f32 {
        proven!(fold_add_8(_mm256_add_ps(x[0], x[1])))
    }
    #[inline(always)]
    fn fold_max(self, x: [__m256; 2]) -> f32 {
        proven!(fold_max_8(_mm256_max_ps(x[0], x[1])))
    }

    #[inline(always)]
    unsafe fn max_abs_bits(self, at: *const f32) -> u32 {
        proven! {
            let sign = _mm256_set1_epi32(0x7fff_ffff);
            let mut max = _mm256_setzero_si256();
            for i in 0..4 {
                let x = _mm256_loadu_si256(at.add(8 * i).cast());
                max = _mm256_max_epu32(max, _mm256_and_si256(x, sign));
            }
            let max = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
            let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
            _mm_cvtsi128_si32(_mm_max_epu32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max))) as u32
        }
    }
    #[inline(always)]
    unsafe fn quantise(self, at: *const f32, by: f32, out: *mut u8) -> i32 {
        proven! {
            let by = _mm256_set1_ps(by);
            let low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(at), by));
            let high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(at.add(8)), by));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.cast(), bytes);
            let sum = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
            _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)))
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}
