//! All matmuls of a step, in the shapes of two models with random weights: SmolLM2-135M (Q4_1, head Q8_0), which
//! nearly fits a cache, and one of 780 MB (Q4_0) in the shape of Qwen2.5-1.5B, which doesn't.
//!
//! `matmul [smollm|large] [threads] [isa] [type]`, with the times against both ceilings measured on the spot.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for developers

use std::time::Instant;

use foretoken_kernels::{Activations, Compute, GgmlType, Isa, MatmulJob, PackedMatrix, matmul, roofline};

/// Rows and columns of a model's matrices.
struct Shape {
    layers: usize,
    width: usize,
    kv: usize,
    ffn: usize,
    vocab: usize,
    ty: GgmlType,
    head: GgmlType,
}

/// The matrices that read the same activations.
struct Fork {
    weights: Vec<PackedMatrix>,
    cols: usize,
}

/// Random bytes in whole blocks, with small halves wherever a type keeps them.
fn random_matrix(c: &Compute, ty: GgmlType, rows: usize, cols: usize, seed: &mut u64) -> PackedMatrix {
    let mut bytes = vec![0u8; ty.row_bytes(cols).unwrap() * rows];
    for byte in &mut bytes {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Never an exponent of ones, so no half is infinite or NaN.
        *byte = (*seed >> 57) as u8 & 0x3f;
    }
    PackedMatrix::pack(c, ty, rows, cols, &bytes).unwrap()
}

fn build(c: &Compute, shape: &Shape) -> Vec<Fork> {
    let mut seed = 1;
    let mut forks = Vec::new();
    let mut add = |ty, rows: &[usize], cols| {
        let weights = rows.iter().map(|&rows| random_matrix(c, ty, rows, cols, &mut seed)).collect();
        forks.push(Fork { weights, cols });
    };
    for _ in 0..shape.layers {
        add(shape.ty, &[shape.width, shape.kv, shape.kv], shape.width);
        add(shape.ty, &[shape.width], shape.width);
        add(shape.ty, &[shape.ffn, shape.ffn], shape.width);
        add(shape.ty, &[shape.width], shape.ffn);
    }
    add(shape.head, &[shape.vocab], shape.width);
    forks
}

/// One step of `tokens` tokens; the head only for `head_rows` of them. Returns seconds.
fn step(
    c: &Compute,
    forks: &[Fork],
    tokens: usize,
    head_rows: usize,
    x: &[f32],
    activations: &mut Activations,
    out: &mut [f32],
) -> f64 {
    let start = Instant::now();
    for (i, fork) in forks.iter().enumerate() {
        let tokens = if i + 1 == forks.len() { head_rows } else { tokens };
        activations.reset(tokens, fork.cols);
        activations.quantize(c, &x[..tokens * fork.cols]);
        let mut rest = &mut *out;
        let mut jobs = Vec::with_capacity(3);
        for weight in &fork.weights {
            let (out, next) = rest.split_at_mut(tokens * weight.rows());
            rest = next;
            jobs.push(MatmulJob { weight, bias: None, out, add: false });
        }
        matmul(c, activations, &mut jobs);
    }
    start.elapsed().as_secs_f64()
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let model = args.next().unwrap_or_else(|| "smollm".to_owned());
    let threads = args.next().map_or(2, |arg| arg.parse().unwrap());
    let isa = args.next().map_or(Isa::detect(), |arg| arg.parse().unwrap());
    let ty = args.next().map(|name| GgmlType::all().find(|ty| ty.name() == name).unwrap());
    let float = ty.is_some_and(|ty: GgmlType| ty.layout().is_none());
    // A file of floats has a head of floats.
    let head = ty.filter(|_| float);
    let large = model == "large";
    let shape = if large {
        let (ty, head) = (ty.unwrap_or(GgmlType::Q4_0), head.unwrap_or(GgmlType::Q4_0));
        Shape { layers: 28, width: 1536, kv: 256, ffn: 8960, vocab: 49152, ty, head }
    } else {
        let (ty, head) = (ty.unwrap_or(GgmlType::Q4_1), head.unwrap_or(GgmlType::Q8_0));
        Shape { layers: 30, width: 576, kv: 192, ffn: 1536, vocab: 49152, ty, head }
    };
    let c = Compute::new(isa, threads).unwrap();
    let bandwidth = roofline::read_bandwidth_gbps(&c).unwrap();
    let tops = roofline::dot_rate_tops(&c);
    println!("{model} {} on {isa}, {threads} threads; {bandwidth:.1} GB/s, {tops:.2} TOPS", shape.ty);

    let start = Instant::now();
    let forks = build(&c, &shape);
    let bytes: usize = forks.iter().flat_map(|fork| &fork.weights).map(PackedMatrix::bytes).sum();
    println!(
        "{:.1} MB packed in {:.2} s (with making them up)",
        bytes as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );

    let prompt = if large { 64 } else { 512 };
    let x: Vec<f32> = (0..prompt * shape.ffn).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let mut out = vec![0.0; (prompt * 2 * shape.ffn).max(16 * shape.vocab)];
    let mut activations = if float { Activations::with_floats() } else { Activations::new() };
    let median = |tokens, head_rows, times: usize, activations: &mut Activations, out: &mut [f32]| {
        let mut seconds: Vec<f64> =
            (0..times).map(|_| step(&c, &forks, tokens, head_rows, &x, activations, out)).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[times / 2]
    };
    let mut one = 0.0;
    for tokens in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16] {
        let seconds = median(tokens, tokens, if large { 15 } else { 101 }, &mut activations, &mut out);
        if tokens == 1 {
            one = seconds;
        }
        let rate = bytes as f64 / seconds / 1e9;
        println!(
            "{tokens:4} tokens {:8.3} ms, {:5.2} of one, {rate:6.1} GB/s = {:3.0} % of the bandwidth",
            seconds * 1e3,
            seconds / one,
            100.0 * rate / bandwidth
        );
    }
    let seconds = median(prompt, 1, 5, &mut activations, &mut out);
    let layers = &forks[..forks.len() - 1];
    let weights: usize = layers.iter().flat_map(|fork| &fork.weights).map(|w| w.rows() * w.cols()).sum();
    let rate = (2 * weights * prompt) as f64 / seconds / 1e12;
    println!(
        "{prompt:4} tokens {:8.3} ms, {:.0} tokens/s, {rate:.2} TOPS = {:.0} % of the dot rate",
        seconds * 1e3,
        prompt as f64 / seconds,
        100.0 * rate / tops
    );
}
