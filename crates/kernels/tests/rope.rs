//! Rotary embeddings against their definition in f64, and the same bits everywhere.
#![cfg(not(loom))]

use std::f64::consts::TAU;

use foretoken_kernels::rope::{HeadRows, RopeConfig, RopeScaling, RopeStyle, RopeTable, yarn_magnitude};
use foretoken_kernels::{Compute, Isa};

const STYLES: [RopeStyle; 2] = [RopeStyle::Interleaved, RopeStyle::Halves];

fn plain() -> Compute {
    Compute::new(Isa::detect(), 1).expect("the detected instruction set")
}

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7_919 % 1_000) as f32 - 500.0) / 250.0).collect()
}

fn config(dim: usize, scaling: RopeScaling, style: RopeStyle) -> RopeConfig {
    RopeConfig { dim, base: 10_000.0, scaling, magnitude: 1.0, style }
}

/// Rotates one head at `position` by `angle(pair)` in f64, scaled by `magnitude`.
fn naive(
    head: &[f32],
    dim: usize,
    style: RopeStyle,
    magnitude: f64,
    angle: impl Fn(usize) -> f64,
) -> Vec<f64> {
    let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    for pair in 0..dim / 2 {
        let (i, j) = match style {
            RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
            RopeStyle::Halves => (pair, pair + dim / 2),
        };
        let (x, y) = (f64::from(head[i]), f64::from(head[j]));
        let (sin, cos) = angle(pair).sin_cos();
        out[i] = (x * cos - y * sin) * magnitude;
        out[j] = (x * sin + y * cos) * magnitude;
    }
    out
}

fn check(
    table: &mut RopeTable,
    dim: usize,
    style: RopeStyle,
    magnitude: f64,
    frequency: impl Fn(usize) -> f64,
) {
    for skip in [0, 5] {
        check_at(table, dim, skip, style, magnitude, &frequency);
    }
}

/// The same for heads whose first `skip` elements don't rotate.
fn check_at(
    table: &mut RopeTable,
    dim: usize,
    skip: usize,
    style: RopeStyle,
    magnitude: f64,
    frequency: impl Fn(usize) -> f64,
) {
    let (head_dim, heads, stride) = (dim + 6, 3, 3 * (dim + 6) + 5);
    let positions = [0, 1, 700, 131_071];
    let before = noise(positions.len() * stride);
    let mut after = before.clone();
    table.apply(&plain(), &mut after, HeadRows { stride, heads, head_dim, skip }, &positions);
    for (row, position) in positions.into_iter().enumerate() {
        for head in 0..heads {
            let at = row * stride + head * head_dim;
            let angle = |pair| f64::from(position) * frequency(pair);
            assert_eq!(after[at..at + skip], before[at..at + skip]);
            let rotated = at + skip..at + head_dim;
            let truth = naive(&before[rotated.clone()], dim, style, magnitude, angle);
            for (x, truth) in after[rotated].iter().zip(truth) {
                assert!((f64::from(*x) - truth).abs() < 1e-6, "{x} for {truth} at {position}");
            }
        }
        let rest = row * stride + heads * head_dim..(row + 1) * stride;
        assert_eq!(after[rest.clone()], before[rest]);
    }
}

fn plain_frequency(pair: usize, dim: usize) -> f64 {
    10_000_f64.powf(-2.0 * pair as f64 / dim as f64)
}

#[test]
fn plain_and_linear_follow_the_definition() {
    for style in STYLES {
        for dim in [64, 20] {
            let mut table = RopeTable::new(config(dim, RopeScaling::None, style), None);
            check(&mut table, dim, style, 1.0, |pair| plain_frequency(pair, dim));
            let mut table = RopeTable::new(config(dim, RopeScaling::Linear { factor: 4.0 }, style), None);
            check(&mut table, dim, style, 1.0, |pair| plain_frequency(pair, dim) / 4.0);
        }
    }
}

#[test]
fn factors_divide_frequencies() {
    let factors: Vec<f32> = (0..32).map(|i| 1.0 + i as f32 / 4.0).collect();
    for style in STYLES {
        let mut table = RopeTable::new(config(64, RopeScaling::None, style), Some(&factors));
        check(&mut table, 64, style, 1.0, |pair| plain_frequency(pair, 64) / f64::from(factors[pair]));
    }
}

#[test]
fn yarn_interpolates_low_frequencies_only() {
    let pair_of = |rotations: f64| 32.0 * (4_096.0 / rotations / TAU).ln() / 10_000_f64.ln();
    // 10.47.. and 22.51..: pairs 10 to 23 where they are rounded outwards.
    let (first, last) = (pair_of(32.0), pair_of(1.0));
    for (truncate, first, last) in [(true, 10.0, 23.0), (false, first, last)] {
        let scaling =
            RopeScaling::Yarn { factor: 4.0, original_ctx: 4_096, beta_fast: 32.0, beta_slow: 1.0, truncate };
        let ramp = |pair: usize| ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
        for style in STYLES {
            let config = RopeConfig { magnitude: yarn_magnitude(4.0, 1.0), ..config(64, scaling, style) };
            let mut table = RopeTable::new(config, None);
            check(&mut table, 64, style, 1.0 + 0.1 * 4_f64.ln(), |pair| {
                let plain = plain_frequency(pair, 64);
                plain / 4.0 * ramp(pair) + plain * (1.0 - ramp(pair))
            });
        }
    }
}

#[test]
fn every_instruction_set_and_thread_count_gives_the_same_bits() {
    for style in STYLES {
        for dim in [64, 40] {
            let positions: Vec<u32> = (0..200).map(|i| i * 13).collect();
            let rotate = |c: &Compute| {
                let mut x = noise(200 * 4 * dim);
                let mut table = RopeTable::new(config(dim, RopeScaling::None, style), None);
                table.apply(c, &mut x, HeadRows::packed(4, dim), &positions);
                x.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let expected = rotate(&plain());
            for isa in Isa::available() {
                for threads in [1, 2] {
                    let c = Compute::new(isa, threads).expect("an available instruction set");
                    assert!(rotate(&c) == expected, "{isa} with {threads} threads differs");
                }
            }
        }
    }
}
