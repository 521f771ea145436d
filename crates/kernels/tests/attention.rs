//! Attention: close to a naive one in f64, and the same bits for any other rows of the step.
#![cfg(not(loom))]

use std::ops::Range;

use foretoken_kernels::attention::{Scoring, attention};
use foretoken_kernels::kv::{
    AttnSeq, BLOCK_TOKENS, KvLayout, KvView, LayerKv, OpenParts, SealedParts, store_kv, store_latent,
    through_f16,
};
use foretoken_kernels::{Compute, Isa};
use proptest::prelude::*;

const LAYERS: usize = 2;

/// A block's bytes, aligned as in a pool.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read as bytes")] [u8; 64]);

/// The KV memory of one sequence, filled with signalling NaNs.
struct Memory {
    lines: Vec<Line>,
    blocks: usize,
}

impl Memory {
    fn new(layout: &KvLayout, blocks: usize) -> Self {
        Self { lines: vec![Line([0x7d; 64]); blocks * layout.block_bytes() / 64], blocks }
    }

    fn view<'a>(&'a mut self, layout: &KvLayout) -> KvView<'a> {
        let per_block = self.lines.len() / self.blocks;
        let open = self.lines.chunks_mut(per_block).map(bytes_of).collect();
        KvView::new(layout, Vec::new(), open)
    }
}

fn bytes_of(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a `Line` is 64 bytes without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 64 * lines.len()) }
}

/// `len` numbers within `±scale`, a function of the seed.
fn noise(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(|_| next()).collect()
}

/// The shape of a test model, and each token's query, key and value as functions of a seed.
#[derive(Clone, Debug)]
struct Shape {
    layout: KvLayout,
    q_heads: usize,
    softcap: Option<f32>,
    sinks: Option<Vec<f32>>,
}

impl Shape {
    fn of(kv: LayerKv, q_heads: usize) -> Self {
        Self { layout: KvLayout::uniform(LAYERS, kv), q_heads, softcap: None, sinks: None }
    }

    fn new(kv_heads: usize, group: usize, dim_k: usize, dim_v: usize) -> Self {
        Self::of(LayerKv::Heads { kv_heads, dim_k, dim_v, window: None }, kv_heads * group)
    }

    fn windowed(window: usize, kv_heads: usize, group: usize, dim: usize) -> Self {
        let window = Some(window);
        Self::of(LayerKv::Heads { kv_heads, dim_k: dim, dim_v: dim, window }, kv_heads * group)
    }

    fn latent(q_heads: usize, rank: usize, rope: usize) -> Self {
        Self::of(LayerKv::Latent { rank, rope }, q_heads)
    }

    /// The last layer is a draft head's.
    fn of_draft_head(self) -> Self {
        let layout = KvLayout::new(self.layout.layers().to_vec(), 1, 0);
        Self { layout, ..self }
    }

    fn softcapped(self, cap: f32) -> Self {
        Self { softcap: Some(cap), ..self }
    }

    fn with_sinks(self) -> Self {
        let sinks = Some(noise(self.q_heads, 77, 4.0));
        Self { sinks, ..self }
    }

    fn kv(&self) -> LayerKv {
        self.layout.layers()[LAYERS - 1]
    }

    /// KV heads, and lengths of a key and a value.
    fn dims(&self) -> (usize, usize, usize) {
        match self.kv() {
            LayerKv::Heads { kv_heads, dim_k, dim_v, .. } => (kv_heads, dim_k, dim_v),
            LayerKv::Latent { rank, rope } => (1, rank + rope, rank),
            LayerKv::None => unreachable!("no test is about a layer that keeps nothing"),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dims().1 as f32).sqrt()
    }

    fn scoring(&self) -> Scoring<'_> {
        Scoring { scale: self.scale(), softcap: self.softcap, sinks: self.sinks.as_deref() }
    }

    fn q(&self, seed: u64) -> Vec<f32> {
        noise(self.q_heads * self.dims().1, seed.wrapping_mul(3), 6.0)
    }

    fn k(&self, seed: u64) -> Vec<f32> {
        let (kv_heads, dim_k, _) = self.dims();
        noise(kv_heads * dim_k, seed.wrapping_mul(5) ^ 1, 3.0)
    }

    fn v(&self, seed: u64) -> Vec<f32> {
        let (kv_heads, _, dim_v) = self.dims();
        match self.kv() {
            LayerKv::Latent { .. } => self.k(seed)[..dim_v].to_vec(),
            _ => noise(kv_heads * dim_v, seed.wrapping_mul(7) ^ 2, 2.0),
        }
    }

    fn out_len(&self) -> usize {
        self.q_heads * self.dims().2
    }

    /// Stores the tokens of a step and returns the attention output of each row.
    fn step(&self, c: &Compute, seqs: &mut [AttnSeq<'_, '_>], tokens: &[u64]) -> Vec<Vec<f32>> {
        let gather =
            |f: &dyn Fn(u64) -> Vec<f32>| tokens.iter().flat_map(|&token| f(token)).collect::<Vec<f32>>();
        let (q, k, v) = (gather(&|t| self.q(t)), gather(&|t| self.k(t)), gather(&|t| self.v(t)));
        match self.kv() {
            LayerKv::Latent { .. } => store_latent(c, &self.layout, LAYERS - 1, seqs, &k),
            _ => store_kv(c, &self.layout, LAYERS - 1, seqs, &k, &v),
        }
        let mut out = vec![0.0; tokens.len() * self.out_len()];
        attention(c, &self.layout, LAYERS - 1, seqs, &q, self.q_heads, self.scoring(), &mut out);
        out.chunks(self.out_len()).map(<[f32]>::to_vec).collect()
    }

    /// Runs one sequence in chunks of the given lengths, which repeat.
    fn chunked(&self, c: &Compute, tokens: &[u64], chunks: &[usize]) -> Vec<Vec<f32>> {
        let mut memory = Memory::new(&self.layout, tokens.len().div_ceil(BLOCK_TOKENS));
        let mut view = memory.view(&self.layout);
        let (mut out, mut chunks) = (Vec::new(), chunks.iter().cycle());
        while out.len() < tokens.len() {
            let committed = out.len();
            let count = (*chunks.next().expect("a chunk length")).min(tokens.len() - committed);
            let seq = AttnSeq { kv: &mut view, rows: 0..count, committed, parents: None };
            out.extend(self.step(c, &mut [seq], &tokens[committed..committed + count]));
        }
        out
    }

    /// The last token's output by definition, in f64.
    fn naive(&self, tokens: &[u64]) -> Vec<f64> {
        let (kv_heads, head_dim_k, head_dim_v) = self.dims();
        let window = self.kv().window().unwrap_or(tokens.len()).min(tokens.len());
        let hidden = self.layout.draft_layers().min(tokens.len() - 1);
        let tokens = &tokens[hidden.max(tokens.len() - window)..];
        let q = self.q(*tokens.last().expect("a token"));
        let mut out = Vec::new();
        for head in 0..self.q_heads {
            let kv_head = head / (self.q_heads / kv_heads);
            let score = |&token: &u64| {
                let k = &self.k(token)[kv_head * head_dim_k..][..head_dim_k];
                let q = &q[head * head_dim_k..][..head_dim_k];
                let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(through_f16(k))).sum();
                let score = dot * f64::from(self.scale());
                self.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let scores: Vec<f64> = tokens.iter().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sink = self.sinks.as_ref().map_or(0.0, |sinks| (f64::from(sinks[head]) - max).exp());
            let sum: f64 = weights.iter().sum::<f64>() + sink;
            let mut acc = vec![0.0; head_dim_v];
            for (&token, weight) in tokens.iter().zip(&weights) {
                for (acc, v) in acc.iter_mut().zip(&self.v(token)[kv_head * head_dim_v..]) {
                    *acc += weight / sum * f64::from(through_f16(*v));
                }
            }
            out.extend(acc);
        }
        out
    }
}

fn computes() -> Vec<Compute> {
    let each = |isa| [1, 2].map(|threads| Compute::new(isa, threads).expect("an available instruction set"));
    Isa::available().into_iter().flat_map(each).collect()
}

fn plain() -> Compute {
    Compute::new(Isa::detect(), 1).expect("the detected instruction set")
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

fn tokens(range: Range<u64>) -> Vec<u64> {
    range.collect()
}

fn shapes() -> Vec<Shape> {
    vec![
        Shape::new(3, 3, 64, 64),
        Shape::new(2, 1, 8, 8),
        Shape::new(1, 7, 128, 128),
        Shape::new(2, 2, 48, 80),
        Shape::new(1, 4, 192, 128),
        Shape::new(1, 2, 20, 37),
        Shape::new(1, 4, 256, 256),
        Shape::windowed(100, 1, 3, 64),
        Shape::windowed(70, 1, 2, 16).of_draft_head(),
        Shape::new(2, 2, 32, 32).of_draft_head(),
        Shape::latent(4, 32, 16).of_draft_head(),
        Shape::windowed(1, 2, 1, 16),
        Shape::windowed(64, 1, 1, 20),
        Shape::windowed(600, 2, 2, 32).softcapped(3.0),
        Shape::windowed(33, 1, 4, 32).with_sinks(),
        Shape::new(1, 5, 96, 96).softcapped(5.0),
        Shape::new(2, 4, 64, 64).with_sinks(),
        Shape::latent(4, 64, 16),
        Shape::latent(3, 37, 6),
        Shape::latent(32, 48, 8),
    ]
}

#[test]
fn agrees_with_the_definition() {
    let c = plain();
    for shape in shapes() {
        let tokens = tokens(0..1100);
        let out = shape.chunked(&c, &tokens, &[300]);
        for row in [0, 1, 15, 63, 64, 127, 511, 512, 513, 1099] {
            let truth = shape.naive(&tokens[..=row]);
            for (out, truth) in out[row].iter().zip(truth) {
                assert!((f64::from(*out) - truth).abs() < 1e-4, "row {row} of {shape:?}: {out} for {truth}");
            }
        }
    }
}

#[test]
fn every_instruction_set_and_thread_count_gives_the_same_bits() {
    for shape in shapes() {
        let tokens = tokens(0..620);
        let computes = computes();
        let expected = bits(&shape.chunked(&computes[0], &tokens, &[601, 1, 1, 5]));
        for c in &computes[1..] {
            let out = bits(&shape.chunked(c, &tokens, &[601, 1, 1, 5]));
            assert!(out == expected, "{} with {} threads differs for {shape:?}", c.isa(), c.pool().threads());
        }
    }
}

#[test]
fn a_row_does_not_depend_on_other_sequences_of_the_step() {
    let shape = Shape::new(3, 3, 64, 64);
    for c in [plain(), Compute::new(Isa::detect(), 2).expect("the detected instruction set")] {
        let lengths = [700_usize, 3, 65, 130];
        let alone: Vec<_> = (0..4)
            .map(|i| shape.chunked(&c, &tokens(1000 * i..1000 * i + lengths[i as usize] as u64), &[997]))
            .collect();
        let mut memories = lengths.map(|len| Memory::new(&shape.layout, len.div_ceil(BLOCK_TOKENS)));
        let mut views: Vec<KvView<'_>> =
            memories.iter_mut().map(|memory| memory.view(&shape.layout)).collect();
        let (mut seqs, mut all, mut first) = (Vec::new(), Vec::new(), 0);
        for (i, (kv, len)) in views.iter_mut().zip(lengths).enumerate() {
            seqs.push(AttnSeq { kv, rows: first..first + len, committed: 0, parents: None });
            all.extend(1000 * i as u64..1000 * i as u64 + len as u64);
            first += len;
        }
        let together = shape.step(&c, &mut seqs, &all);
        assert!(bits(&together) == bits(&alone.concat()));
    }
}

/// Runs `committed` tokens, then a draft tree, and compares each row with decoding its path one by one; then
/// accepts the path to the last row by moving slots, and decodes one more token.
fn tree_equals_its_paths(c: &Compute, shape: &Shape, committed: usize, parents: &[i32]) {
    let context = tokens(0..committed as u64);
    let nodes: Vec<u64> = (0..parents.len() as u64).map(|i| 10_000 + i).collect();
    let mut memory = Memory::new(&shape.layout, (committed + parents.len()).div_ceil(BLOCK_TOKENS) + 1);
    let mut view = memory.view(&shape.layout);
    if committed > 0 {
        let seq = AttnSeq { kv: &mut view, rows: 0..committed, committed: 0, parents: None };
        shape.step(c, &mut [seq], &context);
    }
    let seq = AttnSeq { kv: &mut view, rows: 0..parents.len(), committed, parents: Some(parents) };
    let out = shape.step(c, &mut [seq], &nodes);
    let path_of = |mut row: usize| {
        let mut path = vec![row];
        while let Ok(parent) = usize::try_from(parents[row]) {
            path.insert(0, parent);
            row = parent;
        }
        path
    };
    for (row, out) in out.iter().enumerate() {
        let path: Vec<u64> = path_of(row).into_iter().map(|row| nodes[row]).collect();
        let alone = shape.chunked(c, &[&context[..], &path].concat(), &[committed.max(1), 1]);
        assert!(
            bits(std::slice::from_ref(out)) == bits(&alone[alone.len() - 1..]),
            "row {row} of {parents:?}"
        );
    }
    let accepted = path_of(parents.len() - 1);
    for (depth, &row) in accepted.iter().enumerate() {
        view.copy_slot(committed + row, committed + depth);
    }
    let next = 77_777;
    let seq = AttnSeq { kv: &mut view, rows: 0..1, committed: committed + accepted.len(), parents: None };
    let after = shape.step(c, &mut [seq], &[next]);
    let path: Vec<u64> = accepted.into_iter().map(|row| nodes[row]).chain([next]).collect();
    let alone = shape.chunked(c, &[&context[..], &path].concat(), &[committed.max(1), 1]);
    assert!(bits(&after) == bits(&alone[alone.len() - 1..]), "after accepting a path of {parents:?}");
}

#[test]
fn a_tree_that_straddles_blocks_and_spans_equals_its_paths() {
    // Two interleaved branches of 80 rows: slots exceed positions by up to 80.
    let parents: Vec<i32> = (0..80).map(|i| i - 2).map(|parent: i32| parent.max(-1)).collect();
    for shape in [
        Shape::new(1, 3, 32, 32),
        Shape::windowed(30, 1, 3, 32),
        Shape::latent(3, 32, 16),
        Shape::latent(3, 32, 16).of_draft_head(),
    ] {
        for committed in [0, 1, 470, 511] {
            tree_equals_its_paths(&plain(), &shape, committed, &parents);
        }
    }
}

#[test]
fn unwritten_and_later_slots_are_never_used() {
    let shape = Shape::new(2, 2, 32, 32);
    for c in computes() {
        let out = shape.chunked(&c, &tokens(0..70), &[70]);
        assert!(out.iter().flatten().all(|x| x.is_finite()));
    }
}

#[test]
fn a_later_row_of_the_step_has_no_effect_even_if_it_is_nan() {
    let shape = Shape::new(1, 1, 16, 16);
    for c in computes() {
        let run = |last: f32| {
            let mut memory = Memory::new(&shape.layout, 1);
            let mut view = memory.view(&shape.layout);
            let mut seqs = [AttnSeq { kv: &mut view, rows: 0..3, committed: 0, parents: None }];
            let mut kv = noise(48, 4, 1.0);
            kv[32..].fill(last);
            let mut out = [0.0; 48];
            store_kv(&c, &shape.layout, 0, &mut seqs, &kv, &kv);
            attention(&c, &shape.layout, 0, &seqs, &noise(48, 5, 1.0), 1, Scoring::scaled(1.0), &mut out);
            out[..32].iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        };
        assert_eq!(run(f32::NAN), run(1.0));
    }
}

#[test]
fn what_lies_before_the_window_is_never_used() {
    let shape = Shape::windowed(70, 2, 2, 32);
    for c in computes() {
        let tokens = tokens(0..600);
        let expected = shape.chunked(&c, &tokens, &[599, 1]);
        let mut memory = Memory::new(&shape.layout, tokens.len().div_ceil(BLOCK_TOKENS));
        let step = |memory: &mut Memory, rows: Range<usize>| {
            let mut view = memory.view(&shape.layout);
            let (committed, tokens) = (rows.start, &tokens[rows.clone()]);
            let seq = AttnSeq { kv: &mut view, rows: 0..rows.len(), committed, parents: None };
            shape.step(&c, &mut [seq], tokens)
        };
        step(&mut memory, 0..599);
        // The last token sees positions from 530 on, which are in the ninth block.
        let per_block = memory.lines.len() / memory.blocks;
        memory.lines[..8 * per_block].fill(Line([0x7d; 64]));
        let last = step(&mut memory, 599..600);
        assert!(bits(&last) == bits(&expected[599..]), "{} reads what is not visible", c.isa());
    }
}

#[test]
fn values_beyond_f16_are_clamped_and_nan_is_preserved() {
    let cases = [
        (1e6, 65_504.0),
        (-1e30, -65_504.0),
        (65_519.9, 65_504.0),
        (1.0 + 1.0 / 2048.0, 1.0),
        (3e-8, 5.960_464_5e-8),
    ];
    for c in computes() {
        let shape = Shape::new(1, 1, 16, 16);
        for (x, expected) in cases {
            // One visible token: the output is its value.
            let mut memory = Memory::new(&shape.layout, 1);
            let mut view = memory.view(&shape.layout);
            let mut seqs = [AttnSeq { kv: &mut view, rows: 0..1, committed: 0, parents: None }];
            let mut out = [0.0; 16];
            store_kv(&c, &shape.layout, 0, &mut seqs, &[0.0; 16], &[x; 16]);
            attention(&c, &shape.layout, 0, &seqs, &[0.0; 16], 1, Scoring::scaled(1.0), &mut out);
            assert_eq!(out, [expected; 16]);
            assert_eq!(through_f16(x), expected);
            store_kv(&c, &shape.layout, 0, &mut seqs, &[0.0; 16], &[f32::NAN; 16]);
            attention(&c, &shape.layout, 0, &seqs, &[0.0; 16], 1, Scoring::scaled(1.0), &mut out);
            assert!(out.iter().all(|x| x.is_nan()));
        }
    }
}

#[test]
fn sealed_blocks_read_like_open_ones() {
    let (c, shape) = (plain(), Shape::new(2, 2, 32, 32));
    let tokens = tokens(0..150);
    let expected = shape.chunked(&c, &tokens, &[149, 1]);
    let mut memory = Memory::new(&shape.layout, 3);
    let mut view = memory.view(&shape.layout);
    let seq = AttnSeq { kv: &mut view, rows: 0..149, committed: 0, parents: None };
    shape.step(&c, &mut [seq], &tokens[..149]);
    drop(view);
    let per_block = memory.lines.len() / 3;
    let (sealed, open) = memory.lines.split_at_mut(2 * per_block);
    let sealed: Vec<&[u8]> = sealed.chunks_mut(per_block).map(|block| &*bytes_of(block)).collect();
    let mut view = KvView::new(&shape.layout, sealed, vec![bytes_of(open)]);
    let seq = AttnSeq { kv: &mut view, rows: 0..1, committed: 149, parents: None };
    assert!(bits(&shape.step(&c, &mut [seq], &tokens[149..])) == bits(&expected[149..]));
}

/// The last of `len` tokens over sealed blocks, the first `absent` of which lack their windowed part.
fn last_of(shape: &Shape, len: usize, absent: usize) -> Vec<Vec<f32>> {
    let (c, blocks, tokens) = (plain(), len.div_ceil(BLOCK_TOKENS), tokens(0..len as u64));
    let mut memory = Memory::new(&shape.layout, blocks);
    let mut view = memory.view(&shape.layout);
    let seq = AttnSeq { kv: &mut view, rows: 0..len - 1, committed: 0, parents: None };
    shape.step(&c, &mut [seq], &tokens[..len - 1]);
    drop(view);
    let per_block = memory.lines.len() / blocks;
    let (sealed, open) = memory.lines.split_at_mut((blocks - 1) * per_block);
    let lasting = shape.layout.lasting_bytes();
    let sealed = sealed.chunks_mut(per_block).enumerate().map(|(at, block)| {
        let (lasting, windowed) = bytes_of(block).split_at(lasting);
        SealedParts { lasting, windowed: (at >= absent).then_some(windowed) }
    });
    let (lasting, windowed) = bytes_of(open).split_at_mut(lasting);
    let open = vec![OpenParts { lasting, windowed }];
    let mut view = KvView::of_parts(&shape.layout, sealed.collect(), open);
    let seq = AttnSeq { kv: &mut view, rows: 0..1, committed: len - 1, parents: None };
    shape.step(&c, &mut [seq], &tokens[len - 1..])
}

#[test]
fn blocks_before_the_window_need_no_windowed_part() {
    for (window, len, absent) in [(90, 300, 3), (64, 257, 3), (65, 257, 3), (66, 257, 2), (1, 300, 4)] {
        let shape = Shape::windowed(window, 2, 2, 32);
        let expected = shape.chunked(&plain(), &tokens(0..len as u64), &[len - 1, 1]);
        assert!(bits(&last_of(&shape, len, absent)) == bits(&expected[len - 1..]), "window {window}");
    }
}

#[test]
#[should_panic(expected = "without a windowed part")]
fn a_window_does_not_reach_into_a_block_without_its_windowed_part() {
    last_of(&Shape::windowed(66, 2, 2, 32), 257, 3);
}

#[test]
fn a_draft_heads_layer_and_the_hidden_row_are_stored_in_the_block() {
    let c = plain();
    let plain = Shape::new(2, 2, 32, 32);
    // The last layer is the head's, and the row's length is not one that ends on a cache line.
    let layout = KvLayout::new(plain.layout.layers().to_vec(), 1, 37);
    let shape = Shape { layout, ..plain.clone() };
    assert_eq!(shape.layout.block_bytes(), (plain.layout.block_bytes() + 4 * 37).next_multiple_of(64));
    let tokens = tokens(0..100);
    let mut memory = Memory::new(&shape.layout, 2);
    let mut view = memory.view(&shape.layout);
    let rows: [Vec<f32>; 2] = [noise(37, 1, 3.0), noise(37, 2, 3.0)];
    rows.iter().enumerate().for_each(|(block, row)| view.keep_hidden(block, row));
    let seq = AttnSeq { kv: &mut view, rows: 0..100, committed: 0, parents: None };
    let got = shape.step(&c, &mut [seq], &tokens);
    let expected = plain.of_draft_head().chunked(&c, &tokens, &[100]);
    assert!(bits(&got) == bits(&expected), "it is a head's layer like any other");
    assert_eq!([view.hidden(0), view.hidden(1)], rows, "and leaves the rows alone");
}

#[test]
#[should_panic(expected = "outside the open")]
fn a_sealed_block_is_not_written() {
    let (c, shape) = (plain(), Shape::new(1, 1, 16, 16));
    let mut memory = Memory::new(&shape.layout, 1);
    let sealed: &[u8] = bytes_of(&mut memory.lines);
    let mut view = KvView::new(&shape.layout, vec![sealed], Vec::new());
    let mut seqs = [AttnSeq { kv: &mut view, rows: 0..1, committed: 5, parents: None }];
    store_kv(&c, &shape.layout, 0, &mut seqs, &[0.0; 16], &[0.0; 16]);
}

/// One shape of each kind of layer.
fn tree_shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(vec![
        Shape::new(2, 3, 32, 32),
        Shape::windowed(10, 2, 3, 32),
        Shape::windowed(90, 1, 2, 32).softcapped(4.0).with_sinks(),
        Shape::latent(6, 24, 8),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chunking_gives_the_same_bits(
        len in 1_usize..700, chunks in prop::collection::vec(1_usize..200, 1..6), shape in prop::sample::select(shapes()), two: bool,
    ) {
        let c = Compute::new(Isa::detect(), 1 + usize::from(two)).expect("the detected instruction set");
        let tokens = tokens(0..len as u64);
        let one_by_one = shape.chunked(&plain(), &tokens, &[1]);
        prop_assert!(bits(&one_by_one) == bits(&shape.chunked(&c, &tokens, &chunks)));
    }

    #[test]
    fn any_tree_equals_its_paths(
        committed in 0_usize..150, picks in prop::collection::vec(any::<u16>(), 1..24), shape in tree_shapes(), two: bool,
    ) {
        let parents: Vec<i32> =
            picks.iter().enumerate().map(|(row, &pick)| (pick as usize % (row + 1)) as i32 - 1).collect();
        let c = Compute::new(Isa::detect(), 1 + usize::from(two)).expect("the detected instruction set");
        tree_equals_its_paths(&c, &shape, committed, &parents);
    }
}
