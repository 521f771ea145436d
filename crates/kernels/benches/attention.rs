//! Everything of a step but the matmuls, in the shape of SmolLM2-135M (30 layers, 9 query heads over 3 KV heads
//! of 64): attention over chains and draft trees at several contexts, KV stores, small operations, and a fork.
//!
//! `attention [threads] [isa] [query heads] [kv heads] [head dim]`, microseconds per layer. With 0 KV heads it is latent
//! attention, the latent as long as a head, and 64 numbers that rotate: `attention 2 avx512 16 0 512` is DeepSeek-V2-Lite.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for developers

use std::time::Instant;

use foretoken_kernels::attention::{Scoring, attention};
use foretoken_kernels::kv::{AttnSeq, BLOCK_TOKENS, KvLayout, KvView, LayerKv, store_kv};
use foretoken_kernels::rope::{HeadRows, RopeConfig, RopeScaling, RopeStyle, RopeTable};
use foretoken_kernels::{Activations, Compute, Isa, Memory, math, ops, roofline};

const LAYERS: usize = 30;
/// Numbers of a latent key that rotate.
const ROPE: usize = 64;

/// The median microseconds of `f`, and of one of `parts` parts of it.
fn time(parts: usize, mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < 5 || (start.elapsed().as_millis() < 400 && samples.len() < 2000) {
        let start = Instant::now();
        f();
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2] / parts as f64
}

fn noise(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

struct Bench {
    c: Compute,
    layout: KvLayout,
    q_heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Bench {
    /// Attention of all layers for `rows` new rows after `context` tokens.
    fn attention(&self, context: usize, rows: usize, parents: Option<&[i32]>) {
        let Self { c, layout, q_heads, kv_heads, dim } = self;
        let (dim_k, dim_v) = if *kv_heads == 0 { (dim + ROPE, *dim) } else { (*dim, *dim) };
        let blocks = (context + rows).div_ceil(BLOCK_TOKENS);
        // A sound KV value in every slot.
        let mut memory = Memory::zeroed(blocks * layout.block_bytes()).unwrap();
        memory.fill(0x35);
        let mut kv = KvView::new(layout, Vec::new(), memory.chunks_mut(layout.block_bytes()).collect());
        let seqs = [AttnSeq { kv: &mut kv, rows: 0..rows, committed: context, parents }];
        let q = noise(rows * q_heads * dim_k);
        let mut out = vec![0.0; rows * q_heads * dim_v];
        let us = time(LAYERS, || {
            for layer in 0..LAYERS {
                attention(c, layout, layer, &seqs, &q, *q_heads, Scoring::scaled(0.125), &mut out);
            }
        });
        let seen = rows * context + if parents.is_some() { rows } else { rows * (rows + 1) / 2 };
        let fma = (seen * q_heads * (dim_k + dim_v)) as f64;
        let bytes = ((context + rows) * layout.layers()[0].token_bytes()) as f64;
        let tree = if parents.is_some() { " tree" } else { "" };
        println!(
            "attention context {context:>5} rows {rows:>4}{tree}: {us:>9.2} us  {:>6.1} Gfma/s  {:>6.1} GB/s",
            fma / us / 1e3,
            bytes / us / 1e3
        );
    }

    fn small(&self, rows: usize) {
        let Self { c, layout, q_heads, kv_heads, dim } = self;
        let dim = *dim;
        let (width, kv_width, ffn) = (q_heads * dim, kv_heads * dim, 1536);
        let (x, up, weight) = (noise(rows * ffn), noise(rows * ffn), noise(width));
        let mut activations = Activations::new();
        let norm = time(100, || {
            for _ in 0..100 {
                ops::rms_norm_activations(c, &x[..rows * width], width, &weight, 1e-5, &mut activations);
            }
        });
        activations.reset(rows, ffn);
        let silu = time(100, || {
            (0..100).for_each(|_| ops::glu_activations(c, ops::Glu::Silu, &x, &up, &mut activations))
        });
        let mut q = noise(rows * width);
        let positions: Vec<u32> = (0..rows as u32).collect();
        let mut rope = |style| {
            let config = RopeConfig { dim, base: 1e4, scaling: RopeScaling::None, magnitude: 1.0, style };
            let mut table = RopeTable::new(config, None);
            time(100, || {
                (0..100).for_each(|_| table.apply(c, &mut q, HeadRows::packed(*q_heads, dim), &positions))
            })
        };
        let (interleaved, halves) = (rope(RopeStyle::Interleaved), rope(RopeStyle::Halves));
        let mut memory = Memory::zeroed(rows.div_ceil(BLOCK_TOKENS) * layout.block_bytes()).unwrap();
        let mut kv = KvView::new(layout, Vec::new(), memory.chunks_mut(layout.block_bytes()).collect());
        let mut seqs = [AttnSeq { kv: &mut kv, rows: 0..rows, committed: 0, parents: None }];
        let (k, v) = (&x[..rows * kv_width], &up[..rows * kv_width]);
        let store =
            time(LAYERS, || (0..LAYERS).for_each(|layer| store_kv(c, layout, layer, &mut seqs, k, v)));
        println!(
            "rows {rows:>4}: norm+quantise {norm:.2} us, silu+quantise {silu:.2} us, rope of q interleaved \
             {interleaved:.2} us, halves {halves:.2} us, store_kv {store:.2} us"
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |i: usize, default| args.get(i).map_or(default, |arg| arg.parse().unwrap());
    let isa = args.get(1).map_or(Isa::detect(), |arg| arg.parse().unwrap());
    let c = Compute::new(isa, number(0, 2)).unwrap();
    let (q_heads, kv_heads, dim) = (number(2, 9), number(3, 3), number(4, 64));
    println!("{isa}, {} threads", c.pool().threads());
    println!("memory reads {:.1} GB/s", roofline::read_bandwidth_gbps(&c).unwrap_or(f64::NAN));
    println!("fork and join {:.3} us", time(1000, || (0..1000).for_each(|_| c.pool().run(&|_| {}))));
    let logits = noise(49_152);
    let mut probs = vec![0.0; logits.len()];
    println!(
        "argmax of 49152 {:.2} us",
        time(10, || (0..10).for_each(|_| assert!(math::argmax(&c, &logits) > 0)))
    );
    println!(
        "softmax of 49152 {:.2} us",
        time(10, || (0..10).for_each(|_| math::softmax(&c, &logits, &mut probs)))
    );
    let layer = match kv_heads {
        0 => LayerKv::Latent { rank: dim, rope: ROPE },
        _ => LayerKv::Heads { kv_heads, dim_k: dim, dim_v: dim, window: None },
    };
    let layout = KvLayout::uniform(LAYERS, layer);
    let bench = Bench { c, layout, q_heads, kv_heads, dim };
    if kv_heads > 0 {
        [1, 8, 512].into_iter().for_each(|rows| bench.small(rows));
    }
    for (context, rows) in
        [(16, 1), (128, 1), (512, 1), (1024, 1), (4096, 1), (1024, 4), (1024, 8), (0, 512), (0, 2048)]
    {
        bench.attention(context, rows, None);
    }
    // A root with seven children, and a chain in which every second node is a leaf.
    bench.attention(1024, 8, Some(&[-1, 0, 0, 0, 0, 0, 0, 0]));
    bench.attention(1024, 16, Some(&[-1, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14]));
}
