//! Canonical transcendental functions and reductions over a logits row.
//!
//! Everything here is a fixed sequence of correctly rounded operations, so that it gives the same bits on
//! every instruction set. It never calls the platform's mathematical library (RoPE tables are
//! computed once, in f64, with the `libm` crate). Reductions run in 16 lanes and fold as [`Simd16::fold_add`] says; a
//! partial last vector is padded with minus infinity. Vector code has no closures: they would be compiled without the
//! instruction set's features.

use crate::compute::Compute;
use crate::simd::{Kernel, LANES, Simd16, dispatch};

/// Below this, `exp` is zero: its value would not be a normal number.
const EXP_MIN: f32 = -87.336_54;
/// Above this, `exp` is infinite.
const EXP_MAX: f32 = 88.722_83;
/// Adding it rounds to an integer, which then stands in the low mantissa bits.
const ROUND_TO_INTEGER: f32 = 12_582_912.0;
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;
/// `(e^r - 1 - r) / r²` on `|r| ≤ ln 2 / 2`, highest power first.
const EXP_POLYNOMIAL: [f32; 6] =
    [1.985_276_2e-4, 1.393_043_6e-3, 8.333_361e-3, 4.166_648_5e-2, 0.166_666_67, 0.5];
/// `(tanh x - x) / x³` for `|x|` below [`TANH_NEAR`], highest power of `x²` first.
const TANH_POLYNOMIAL: [f32; 5] =
    [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8];
const TANH_NEAR: f32 = 0.625;
/// `2 sqrt(2 / π)` and the cubic coefficient of the tanh form of GELU.
const GELU_LINEAR: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;

/// `e^x` within 1 ulp; 0 where the result would be subnormal, `e^-inf` included.
#[inline(always)]
pub(crate) fn exp16<S: Simd16>(s: S, x: S::V) -> S::V {
    let clamped = s.min(s.splat(EXP_MAX), s.max(s.splat(EXP_MIN), x));
    let rounded = s.fma(clamped, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND_TO_INTEGER));
    let n = s.sub(rounded, s.splat(ROUND_TO_INTEGER));
    let r = s.fma(n, s.splat(-LN_2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN_2_LOW), r);
    let mut p = s.splat(EXP_POLYNOMIAL[0]);
    for c in &EXP_POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    let y = s.add_exponent(p, rounded);
    let y = s.select_lt(x, s.splat(EXP_MIN), s.splat(0.0), y);
    s.select_lt(s.splat(EXP_MAX), x, s.splat(f32::INFINITY), y)
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu16<S: Simd16>(s: S, x: S::V) -> S::V {
    let e = exp16(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as `x / (1 + e^-2u)`.
#[inline(always)]
pub(crate) fn gelu16<S: Simd16>(s: S, x: S::V) -> S::V {
    let cubic = s.fma(s.mul(x, x), s.splat(GELU_CUBIC), s.splat(1.0));
    let twice_u = s.mul(s.mul(x, s.splat(GELU_LINEAR)), cubic);
    let e = exp16(s, s.sub(s.splat(0.0), twice_u));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `tanh(x)` within 2 ulp: an odd polynomial near zero (Cephes), else `1 - 2 / (e^2|x| + 1)` with the sign of `x`.
#[inline(always)]
pub(crate) fn tanh16<S: Simd16>(s: S, x: S::V) -> S::V {
    let square = s.mul(x, x);
    let mut p = s.splat(TANH_POLYNOMIAL[0]);
    for c in &TANH_POLYNOMIAL[1..] {
        p = s.fma(p, square, s.splat(*c));
    }
    let near = s.fma(s.mul(p, square), x, x);
    let zero = s.splat(0.0);
    let magnitude = s.max(x, s.sub(zero, x));
    let e = exp16(s, s.add(magnitude, magnitude));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    let far = s.select_lt(x, zero, s.sub(zero, far), far);
    s.select_lt(magnitude, s.splat(TANH_NEAR), near, far)
}

/// The whole vectors of a row, and the partial last one, if any, padded with `pad`.
#[inline(always)]
pub(crate) fn vectors(x: &[f32], pad: f32) -> (&[[f32; LANES]], Option<[f32; LANES]>) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut last = [pad; LANES];
    last[..rest.len()].copy_from_slice(rest);
    (whole, (!rest.is_empty()).then_some(last))
}

#[inline(always)]
fn max_of<S: Simd16>(s: S, x: &[f32]) -> f32 {
    let mut max = s.splat(f32::NEG_INFINITY);
    let (whole, last) = vectors(x, f32::NEG_INFINITY);
    for v in whole.iter().chain(&last) {
        max = s.max(s.load_array(v), max);
    }
    s.fold_max(max)
}

/// `Σ e^(x - max)`.
#[inline(always)]
fn sum_of_exp<S: Simd16>(s: S, x: &[f32], max: f32) -> f32 {
    let mut sum = s.splat(0.0);
    let (whole, last) = vectors(x, f32::NEG_INFINITY);
    for v in whole.iter().chain(&last) {
        sum = s.add(sum, exp16(s, s.sub(s.load_array(v), s.splat(max))));
    }
    s.fold_add(sum)
}

struct Exp(f32);

impl Kernel for Exp {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) -> f32 {
        let mut out = [0.0; LANES];
        s.store_array(&mut out, exp16(s, s.splat(self.0)));
        out[0]
    }
}

/// Canonical `e^x` of one value.
pub fn exp(c: &Compute, x: f32) -> f32 {
    dispatch(c, Exp(x))
}

struct Max<'a>(&'a [f32]);

impl Kernel for Max<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) -> f32 {
        max_of(s, self.0)
    }
}

/// The index of the largest value, the first of equals. NaN is never the largest; 0 for an empty row.
pub fn argmax(c: &Compute, x: &[f32]) -> usize {
    let max = dispatch(c, Max(x));
    x.iter().position(|&v| v == max).unwrap_or(0)
}

struct NearMax<'a> {
    x: &'a [f32],
    within: f32,
    out: &'a mut Vec<(f32, u32)>,
}

impl Kernel for NearMax<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let floor = max_of(s, self.x) - self.within;
        for (at, part) in self.x.chunks(4 * LANES).enumerate() {
            // Few parts hold such a value; the maximum rules out the others.
            if max_of(s, part) < floor {
                continue;
            }
            let ids = at as u32 * 4 * LANES as u32..;
            self.out.extend(part.iter().copied().zip(ids).filter(|&(x, _)| x >= floor));
        }
    }
}

/// Appends the values that are at most `within` below the largest one to `out`, each with its index, in order.
pub fn near_max(c: &Compute, x: &[f32], within: f32, out: &mut Vec<(f32, u32)>) {
    dispatch(c, NearMax { x, within, out });
}

struct SumExp<'a>(&'a [f32]);

impl Kernel for SumExp<'_> {
    type Out = (f32, f32);

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) -> (f32, f32) {
        let max = max_of(s, self.0);
        (max, sum_of_exp(s, self.0, max))
    }
}

/// `ln Σ e^x` over a row of finite or minus-infinite values, at least one of them finite.
pub fn log_sum_exp(c: &Compute, x: &[f32]) -> f32 {
    let (max, sum) = dispatch(c, SumExp(x));
    max + libm::logf(sum)
}

struct Softmax<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let max = max_of(s, self.x);
        let sum = sum_of_exp(s, self.x, max);
        let (max, inverse) = (s.splat(max), s.splat(1.0 / sum));
        let (vectors, rest) = self.x.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for (x, y) in vectors.iter().zip(out) {
            s.store_array(y, s.mul(exp16(s, s.sub(s.load_array(x), max)), inverse));
        }
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let y = s.mul(exp16(s, s.sub(s.load_array(&last), max)), inverse);
        s.store_array(&mut last, y);
        out_rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `e^x / Σ e^x` over a row of finite or minus-infinite values, at least one of them finite.
///
/// # Panics
/// If `out` has another length than `x`.
pub fn softmax(c: &Compute, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "softmax writes as many values as it reads");
    dispatch(c, Softmax { x, out });
}

struct Sigmoid<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Sigmoid<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let (whole, last) = vectors(self.x, 0.0);
        for (x, out) in whole.iter().chain(&last).zip(self.out.chunks_mut(LANES)) {
            let e = exp16(s, s.sub(s.splat(0.0), s.load_array(x)));
            let mut y = [0.0; LANES];
            s.store_array(&mut y, s.div(s.splat(1.0), s.add(s.splat(1.0), e)));
            out.copy_from_slice(&y[..out.len()]);
        }
    }
}

/// `1 / (1 + e^-x)` of each value.
///
/// # Panics
/// If `out` has another length than `x`.
pub fn sigmoid(c: &Compute, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "sigmoid writes as many values as it reads");
    dispatch(c, Sigmoid { x, out });
}
