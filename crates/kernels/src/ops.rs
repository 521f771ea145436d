//! The small operations of a forward pass: norms, and gated activations.
//!
//! Each is a function of one row. They run on the calling thread unless the rows are many enough to use the pool, and
//! those that feed a matmul quantise their rows into [`Activations`] while they are still in L1.

use crate::activations::Activations;
use crate::compute::Compute;
use crate::math::{exp16, gelu16, silu16, tanh16, vectors};
use crate::router::Choice;
use crate::share::Shared;
use crate::simd::{Kernel, LANES, Simd16, dispatch};

/// `out = x / sqrt(mean(x²) + eps) * weight`, for each row of `cols`.
///
/// # Panics
/// If `x` is not whole rows, `out` has another length, or the length of `weight` is not `cols`.
pub fn rms_norm(c: &Compute, x: &[f32], cols: usize, weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "a norm writes as many rows as it reads");
    let rows = whole_rows(x, cols);
    let out = Shared::new(out);
    for_rows(c, rows, cols, &|row| {
        // SAFETY: rows don't overlap, and each has one worker.
        let out = unsafe { out.part(row * cols, cols) };
        dispatch(c, Norm { x: row_of(x, cols, row), weight, eps, out });
    });
}

/// As [`rms_norm`], into activations for a matmul.
///
/// # Panics
/// If `x` is not whole rows, or the length of `weight` is not `cols`.
pub fn rms_norm_activations(
    c: &Compute,
    x: &[f32],
    cols: usize,
    weight: &[f32],
    eps: f32,
    activations: &mut Activations,
) {
    activations.reset(whole_rows(x, cols), cols);
    activations.fill(c, &|row, out| dispatch(c, Norm { x: row_of(x, cols, row), weight, eps, out }));
}

/// RMS norm of each head on its own, in place: rows of `stride` numbers start with `heads` heads of `head_dim`.
///
/// # Panics
/// If `x` is not whole rows, the heads exceed their row, or the length of `weight` is not `head_dim`.
pub fn rms_norm_heads(
    c: &Compute,
    x: &mut [f32],
    stride: usize,
    heads: usize,
    head_dim: usize,
    weight: &[f32],
    eps: f32,
) {
    assert!(heads * head_dim <= stride, "{heads} heads of {head_dim} in a row of {stride}");
    let rows = whole_rows(x, stride);
    let x = Shared::new(x);
    for_rows(c, rows, heads * head_dim, &|row| {
        // SAFETY: rows don't overlap, and each has one worker.
        let row = unsafe { x.part(row * stride, heads * head_dim) };
        dispatch(c, NormHeads { row, head_dim, weight, eps });
    });
}

/// `residual += scale * y` for each row of `cols`, where `y` is `branch`, or its norm with this weight and epsilon.
///
/// # Panics
/// If `residual` is not whole rows, `branch` has another length, or the weight has not `cols` entries.
pub fn add_branch(
    c: &Compute,
    branch: &[f32],
    cols: usize,
    norm: Option<(&[f32], f32)>,
    scale: f32,
    residual: &mut [f32],
) {
    assert_eq!(branch.len(), residual.len(), "a branch of as many rows as the residual stream");
    let rows = whole_rows(branch, cols);
    let residual = Shared::new(residual);
    for_rows(c, rows, cols, &|row| {
        // SAFETY: rows don't overlap, and each has one worker.
        let residual = unsafe { residual.part(row * cols, cols) };
        dispatch(c, AddBranch { branch: row_of(branch, cols, row), norm, scale, residual });
    });
}

/// `x = x * scale`, then `cap * tanh(x / cap)` if there is a cap, in place for each row of `cols`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn scale_logits(c: &Compute, x: &mut [f32], cols: usize, scale: f32, softcap: Option<f32>) {
    let rows = whole_rows(x, cols);
    let x = Shared::new(x);
    for_rows(c, rows, cols, &|row| {
        // SAFETY: rows don't overlap, and each has one worker.
        let x = unsafe { x.part(row * cols, cols) };
        dispatch(c, ScaleLogits { x, scale, softcap });
    });
}

/// How a gated feed-forward network combines its gate and its up projection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Glu {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up` with the tanh form of GELU.
    Gelu,
    /// `gate * sigmoid(alpha * gate) * (up + 1)` with `gate` at most `limit` and `up` within `±limit` (gpt-oss).
    Clamped {
        /// Slope of the sigmoid.
        alpha: f32,
        /// Largest value of the gate, and largest magnitude of `up`.
        limit: f32,
    },
}

/// Gate and up, combined into the rows and segments that `activations` was resized to.
///
/// # Panics
/// If `gate` or `up` has another shape than `activations`.
pub fn glu_activations(c: &Compute, glu: Glu, gate: &[f32], up: &[f32], activations: &mut Activations) {
    match glu {
        Glu::Silu => gated(c, Silu, gate, up, activations),
        Glu::Gelu => gated(c, Gelu, gate, up, activations),
        Glu::Clamped { alpha, limit } => gated(c, Clamped { alpha, limit }, gate, up, activations),
    }
}

fn gated<A: Activation>(c: &Compute, activation: A, gate: &[f32], up: &[f32], activations: &mut Activations) {
    let cols = activations.cols();
    assert_eq!(gate.len(), activations.rows() * cols, "a gate for every number");
    assert_eq!(gate.len(), up.len(), "a gate for every number");
    activations.fill(c, &|row, out| {
        let (gate, up) = (row_of(gate, cols, row), row_of(up, cols, row));
        dispatch(c, Gated { gate, up, out, activation });
    });
}

/// `out[row] += Σ weight · parts[pair]`, over the pairs of each row in order: the outputs of a row's experts.
/// `pairs` and `choices` are `[rows][used]`, `parts` has rows of `cols`.
///
/// # Panics
/// If the shapes don't match, or a pair is not a row of `parts`.
pub fn add_weighted(
    c: &Compute,
    out: &mut [f32],
    cols: usize,
    parts: &[f32],
    pairs: &[u32],
    choices: &[Choice],
) {
    assert_eq!(pairs.len(), choices.len(), "a weight for every pair");
    let rows = whole_rows(out, cols);
    let used = pairs.len() / rows.max(1);
    assert_eq!(used * rows, pairs.len(), "as many experts for every row");
    let out = Shared::new(out);
    c.pool().split(rows, parts.len(), &|rows| {
        for row in rows {
            // SAFETY: rows don't overlap, and each has one worker.
            let out = unsafe { out.part(row * cols, cols) };
            let (pairs, choices) = (&pairs[row * used..][..used], &choices[row * used..][..used]);
            for (&pair, choice) in pairs.iter().zip(choices) {
                let part = row_of(parts, cols, pair as usize);
                dispatch(c, AddBranch { branch: part, norm: None, scale: choice.weight, residual: out });
            }
        }
    });
}

fn whole_rows(x: &[f32], cols: usize) -> usize {
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} numbers are not rows of {cols}", x.len());
    x.len() / cols
}

fn row_of(x: &[f32], cols: usize, row: usize) -> &[f32] {
    &x[row * cols..][..cols]
}

/// Calls `f` with every row, on the pool if there is enough work.
fn for_rows(c: &Compute, rows: usize, cols: usize, f: &(dyn Fn(usize) + Sync)) {
    c.pool().split(rows, rows * cols, &|rows| rows.for_each(f));
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let Self { x, weight, eps, out } = self;
        assert!(x.len() == weight.len() && x.len() == out.len(), "a norm's weight has one entry per column");
        let inverse = inverse_rms(s, x, eps);
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        for ((x, weight), out) in x.iter().zip(weight).zip(out) {
            let y = s.mul(s.mul(s.load_array(x), s.splat(inverse)), s.load_array(weight));
            s.store_array(out, y);
        }
        for ((x, weight), out) in x_rest.iter().zip(weight_rest).zip(out_rest) {
            *out = x * inverse * weight;
        }
    }
}

struct NormHeads<'a> {
    row: &'a mut [f32],
    head_dim: usize,
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for NormHeads<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        assert_eq!(self.weight.len(), self.head_dim, "a norm's weight has one entry per column");
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let inverse = inverse_rms(s, head, self.eps);
            let (x, x_rest) = head.as_chunks_mut::<LANES>();
            let (weight, weight_rest) = self.weight.as_chunks::<LANES>();
            for (x, weight) in x.iter_mut().zip(weight) {
                let y = s.mul(s.mul(s.load_array(x), s.splat(inverse)), s.load_array(weight));
                s.store_array(x, y);
            }
            for (x, weight) in x_rest.iter_mut().zip(weight_rest) {
                *x = *x * inverse * weight;
            }
        }
    }
}

struct AddBranch<'a> {
    branch: &'a [f32],
    norm: Option<(&'a [f32], f32)>,
    scale: f32,
    residual: &'a mut [f32],
}

impl Kernel for AddBranch<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let Self { branch, norm, scale, residual } = self;
        let Some((weight, eps)) = norm else {
            let (branch, branch_rest) = branch.as_chunks::<LANES>();
            let (residual, residual_rest) = residual.as_chunks_mut::<LANES>();
            for (y, residual) in branch.iter().zip(residual) {
                let sum = s.fma(s.load_array(y), s.splat(scale), s.load_array(residual));
                s.store_array(residual, sum);
            }
            for (y, residual) in branch_rest.iter().zip(residual_rest) {
                *residual = y.mul_add(scale, *residual);
            }
            return;
        };
        assert_eq!(weight.len(), branch.len(), "a norm's weight has one entry per column");
        let inverse = inverse_rms(s, branch, eps);
        let (branch, branch_rest) = branch.as_chunks::<LANES>();
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (residual, residual_rest) = residual.as_chunks_mut::<LANES>();
        for ((y, weight), residual) in branch.iter().zip(weight).zip(residual) {
            let y = s.mul(s.mul(s.load_array(y), s.splat(inverse)), s.load_array(weight));
            let sum = s.fma(y, s.splat(scale), s.load_array(residual));
            s.store_array(residual, sum);
        }
        for ((y, weight), residual) in branch_rest.iter().zip(weight_rest).zip(residual_rest) {
            *residual = (y * inverse * weight).mul_add(scale, *residual);
        }
    }
}

struct ScaleLogits<'a> {
    x: &'a mut [f32],
    scale: f32,
    softcap: Option<f32>,
}

impl ScaleLogits<'_> {
    #[inline(always)]
    fn vector<S: Simd16>(s: S, x: S::V, scale: f32, softcap: Option<f32>) -> S::V {
        let x = s.mul(x, s.splat(scale));
        match softcap {
            Some(cap) => s.mul(s.splat(cap), tanh16(s, s.mul(x, s.splat(1.0 / cap)))),
            None => x,
        }
    }
}

impl Kernel for ScaleLogits<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let Self { x, scale, softcap } = self;
        let (whole, rest) = x.as_chunks_mut::<LANES>();
        for x in whole {
            let y = Self::vector(s, s.load_array(x), scale, softcap);
            s.store_array(x, y);
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let y = Self::vector(s, s.load_array(&last), scale, softcap);
        s.store_array(&mut last, y);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms<S: Simd16>(s: S, x: &[f32], eps: f32) -> f32 {
    let mut sum = s.splat(0.0);
    let (whole, last) = vectors(x, 0.0);
    for v in whole.iter().chain(&last) {
        let v = s.load_array(v);
        sum = s.fma(v, v, sum);
    }
    1.0 / (s.fold_add(sum) / x.len() as f32 + eps).sqrt()
}

/// How gate and up are combined.
trait Activation: Copy + Sync {
    fn apply<S: Simd16>(self, s: S, gate: S::V, up: S::V) -> S::V;
}

#[derive(Clone, Copy)]
struct Silu;

impl Activation for Silu {
    #[inline(always)]
    fn apply<S: Simd16>(self, s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(silu16(s, gate), up)
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Activation for Gelu {
    #[inline(always)]
    fn apply<S: Simd16>(self, s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(gelu16(s, gate), up)
    }
}

#[derive(Clone, Copy)]
struct Clamped {
    alpha: f32,
    limit: f32,
}

impl Activation for Clamped {
    #[inline(always)]
    fn apply<S: Simd16>(self, s: S, gate: S::V, up: S::V) -> S::V {
        let limit = s.splat(self.limit);
        // NaN must survive, and `min` and `max` return their second operand where either is NaN.
        let gate = s.min(limit, gate);
        let up = s.max(s.splat(-self.limit), s.min(limit, up));
        let e = exp16(s, s.mul(gate, s.splat(-self.alpha)));
        let gated = s.div(gate, s.add(s.splat(1.0), e));
        s.mul(gated, s.add(up, s.splat(1.0)))
    }
}

struct Gated<'a, A> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    activation: A,
}

impl<A: Activation> Kernel for Gated<'_, A> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let (gate, gate_last) = vectors(self.gate, 0.0);
        let (up, up_last) = vectors(self.up, 0.0);
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            let y = self.activation.apply(s, s.load_array(gate), s.load_array(up));
            s.store_array(out, y);
        }
        if let (Some(gate), Some(mut up)) = (gate_last, up_last) {
            let y = self.activation.apply(s, s.load_array(&gate), s.load_array(&up));
            s.store_array(&mut up, y);
            out_rest.copy_from_slice(&up[..out_rest.len()]);
        }
    }
}
