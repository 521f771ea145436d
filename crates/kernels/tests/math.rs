//! The canonical functions: accurate, and with the same bits on every instruction set.
#![cfg(not(loom))]

use foretoken_kernels::{Activations, Compute, Isa, math, ops};
use proptest::prelude::*;

/// Every instruction set of this machine, on one thread and on two.
fn computes() -> Vec<Compute> {
    let each = |isa| [1, 2].map(|threads| Compute::new(isa, threads).expect("an available instruction set"));
    Isa::available().into_iter().flat_map(each).collect()
}

fn plain() -> Compute {
    Compute::new(Isa::detect(), 1).expect("the detected instruction set")
}

/// `f` gives the same bits everywhere.
fn same_everywhere(f: impl Fn(&Compute) -> Vec<f32>) {
    let bits = |c: &Compute| f(c).into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let computes = computes();
    let expected = bits(&computes[0]);
    for c in &computes[1..] {
        assert!(bits(c) == expected, "{} with {} threads differs", c.isa(), c.pool().threads());
    }
}

#[test]
fn exp_is_within_one_ulp() {
    let c = plain();
    let mut worst: f64 = 0.0;
    for i in 0..2_000_000 {
        let x = -87.33 + i as f32 * (88.72 + 87.33) / 2_000_000.0;
        let truth = f64::from(x).exp();
        let ulp = f64::from((truth as f32).next_up()) - f64::from(truth as f32);
        worst = worst.max((f64::from(math::exp(&c, x)) - truth).abs() / ulp);
    }
    assert!(worst < 1.0, "off by {worst} ulp");
}

#[test]
fn exp_has_exact_ends() {
    let c = plain();
    assert_eq!(math::exp(&c, f32::NEG_INFINITY).to_bits(), 0);
    assert_eq!(math::exp(&c, -100.0).to_bits(), 0);
    assert_eq!(math::exp(&c, 0.0), 1.0);
    assert_eq!(math::exp(&c, -0.0), 1.0);
    assert_eq!(math::exp(&c, f32::INFINITY), f32::INFINITY);
    assert_eq!(math::exp(&c, 89.0), f32::INFINITY);
    assert!(math::exp(&c, 88.7).is_finite());
    assert!(math::exp(&c, f32::NAN).is_nan());
}

#[test]
fn near_max_finds_exactly_the_values_near_the_maximum() {
    let row: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 1000) as f32 * 0.01).collect();
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for c in computes() {
        for within in [0.0, 0.5, 20.0] {
            let mut found = Vec::new();
            math::near_max(&c, &row, within, &mut found);
            let expected = row.iter().copied().zip(0u32..).filter(|&(x, _)| x >= max - within);
            assert!(found.iter().copied().eq(expected), "within {within} on {}", c.isa());
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals_and_never_nan() {
    for c in computes() {
        assert_eq!(math::argmax(&c, &[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(math::argmax(&c, &[f32::NAN, 1.0, f32::NAN, 2.0]), 3);
        let mut row = vec![0.0; 49_152];
        row[40_001] = 1.0;
        row[48_000] = 1.0;
        assert_eq!(math::argmax(&c, &row), 40_001);
        row[49_151] = 2.0;
        assert_eq!(math::argmax(&c, &row), 49_151);
    }
}

/// `len` numbers within `±scale`, pseudo-random.
fn noise(len: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn softmax_and_log_sum_exp_agree_with_f64() {
    let c = plain();
    for len in [1, 15, 16, 17, 1000, 49_152] {
        let x = noise(len, 3, 20.0);
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|&x| f64::from(x - max).exp()).sum();
        let lse = f64::from(max) + sum.ln();
        assert!((f64::from(math::log_sum_exp(&c, &x)) - lse).abs() < 1e-5 * lse.abs().max(1.0));
        let mut out = vec![0.0; len];
        math::softmax(&c, &x, &mut out);
        for (x, p) in x.iter().zip(&out) {
            let truth = f64::from(x - max).exp() / sum;
            assert!((f64::from(*p) - truth).abs() <= 2e-6 * truth, "{p} for {truth}");
        }
    }
}

#[test]
fn norms_agree_with_f64() {
    let c = plain();
    let (x, weight) = (noise(3 * 72, 5, 4.0), noise(72, 6, 1.0));
    let mut out = vec![0.0; x.len()];
    ops::rms_norm(&c, &x, 72, &weight, 1e-5, &mut out);
    for (x, out) in x.chunks(72).zip(out.chunks(72)) {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 72.0;
        for ((x, weight), out) in x.iter().zip(&weight).zip(out) {
            let truth = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*weight);
            assert!((f64::from(*out) - truth).abs() < 1e-6, "{out} for {truth}");
        }
    }
}

#[test]
fn head_norms_touch_heads_only() {
    let c = plain();
    let (weight, before) = (noise(24, 8, 1.0), noise(2 * 60, 7, 2.0));
    let mut after = before.clone();
    ops::rms_norm_heads(&c, &mut after, 60, 2, 24, &weight, 1e-6);
    for (before, after) in before.chunks(60).zip(after.chunks(60)) {
        let mut expected = vec![0.0; 48];
        ops::rms_norm(&c, &before[..48], 24, &weight, 1e-6, &mut expected);
        assert_eq!(after[..48], expected);
        assert_eq!(after[48..], before[48..]);
    }
}

/// The activations that a fused operation produces, read back through a matmul with the identity.
fn through_matmul(c: &Compute, cols: usize, fill: impl Fn(&mut Activations)) -> Vec<f32> {
    use foretoken_kernels::{GgmlType, MatmulJob, PackedMatrix, matmul};
    let identity: Vec<u8> = (0..cols * cols)
        .flat_map(|i| (if i / cols == i % cols { 1.0_f32 } else { 0.0 }).to_le_bytes())
        .collect();
    let weight = PackedMatrix::pack(c, GgmlType::F32, cols, cols, &identity).expect("an identity matrix");
    let mut activations = Activations::with_floats();
    fill(&mut activations);
    let mut out = vec![0.0; activations.rows() * cols];
    matmul(c, &activations, &mut [MatmulJob { weight: &weight, bias: None, out: &mut out, add: false }]);
    out
}

#[test]
fn gates_agree_with_f64() {
    let c = plain();
    let (gate, up) = (noise(2 * 96, 9, 10.0), noise(2 * 96, 10, 3.0));
    let silu = glu(&c, ops::Glu::Silu, &gate, &up, 96);
    let gelu = glu(&c, ops::Glu::Gelu, &gate, &up, 96);
    for (i, (&gate, &up)) in gate.iter().zip(&up).enumerate() {
        let (x, up) = (f64::from(gate), f64::from(up));
        let truth = x / (1.0 + (-x).exp()) * up;
        assert!((f64::from(silu[i]) - truth).abs() < 1e-6 * truth.abs().max(1.0), "{} for {truth}", silu[i]);
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        let truth = 0.5 * x * (1.0 + u.tanh()) * up;
        assert!((f64::from(gelu[i]) - truth).abs() < 2e-6 * truth.abs().max(1.0), "{} for {truth}", gelu[i]);
    }
}

const GPT_OSS: ops::Glu = ops::Glu::Clamped { alpha: 1.702, limit: 7.0 };

fn glu(c: &Compute, glu: ops::Glu, gate: &[f32], up: &[f32], cols: usize) -> Vec<f32> {
    through_matmul(c, cols, |activations| {
        activations.reset(gate.len() / cols, cols);
        ops::glu_activations(c, glu, gate, up, activations);
    })
}

#[test]
fn the_clamped_gate_agrees_with_f64() {
    let (gate, up) = (noise(2 * 96, 9, 10.0), noise(2 * 96, 10, 10.0));
    let out = glu(&plain(), GPT_OSS, &gate, &up, 96);
    for ((&out, &gate), &up) in out.iter().zip(&gate).zip(&up) {
        let (gate, up) = (f64::from(gate).min(7.0), f64::from(up).clamp(-7.0, 7.0));
        let truth = gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0);
        assert!((f64::from(out) - truth).abs() < 2e-6 * truth.abs().max(1.0), "{out} for {truth}");
    }
}

#[test]
fn experts_outputs_are_added_in_order_with_their_weights() {
    use foretoken_kernels::router::Choice;
    let (c, cols, used) = (plain(), 37, 2);
    let (parts, before) = (noise(4 * cols, 1, 1.0), noise(2 * cols, 2, 1.0));
    let pairs = [3, 0, 1, 2];
    let choices = [0.5, -2.0, 1.0, 0.25].map(|weight| Choice { expert: 0, weight });
    let mut out = before.clone();
    ops::add_weighted(&c, &mut out, cols, &parts, &pairs, &choices);
    for (i, &out) in out.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let expected = (0..used).fold(before[i], |sum, k| {
            let pair = row * used + k;
            parts[pairs[pair] as usize * cols + col].mul_add(choices[pair].weight, sum)
        });
        assert_eq!(out.to_bits(), expected.to_bits(), "row {row}, column {col}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_instruction_set_gives_the_same_bits(
        rows in 1_usize..40, vectors in 1_usize..40, rest in 0_usize..16, scale in 0.01_f32..200.0, seed: u32,
    ) {
        let cols = 16 * vectors + rest;
        let (x, y, weight) = (noise(rows * cols, seed, scale), noise(rows * cols, seed ^ 1, scale), noise(cols, seed ^ 2, 1.0));
        same_everywhere(|c| {
            let mut out = vec![0.0; x.len()];
            ops::rms_norm(c, &x, cols, &weight, 1e-5, &mut out);
            out
        });
        same_everywhere(|c| {
            let mut out = x.clone();
            ops::rms_norm_heads(c, &mut out, cols, 2, vectors * 8, &weight[..vectors * 8], 1e-5);
            out
        });
        same_everywhere(|c| glu(c, ops::Glu::Silu, &x, &y, cols));
        same_everywhere(|c| glu(c, ops::Glu::Gelu, &x, &y, cols));
        same_everywhere(|c| glu(c, GPT_OSS, &x, &y, cols));
        same_everywhere(|c| {
            let mut out = vec![0.0; x.len()];
            math::sigmoid(c, &x, &mut out);
            out
        });
        same_everywhere(|c| {
            let mut out = vec![0.0; x.len()];
            math::softmax(c, &x, &mut out);
            out.push(math::log_sum_exp(c, &x));
            out.push(math::exp(c, x[0]));
            out
        });
    }
}

/// Numbers of all sizes that a score or a logit may have.
fn spread(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7_919 % 4_001) as f32 - 2_000.0) * 0.03).collect()
}

#[test]
fn logits_are_scaled_and_capped_softly() {
    let x = spread(4_001);
    for (scale, cap) in [(1.0, None), (0.25, None), (1.0, Some(30.0)), (0.5, Some(6.0))] {
        let capped = |c: &Compute| {
            let mut y = x.clone();
            ops::scale_logits(c, &mut y, x.len(), scale, cap);
            y
        };
        for (x, y) in x.iter().zip(capped(&plain())) {
            let scaled = f64::from(x * scale);
            let truth = cap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh());
            let error = (f64::from(y) - truth).abs();
            assert!(error <= 4e-7 * truth.abs(), "{y} for {truth}, of {x} by {scale} under {cap:?}");
        }
        same_everywhere(capped);
    }
}

#[test]
fn a_branch_is_normed_scaled_and_added() {
    let (cols, rows) = (43, 5);
    let (branch, residual) = (spread(rows * cols), spread(2 * rows * cols)[rows * cols..].to_vec());
    let weight: Vec<f32> = (0..cols).map(|i| 0.5 + i as f32 / 20.0).collect();
    let eps = 1e-6;
    for (norm, scale) in [(false, 1.0), (false, 0.22), (true, 1.0), (true, 0.3)] {
        let add = |c: &Compute| {
            let mut out = residual.clone();
            ops::add_branch(c, &branch, cols, norm.then_some((&weight[..], eps)), scale, &mut out);
            out
        };
        let out = add(&plain());
        for (at, (out, residual)) in out.iter().zip(&residual).enumerate() {
            let row = &branch[at / cols * cols..][..cols];
            let mean = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / cols as f64;
            let factor =
                if norm { f64::from(weight[at % cols]) / (mean + f64::from(eps)).sqrt() } else { 1.0 };
            let truth = f64::from(*residual) + f64::from(scale) * f64::from(branch[at]) * factor;
            assert!((f64::from(*out) - truth).abs() < 2e-5, "{out} for {truth}");
        }
        same_everywhere(add);
    }
}
