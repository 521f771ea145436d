//! Attention over paged keys and values, for any mixture of prefill chunks, single tokens and draft trees.
//!
//! A row's result depends only on its query and on the keys and values visible to it, at their positions: not on the
//! other rows of the step, nor on how the work is partitioned. Scores are fma chains over rising `d`; a block
//! of 64 positions is one step of the online softmax; spans of 512 positions are merged in order. For a row of a draft
//! tree the scores and values of its ancestors are read from their slots and reduced in the order of their positions,
//! as in decoding without drafts. Slots that are not visible to a row have weight zero and their values are never read.

mod block;
mod plan;
mod tile;

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::compute::Compute;
use crate::kv::{AttnSeq, BLOCK_TOKENS, HeadsPlace, KvLayout, LatentPlace, LayerPlace};
use crate::math::exp16;
use crate::share::Shared;
use crate::simd::{Kernel, LANES, MAX_TILE_ROWS, Simd16, dispatch};
use block::Tile;
use plan::{Item, Plan, SeqPlan, Visibility};

/// Positions whose softmax is one running sum; spans are merged in order.
const SPAN: usize = 512;
/// Multiplications per thread above which running on the pool is faster than on the caller alone.
const FORK_WORK: usize = 1 << 14;
/// Most query heads of an item over latents.
const LATENT_HEADS: usize = 16;

/// Scores of a tile over one block.
type Scores = [[f32; BLOCK_TOKENS]; MAX_TILE_ROWS];

/// How a layer turns products of queries and keys into scores, and scores into weights.
#[derive(Clone, Copy, Debug)]
pub struct Scoring<'a> {
    /// Factor of the products.
    pub scale: f32,
    /// Largest magnitude of a score `x`, which becomes `cap * tanh(x / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// For each query head, the score of a position without a value that takes part in the softmax (gpt-oss).
    pub sinks: Option<&'a [f32]>,
}

impl Scoring<'_> {
    /// Products times `scale`, and nothing else.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, softcap: None, sinks: None }
    }
}

/// What an attention reads of a block. The queries of a head have `dim_k` numbers, its outputs `dim_v`.
#[derive(Clone, Copy)]
enum Source {
    Heads(HeadsPlace),
    /// All heads read the same latents, so the number of parts into which they are cut is ours to choose.
    Latent(LatentPlace, usize),
}

impl Source {
    /// # Panics
    /// If the layer keeps nothing, or its heads don't divide `q_heads`.
    fn new(place: LayerPlace, q_heads: usize, threads: usize) -> Self {
        match place {
            LayerPlace::Heads(heads) => {
                let kv_heads = heads.kv_heads;
                assert!(q_heads.is_multiple_of(kv_heads), "{q_heads} query heads over {kv_heads} KV heads");
                Self::Heads(heads)
            }
            LayerPlace::Latent(latent) => {
                let enough = |parts: &usize| {
                    q_heads.is_multiple_of(*parts) && *parts >= threads && q_heads / *parts <= LATENT_HEADS
                };
                Self::Latent(latent, (1..q_heads).find(enough).unwrap_or(q_heads))
            }
            LayerPlace::None => panic!("attention over a layer that keeps nothing"),
        }
    }

    fn kv_heads(&self) -> usize {
        match self {
            Self::Heads(heads) => heads.kv_heads,
            Self::Latent(_, parts) => *parts,
        }
    }

    fn dim_k(&self) -> usize {
        match self {
            Self::Heads(heads) => heads.dim_k,
            Self::Latent(latent, _) => latent.width(),
        }
    }

    fn dim_v(&self) -> usize {
        match self {
            Self::Heads(heads) => heads.dim_v,
            Self::Latent(latent, _) => latent.rank,
        }
    }
}

/// `out[row][head] = softmax(score(q[row][head] · K)) V` over the positions in the layer's window, and in the
/// layers of a draft head without the first position, for every row of every sequence. The KV of these rows must have been stored. `q` is `[rows][q_heads][dim_k]` over all rows of the
/// step, `out` `[rows][q_heads][dim_v]`. Query heads `h * g .. (h + 1) * g` share KV head `h`, where
/// `g = q_heads / kv_heads`. In a layer of latents all heads share them: `dim_k` is `rank + rope`, `dim_v` is `rank`.
///
/// # Panics
/// If shapes don't match, a sequence has fewer slots than rows, or a row of a draft tree precedes its parent.
#[allow(clippy::too_many_arguments, reason = "an operation with as many operands")]
pub fn attention(
    c: &Compute,
    layout: &KvLayout,
    layer: usize,
    seqs: &[AttnSeq<'_, '_>],
    q: &[f32],
    q_heads: usize,
    scoring: Scoring<'_>,
    out: &mut [f32],
) {
    let source = Source::new(layout.place(layer), q_heads, c.pool().threads());
    let (kv_heads, dim_k, dim_v) = (source.kv_heads(), source.dim_k(), source.dim_v());
    let rows = seqs.iter().map(|seq| seq.rows.end).max().unwrap_or(0);
    assert!(q.len() >= rows * q_heads * dim_k, "fewer queries than rows");
    assert!(out.len() >= rows * q_heads * dim_v, "fewer outputs than rows");
    assert!(scoring.sinks.is_none_or(|sinks| sinks.len() == q_heads), "one sink per query head");
    for seq in seqs {
        assert_eq!(seq.kv.layout(), layout, "the sequence's KV layout differs from the model's");
    }
    let visibility = Visibility { window: layout.layers()[layer].window(), from: layout.first_seen(layer) };
    let seqs: Vec<SeqPlan<'_>> = seqs.iter().map(|seq| SeqPlan::new(seq, visibility)).collect();
    assert!(disjoint(&seqs), "two sequences share a row");
    let group_heads = q_heads / kv_heads;
    let partial_len = |rows| State::len(rows, dim_v);
    let plan = Plan::new(&seqs, kv_heads, group_heads, c.pool().threads(), partial_len);
    let mut partials = PARTIALS.take();
    if partials.len() < plan.partials_len {
        partials.resize(plan.partials_len, 0.0);
    }
    let call = Call {
        source,
        seqs: &seqs,
        plan: &plan,
        q,
        q_heads,
        group_heads,
        scoring,
        out: Shared::new(out),
        partials: Shared::new(&mut partials),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut scratch = SCRATCH.take();
        while let Some(item) = plan.items.get(next.fetch_add(1, Ordering::Relaxed)) {
            dispatch(c, RunItem { call: &call, item, scratch: &mut scratch });
        }
        SCRATCH.set(scratch);
    };
    let multiplications = plan.positions * (dim_k + dim_v);
    if plan.items.len() < 2 || multiplications < FORK_WORK * c.pool().threads() {
        work();
    } else {
        c.pool().run(&|_| work());
    }
    PARTIALS.set(partials);
}

/// Whether no row belongs to two sequences.
fn disjoint(seqs: &[SeqPlan<'_>]) -> bool {
    if seqs.windows(2).all(|pair| pair[0].rows.end <= pair[1].rows.start) {
        return true;
    }
    let mut ranges: Vec<Range<usize>> = seqs.iter().map(|seq| seq.rows.clone()).collect();
    ranges.sort_by_key(|rows| rows.start);
    ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

/// Buffers of a worker, reused across calls.
#[derive(Default)]
struct Scratch {
    /// The item's queries, `[row][query head of the group][head_dim_k]`.
    q: Vec<f32>,
    /// State of the current span, and of all spans before it.
    span: Vec<f32>,
    total: Vec<f32>,
    /// Scores by slot, for rows of draft trees.
    by_slot: Vec<Scores>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
    static PARTIALS: Cell<Vec<f32>> = Cell::default();
}

/// The operands of one call.
struct Call<'a> {
    source: Source,
    seqs: &'a [SeqPlan<'a>],
    plan: &'a Plan,
    q: &'a [f32],
    q_heads: usize,
    group_heads: usize,
    scoring: Scoring<'a>,
    out: Shared<'a, f32>,
    partials: Shared<'a, f32>,
}

/// The online softmax of an item's rows: largest score, sum of weights, and weighted sum of values.
struct State<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    acc: &'a mut [f32],
}

impl<'a> State<'a> {
    /// Floats per row of `acc`: whole vectors.
    fn stride(dim: usize) -> usize {
        dim.next_multiple_of(LANES)
    }

    fn len(rows: usize, dim: usize) -> usize {
        rows * (2 + Self::stride(dim))
    }

    fn new(floats: &'a mut [f32], rows: usize) -> Self {
        let (max, rest) = floats.split_at_mut(rows);
        let (sum, acc) = rest.split_at_mut(rows);
        Self { max, sum, acc }
    }

    fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }
}

/// One item of the plan.
struct RunItem<'a> {
    call: &'a Call<'a>,
    item: &'a Item,
    scratch: &'a mut Scratch,
}

impl Kernel for RunItem<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let Self { call, item, scratch } = self;
        let dim = call.source.dim_v();
        let rows = item.rows.len() * call.group_heads;
        gather_queries(call, item, &mut scratch.q);
        if let Some(group) = item.group {
            let group = &call.plan.groups[group];
            // SAFETY: the parts of different spans and groups don't overlap, and each has one user at a time.
            let partial = |span| unsafe {
                let start = group.partials + (span - group.spans.start) * group.partial_len;
                State::new(call.partials.part(start, group.partial_len), rows)
            };
            let state = partial(item.spans.start);
            run_span(s, call, item, item.spans.start, &scratch.q, state, &mut scratch.by_slot);
            if group.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                // This is the last item of the group to finish: no other item uses the parts any more.
                let mut total = partial(group.spans.start);
                for span in group.spans.start + 1..group.spans.end {
                    merge(s, &mut total, &partial(span));
                }
                write_out(s, call, item, &total);
            }
            return;
        }
        scratch.span.resize(State::len(rows, dim), 0.0);
        scratch.total.resize(State::len(rows, dim), 0.0);
        for span in item.spans.clone() {
            let first = span == item.spans.start;
            let floats = if first { &mut scratch.total } else { &mut scratch.span };
            run_span(s, call, item, span, &scratch.q, State::new(floats, rows), &mut scratch.by_slot);
            if !first {
                let next = State::new(&mut scratch.span, rows);
                merge(s, &mut State::new(&mut scratch.total, rows), &next);
            }
        }
        write_out(s, call, item, &State::new(&mut scratch.total, rows));
    }
}

/// Gathers the queries of an item's rows at a constant stride.
fn gather_queries(call: &Call<'_>, item: &Item, q: &mut Vec<f32>) {
    let dim = call.source.dim_k();
    let heads = call.group_heads * dim;
    q.clear();
    for row in item.rows.clone() {
        let row = call.seqs[item.seq].rows.start + row;
        let start = row * call.q_heads * dim + item.head * heads;
        q.extend_from_slice(&call.q[start..start + heads]);
    }
}

/// Computes all rows of an item over one span, from a cleared state.
#[inline(always)]
fn run_span<S: Simd16>(
    s: S,
    call: &Call<'_>,
    item: &Item,
    span: usize,
    q: &[f32],
    mut state: State<'_>,
    by_slot: &mut Vec<Scores>,
) {
    state.clear();
    let seq = &call.seqs[item.seq];
    let rows = item.rows.len() * call.group_heads;
    let tiles = rows.div_ceil(S::TILE_ROWS);
    let blocks_per_span = SPAN / BLOCK_TOKENS;
    let blocks_used = seq.slots().div_ceil(BLOCK_TOKENS);
    for block in span * blocks_per_span..((span + 1) * blocks_per_span).min(blocks_used) {
        for tile in 0..tiles {
            let tile_rows = rows * tile / tiles..rows * (tile + 1) / tiles;
            let next = (block + 1).min(blocks_used - 1);
            let tile = Tile { call, seq, item, block, next, rows: tile_rows };
            tile.run(s, q, &mut state, by_slot);
        }
    }
}

/// Merges a span's state into that of the spans before it.
#[inline(always)]
fn merge<S: Simd16>(s: S, total: &mut State<'_>, next: &State<'_>) {
    let rows = total.max.len();
    let stride = total.acc.len() / rows.max(1);
    for r in 0..rows {
        if next.max[r] == f32::NEG_INFINITY {
            continue;
        }
        let floats = r * stride..(r + 1) * stride;
        if total.max[r] == f32::NEG_INFINITY {
            // No position before this span is in the row's window: the span is all there is, down to the signs of zeros.
            (total.max[r], total.sum[r]) = (next.max[r], next.sum[r]);
            total.acc[floats.clone()].copy_from_slice(&next.acc[floats]);
            continue;
        }
        let max = if next.max[r] > total.max[r] { next.max[r] } else { total.max[r] };
        let mut scale = [0.0; LANES];
        (scale[0], scale[1]) = (total.max[r] - max, next.max[r] - max);
        let shift = s.load_array(&scale);
        s.store_array(&mut scale, exp16(s, shift));
        total.max[r] = max;
        total.sum[r] = next.sum[r].mul_add(scale[1], total.sum[r] * scale[0]);
        let (before, after) = (s.splat(scale[0]), s.splat(scale[1]));
        let acc = total.acc[floats.clone()].as_chunks_mut::<LANES>().0;
        let add = next.acc[floats].as_chunks::<LANES>().0;
        for (acc, add) in acc.iter_mut().zip(add) {
            let sum = s.fma(s.load_array(add), after, s.mul(s.load_array(acc), before));
            s.store_array(acc, sum);
        }
    }
}

/// Divides by the softmax sums and writes the rows of an item.
#[inline(always)]
fn write_out<S: Simd16>(s: S, call: &Call<'_>, item: &Item, state: &State<'_>) {
    let dim = call.source.dim_v();
    let stride = State::stride(dim);
    for (r, acc) in state.acc.chunks_exact(stride).enumerate() {
        let row = call.seqs[item.seq].rows.start + item.rows.start + r / call.group_heads;
        let head = item.head * call.group_heads + r % call.group_heads;
        let start = (row * call.q_heads + head) * dim;
        // SAFETY: rows of different sequences are disjoint, and each row and head is written by one item.
        let out = unsafe { call.out.part(start, dim) };
        let sink = call.scoring.sinks.map(|sinks| sinks[head]);
        let inverse = s.splat(inverse_sum(s, state.max[r], state.sum[r], sink));
        for (out, acc) in out.chunks_mut(LANES).zip(acc.as_chunks::<LANES>().0) {
            let scaled = s.mul(s.load_array(acc), inverse);
            if let Ok(whole) = <&mut [f32; LANES]>::try_from(&mut *out) {
                s.store_array(whole, scaled);
            } else {
                let mut vector = [0.0; LANES];
                s.store_array(&mut vector, scaled);
                out.copy_from_slice(&vector[..out.len()]);
            }
        }
    }
}

/// What a row's weighted sum of values is multiplied with: the inverse of its sum of weights, the sink's included.
#[inline(always)]
fn inverse_sum<S: Simd16>(s: S, max: f32, sum: f32, sink: Option<f32>) -> f32 {
    let Some(sink) = sink else { return 1.0 / sum };
    let top = if sink > max { sink } else { max };
    let mut weights = [0.0; LANES];
    (weights[0], weights[1]) = (max - top, sink - top);
    let shift = s.load_array(&weights);
    s.store_array(&mut weights, exp16(s, shift));
    weights[0] / sum.mul_add(weights[0], weights[1])
}
