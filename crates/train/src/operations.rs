//! The operations of a head that candle has only as chains of slow ones: forward and backward of each.
//!
//! candle multiplies matrices on all cores and does everything else on one; these run over rows on all. The invariant:
//! every result depends on the rows alone, never on how they were divided among threads, so training is
//! deterministic.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::shape::{Pairs, Rotation};

/// Rows whose gradients of a weight are summed together.
const ROWS_PER_SUM: usize = 64;

/// The numbers of a tensor, row-major.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.contiguous()?.flatten_all()?.to_vec1()
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("an operand that is not contiguous"),
    }
}

fn tensor_like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// `e^x` to about 2 ulp, in a form that compilers vectorise.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to whole numbers, which are then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let rest = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let poly = 1.987_569_1e-4f32;
    let poly = poly * rest + 1.398_199_9e-3;
    let poly = poly * rest + 8.333_452e-3;
    let poly = poly * rest + 4.166_579_6e-2;
    let poly = poly * rest + 0.166_666_65;
    let poly = poly * rest + 0.5;
    let poly = poly * rest * rest + rest + 1.0;
    let exponent = (rounded.to_bits().wrapping_sub(ROUNDER.to_bits())).wrapping_add(127) << 23;
    poly * f32::from_bits(exponent)
}

/// The largest of some numbers, in lanes.
pub(crate) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = if x > *lane { x } else { *lane });
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b))
}

/// The sum of some numbers, in lanes.
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += x);
    }
    lanes.iter().chain(rest).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// Turns a row of scores into probabilities. Returns the logarithm of the sum of its exponentials.
pub(crate) fn softmax(row: &mut [f32]) -> f32 {
    let max = largest(row);
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    let total = sum(row);
    let factor = 1.0 / total;
    row.iter_mut().for_each(|x| *x *= factor);
    max + total.ln()
}

/// `x / rms(x) * weight` over rows.
struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn inverse(&self, row: &[f32]) -> f32 {
        1.0 / (dot(row, row) / row.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, lx)?, slice(w, lw)?);
        let mut out = vec![0f32; x.len()];
        out.par_chunks_mut(weight.len()).zip(x.par_chunks(weight.len())).for_each(|(out, row)| {
            let inverse = self.inverse(row);
            out.iter_mut().zip(row.iter().zip(weight)).for_each(|(out, (x, w))| *out = x * inverse * w);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xs, weight, grads) = (values(x)?, values(w)?, values(grad)?);
        let width = weight.len();
        let mut dx = vec![0f32; xs.len()];
        let rows = dx.par_chunks_mut(width * ROWS_PER_SUM);
        let rows = rows.zip(xs.par_chunks(width * ROWS_PER_SUM)).zip(grads.par_chunks(width * ROWS_PER_SUM));
        let sums = rows.map(|((dx, xs), grads)| {
            let mut dw = vec![0f32; width];
            let mut scaled = vec![0f32; width];
            for ((dx, x), grad) in dx.chunks_mut(width).zip(xs.chunks(width)).zip(grads.chunks(width)) {
                let inverse = self.inverse(x);
                scaled.iter_mut().zip(grad.iter().zip(&weight)).for_each(|(s, (g, w))| *s = g * w);
                let along = dot(&scaled, x) * inverse * inverse * inverse / width as f32;
                dx.iter_mut().zip(scaled.iter().zip(x)).for_each(|(d, (s, x))| *d = s * inverse - x * along);
                dw.iter_mut().zip(grad.iter().zip(x)).for_each(|(d, (g, x))| *d += g * x * inverse);
            }
            dw
        });
        let sums: Vec<Vec<f32>> = sums.collect();
        let mut dw = vec![0f32; width];
        sums.iter().for_each(|part| dw.iter_mut().zip(part).for_each(|(d, p)| *d += p));
        Ok((Some(tensor_like(dx, x)?), Some(tensor_like(dw, w)?)))
    }
}

/// RMS norm over rows, times a weight.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, RmsNorm { eps })
}

/// `silu(gate) * up`.
struct Gate;

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "silu-gate"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        lg: &Layout,
        u: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(g, lg)?, slice(u, lu)?);
        let mut out = vec![0f32; gate.len()];
        let width = lg.shape().dims().last().copied().unwrap_or(1);
        let rows = out.par_chunks_mut(width).zip(gate.par_chunks(width)).zip(up.par_chunks(width));
        rows.for_each(|((out, gate), up)| {
            out.iter_mut().zip(gate.iter().zip(up)).for_each(|(out, (g, u))| *out = g / (1.0 + exp(-g)) * u);
        });
        Ok((CpuStorage::F32(out), lg.shape().clone()))
    }

    fn bwd(
        &self,
        g: &Tensor,
        u: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gate, up, grads) = (values(g)?, values(u)?, values(grad)?);
        let (mut dg, mut du) = (vec![0f32; gate.len()], vec![0f32; gate.len()]);
        let width = g.dims().last().copied().unwrap_or(1);
        let of_inputs = dg.par_chunks_mut(width).zip(du.par_chunks_mut(width));
        let inputs = gate.par_chunks(width).zip(up.par_chunks(width)).zip(grads.par_chunks(width));
        of_inputs.zip(inputs).for_each(|((dg, du), ((gate, up), grads))| {
            for (((dg, du), (g, u)), grad) in dg.iter_mut().zip(du).zip(gate.iter().zip(up)).zip(grads) {
                let sigmoid = 1.0 / (1.0 + exp(-g));
                *du = grad * g * sigmoid;
                *dg = grad * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
            }
        });
        Ok((Some(tensor_like(dg, g)?), Some(tensor_like(du, u)?)))
    }
}

/// The gated product of a feed-forward network.
pub(crate) fn silu_gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, Gate)
}

/// Cosines and sines of some rows' positions.
pub(crate) struct Angles {
    pairs: Pairs,
    /// `[rows][pairs]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub(crate) fn new(rotation: &Rotation, positions: &[u32]) -> Arc<Angles> {
        let angle = |position: &u32| {
            let position = f64::from(*position);
            rotation.frequencies.iter().map(move |frequency| position * frequency)
        };
        let angles = || positions.iter().flat_map(angle);
        Arc::new(Angles {
            pairs: rotation.pairs,
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        })
    }

    /// Rotates heads of `dim` numbers in place, by the angles times `sign`.
    fn rotate(&self, x: &mut [f32], row_len: usize, dim: usize, sign: f32) {
        let pairs = self.cos.len() / (x.len() / row_len).max(1);
        x.par_chunks_mut(row_len).enumerate().for_each(|(row, x)| {
            let at = row * pairs..(row + 1) * pairs;
            let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
            for head in x.chunks_exact_mut(dim) {
                for (pair, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                    let (a, b) = match self.pairs {
                        Pairs::Neighbours => (2 * pair, 2 * pair + 1),
                        Pairs::Halves => (pair, pair + pairs),
                    };
                    let (x, y, sin) = (head[a], head[b], sin * sign);
                    (head[a], head[b]) = (x * cos - y * sin, x * sin + y * cos);
                }
            }
        });
    }
}

struct Rotate {
    angles: Arc<Angles>,
    dim: usize,
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = slice(x, layout)?.to_vec();
        self.angles.rotate(&mut out, layout.shape().dims()[1], self.dim, 1.0);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut grads = values(grad)?;
        self.angles.rotate(&mut grads, x.dims()[1], self.dim, -1.0);
        Ok(Some(tensor_like(grads, x)?))
    }
}

/// Rotates the heads of `dim` numbers in each of `[rows, heads * dim]`.
pub(crate) fn rotate(x: &Tensor, angles: &Arc<Angles>, dim: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rotate { angles: Arc::clone(angles), dim })
}

/// Softmax of scaled scores `[kv heads, rows * group, shared + own]`, where row `r` sees the first `visible[r]` of `shared`
/// columns and all of the rest.
pub(crate) struct MaskedSoftmax {
    pub(crate) visible: Arc<Vec<usize>>,
    pub(crate) shared: usize,
    /// Query heads to a head of keys.
    pub(crate) group: usize,
    pub(crate) scale: f32,
}

impl CustomOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = slice(x, layout)?;
        let cols = layout.shape().dims()[2];
        let mut out = vec![0f32; scores.len()];
        out.par_chunks_mut(cols).zip(scores.par_chunks(cols)).enumerate().for_each(|(at, (out, scores))| {
            let visible = self.visible[at / self.group % self.visible.len()];
            let (seen, own) = (&scores[..visible], &scores[self.shared..]);
            let max = largest(seen).max(largest(own));
            let (out_seen, out_own) = out.split_at_mut(self.shared);
            let exponentials = |out: &mut [f32], from: &[f32]| {
                out.iter_mut().zip(from).for_each(|(out, x)| *out = exp((x - max) * self.scale));
                sum(&out[..from.len()])
            };
            let factor = 1.0 / (exponentials(out_seen, seen) + exponentials(out_own, own));
            out_seen[..visible].iter_mut().chain(out_own).for_each(|x| *x *= factor);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (mut probabilities, grads) = (values(res)?, values(grad)?);
        let cols = x.dims()[2];
        probabilities.par_chunks_mut(cols).zip(grads.par_chunks(cols)).for_each(|(p, grads)| {
            // What isn't seen has probability zero, so its gradient is zero too.
            let mean = dot(p, grads);
            p.iter_mut().zip(grads).for_each(|(p, grad)| *p *= (grad - mean) * self.scale);
        });
        Ok(Some(tensor_like(probabilities, x)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn pseudo(len: usize, salt: u32) -> Vec<f32> {
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) ^ salt.wrapping_mul(40_503)) % 2_000;
        (0..len).map(|i| number(i + 1) as f32 / 1_000.0 - 1.0).collect()
    }

    /// The gradient that candle propagates through `run` agrees with differences of its value.
    fn assert_gradient(dims: &[usize], salt: u32, run: impl Fn(&Tensor) -> Result<Tensor>) {
        let len: usize = dims.iter().product();
        let start = pseudo(len, salt);
        let at = |x: &[f32]| Tensor::from_slice(x, dims, &Device::Cpu).unwrap();
        let out_dims = run(&at(&start)).unwrap().dims().to_vec();
        let weights = pseudo(out_dims.iter().product(), salt + 1);
        let weights = Tensor::from_vec(weights, out_dims, &Device::Cpu).unwrap();
        let loss = |x: &Tensor| run(x).unwrap().mul(&weights).unwrap().sum_all().unwrap();
        let var = Var::from_tensor(&at(&start)).unwrap();
        let grads = loss(var.as_tensor()).backward().unwrap();
        let grads = values(grads.get(&var).unwrap()).unwrap();
        let value = |x: &[f32]| f64::from(loss(&at(x)).to_scalar::<f32>().unwrap());
        for i in 0..len {
            let (mut up, mut down) = (start.clone(), start.clone());
            (up[i], down[i]) = (up[i] + 5e-3, down[i] - 5e-3);
            let slope = (value(&up) - value(&down)) / 1e-2;
            assert!(
                (slope - f64::from(grads[i])).abs() < 4e-3 * slope.abs().max(1.0),
                "{i}: {slope} {}",
                grads[i]
            );
        }
    }

    #[test]
    fn exponentials_are_those_of_the_platform() {
        for i in -8_600..=8_700 {
            let x = i as f32 / 100.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 4e-7, "{x}: {} {}", exp(x), x.exp());
        }
    }

    #[test]
    fn the_gradient_of_a_norm_is_its_slope() {
        let weight = Tensor::from_vec(pseudo(8, 5), 8, &Device::Cpu).unwrap();
        assert_gradient(&[3, 8], 1, |x| rms_norm(x, &weight, 1e-5));
        let x = Tensor::from_vec(pseudo(200 * 4, 6), (200, 4), &Device::Cpu).unwrap();
        assert_gradient(&[4], 2, |weight| rms_norm(&x, weight, 1e-5));
    }

    #[test]
    fn the_gradient_of_a_gate_is_its_slope() {
        let other = Tensor::from_vec(pseudo(12, 9), (3, 4), &Device::Cpu).unwrap();
        assert_gradient(&[3, 4], 1, |gate| silu_gate(gate, &other));
        assert_gradient(&[3, 4], 2, |up| silu_gate(&other, up));
    }

    #[test]
    fn the_gradient_of_a_rotation_is_its_slope() {
        for pairs in [Pairs::Neighbours, Pairs::Halves] {
            let angles = Angles::new(&Rotation { pairs, frequencies: vec![1.0, 0.1] }, &[0, 3, 70]);
            assert_gradient(&[3, 12], 1, |x| rotate(x, &angles, 6));
        }
    }

    #[test]
    fn the_gradient_of_a_masked_softmax_is_its_slope_and_the_mask_holds() {
        let run = |x: &Tensor| {
            x.apply_op1(MaskedSoftmax { visible: Arc::new(vec![1, 3]), shared: 4, group: 2, scale: 0.7 })
        };
        assert_gradient(&[2, 4, 6], 1, run);
        let p = run(&Tensor::from_vec(pseudo(48, 3), (2, 4, 6), &Device::Cpu).unwrap()).unwrap();
        for (at, row) in values(&p).unwrap().chunks(6).enumerate() {
            let visible = [1, 1, 3, 3][at % 4];
            assert!(row[visible..4].iter().all(|&p| p == 0.0) && row[..visible].iter().all(|&p| p > 0.0));
            assert!((sum(row) - 1.0).abs() < 1e-6 && row[4] > 0.0 && row[5] > 0.0);
        }
    }
}
