//! Attention over paged keys and values, for any mixture of prefill chunks, single tokens and draft trees.
//!
//! A row's result depends only on its query and on the keys and values visible to it, at their positions: not on the
//! other rows of the step, nor on how the work is partitioned. Scores are fma chains over rising `d`; a block
//! of 64 positions is one step of the online softmax; spans of 512 positions are merged in order. For a row of a draft
//! tree the scores and values of its ancestors are read from their slots and reduced in the order of their positions,
//! as in decoding without drafts. Slots that are not visible to a row have weight zero and their values are never read.

mod plan;
mod tile;

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::compute::Compute;
use crate::kv::{AttnSeq, BLOCK_TOKENS, KvLayout};
use crate::math::exp16;
use crate::share::Shared;
use crate::simd::{Kernel, LANES, MAX_TILE_ROWS, Simd16, dispatch};
use plan::{Item, Plan, SeqPlan};
use tile::{RowsMut, RowsPtr, Softmax, Values};

/// Positions whose softmax is one running sum; spans are merged in order.
const SPAN: usize = 512;
/// Multiplications per thread above which running on the pool is faster than on the caller alone.
const FORK_WORK: usize = 1 << 14;

/// Scores of a tile over one block.
type Scores = [[f32; BLOCK_TOKENS]; MAX_TILE_ROWS];

/// `out[row][head] = softmax(scale * q[row][head] · K) V`, for every row of every sequence. The keys and values
/// of these rows must have been stored. `q` is `[rows][q_heads][head_dim_k]` over all rows of the step, `out`
/// `[rows][q_heads][head_dim_v]`. Query heads `h * g .. (h + 1) * g` share KV head `h`, where
/// `g = q_heads / kv_heads`.
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
    scale: f32,
    out: &mut [f32],
) {
    assert!(
        q_heads.is_multiple_of(layout.kv_heads),
        "{q_heads} query heads over {} KV heads",
        layout.kv_heads
    );
    assert!(layer < layout.all_layers(), "layer {layer} of {}", layout.all_layers());
    let rows = seqs.iter().map(|seq| seq.rows.end).max().unwrap_or(0);
    assert!(q.len() >= rows * q_heads * layout.head_dim_k, "fewer queries than rows");
    assert!(out.len() >= rows * q_heads * layout.head_dim_v, "fewer outputs than rows");
    for seq in seqs {
        assert_eq!(seq.kv.layout(), layout, "the sequence's KV layout differs from the model's");
    }
    let seqs: Vec<SeqPlan<'_>> = seqs.iter().map(SeqPlan::new).collect();
    assert!(disjoint(&seqs), "two sequences share a row");
    let group_heads = q_heads / layout.kv_heads;
    let partial_len = |rows| State::len(rows, layout.head_dim_v);
    let plan = Plan::new(&seqs, layout.kv_heads, group_heads, c.pool().threads(), partial_len);
    let mut partials = PARTIALS.take();
    if partials.len() < plan.partials_len {
        partials.resize(plan.partials_len, 0.0);
    }
    let call = Call {
        layout,
        layer,
        seqs: &seqs,
        plan: &plan,
        q,
        q_heads,
        group_heads,
        scale,
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
    let multiplications = plan.positions * (layout.head_dim_k + layout.head_dim_v);
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
    layout: &'a KvLayout,
    layer: usize,
    seqs: &'a [SeqPlan<'a>],
    plan: &'a Plan,
    q: &'a [f32],
    q_heads: usize,
    group_heads: usize,
    scale: f32,
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
        let dim = call.layout.head_dim_v;
        let rows = item.rows.len() * call.group_heads;
        gather_queries(call, item, &mut scratch.q);
        if let Some(group) = item.group {
            let group = &call.plan.groups[group];
            // SAFETY: the parts of different spans and groups don't overlap, and each has one user at a time.
            let partial = |span| unsafe {
                let floats = call.partials.part(group.partials + span * group.partial_len, group.partial_len);
                State::new(floats, rows)
            };
            let state = partial(item.spans.start);
            run_span(s, call, item, item.spans.start, &scratch.q, state, &mut scratch.by_slot);
            if group.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                // This is the last item of the group to finish: no other item uses the parts any more.
                let mut total = partial(0);
                for span in 1..group.spans {
                    merge(s, &mut total, &partial(span));
                }
                write_out(s, call, item, &total);
            }
            return;
        }
        scratch.span.resize(State::len(rows, dim), 0.0);
        scratch.total.resize(State::len(rows, dim), 0.0);
        for span in item.spans.clone() {
            let floats = if span == 0 { &mut scratch.total } else { &mut scratch.span };
            run_span(s, call, item, span, &scratch.q, State::new(floats, rows), &mut scratch.by_slot);
            if span > 0 {
                let next = State::new(&mut scratch.span, rows);
                merge(s, &mut State::new(&mut scratch.total, rows), &next);
            }
        }
        write_out(s, call, item, &State::new(&mut scratch.total, rows));
    }
}

/// Gathers the queries of an item's rows at a constant stride.
fn gather_queries(call: &Call<'_>, item: &Item, q: &mut Vec<f32>) {
    let dim = call.layout.head_dim_k;
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

/// A few rows of an item over one block of positions.
struct Tile<'a> {
    call: &'a Call<'a>,
    seq: &'a SeqPlan<'a>,
    item: &'a Item,
    block: usize,
    /// The block to prefetch keys of.
    next: usize,
    /// Range of the item's (row, query head) pairs.
    rows: Range<usize>,
}

impl Tile<'_> {
    #[inline(always)]
    fn run<S: Simd16>(&self, s: S, q: &[f32], state: &mut State<'_>, by_slot: &mut Vec<Scores>) {
        if self.seq.fully_visible(self.block) {
            return self.run_whole(s, q, state);
        }
        let count = self.rows.len();
        let mut visible = [0; MAX_TILE_ROWS];
        let mut in_place = [0; MAX_TILE_ROWS];
        for r in 0..count {
            let row = self.seq_row(r);
            visible[r] = self.within(self.seq.visible(row));
            in_place[r] = self.within(self.seq.in_place(row));
        }
        let (visible, in_place) = (&visible[..count], &in_place[..count]);
        let most = visible.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return;
        }
        let mut scores = [[0.0; BLOCK_TOKENS]; MAX_TILE_ROWS];
        if visible == in_place {
            self.score(s, q, self.block, most, &mut scores);
            for (row, &visible) in scores.iter_mut().zip(visible) {
                row[visible..most].fill(f32::NEG_INFINITY);
            }
        } else {
            self.score_tree(s, q, visible, by_slot, &mut scores);
        }
        let rescale = self.softmax_weights(s, &mut scores, state);
        let together = in_place.iter().copied().min().unwrap_or(0);
        self.add_values(s, self.block * BLOCK_TOKENS, together, &scores, 0..count, &rescale, 0, state);
        for (r, &visible) in visible.iter().enumerate() {
            self.add_remaining_values(s, together..visible, r, &scores, state);
        }
    }

    /// A block that is visible to every row as a whole: most blocks of a long context.
    #[inline(always)]
    fn run_whole<S: Simd16>(&self, s: S, q: &[f32], state: &mut State<'_>) {
        let mut scores = [[0.0; BLOCK_TOKENS]; MAX_TILE_ROWS];
        self.score(s, q, self.block, BLOCK_TOKENS, &mut scores);
        let rescale = self.softmax_weights(s, &mut scores, state);
        let (slot, rows) = (self.block * BLOCK_TOKENS, 0..self.rows.len());
        self.add_values(s, slot, BLOCK_TOKENS, &scores, rows, &rescale, 0, state);
    }

    #[inline(always)]
    fn softmax_weights<S: Simd16>(
        &self,
        s: S,
        scores: &mut Scores,
        state: &mut State<'_>,
    ) -> [f32; MAX_TILE_ROWS] {
        let rows = self.rows.clone();
        let softmax = Softmax { max: &mut state.max[rows.clone()], sum: &mut state.sum[rows] };
        tile::softmax_weights(s, &mut scores[..self.rows.len()], softmax)
    }

    /// The row of the sequence that row `r` of the tile belongs to.
    #[inline(always)]
    fn seq_row(&self, r: usize) -> usize {
        self.item.rows.start + (self.rows.start + r) / self.call.group_heads
    }

    /// How many of the first `positions` are in this block.
    #[inline(always)]
    fn within(&self, positions: usize) -> usize {
        positions.saturating_sub(self.block * BLOCK_TOKENS).min(BLOCK_TOKENS)
    }

    /// `[head_dim_k][64]` halves.
    #[inline(always)]
    fn keys(&self, block: usize) -> &[u8] {
        &self.seq.kv.block(block)[self.call.layout.keys(self.call.layer, self.item.head)]
    }

    /// `[64][head_dim_v]` halves.
    #[inline(always)]
    fn values(&self, block: usize) -> &[u8] {
        &self.seq.kv.block(block)[self.call.layout.values(self.call.layer, self.item.head)]
    }

    /// Scores of the first `lanes` slots of a block.
    #[inline(always)]
    fn score<S: Simd16>(&self, s: S, q: &[f32], block: usize, lanes: usize, out: &mut Scores) {
        let dim = self.call.layout.head_dim_k;
        let keys = self.keys(block);
        let q = RowsPtr { start: q[self.rows.start * dim..self.rows.end * dim].as_ptr(), stride: dim };
        let prefetch = self.values(block);
        // SAFETY: the key range is `[dim][64]` halves, and blocks and ranges are 2-aligned; `q` was cut to the
        // tile's rows; `out` has room for the largest tile; tiles have 1 to `TILE_ROWS` rows.
        unsafe {
            tile::scores(
                s,
                keys.as_ptr().cast(),
                dim,
                q,
                self.rows.len(),
                lanes,
                self.call.scale,
                prefetch.as_ptr(),
                out.as_mut_ptr(),
            );
        }
    }

    /// Scores of this block's positions for rows of a draft tree, whose positions may lie in later slots.
    #[inline(always)]
    fn score_tree<S: Simd16>(
        &self,
        s: S,
        q: &[f32],
        visible: &[usize],
        by_slot: &mut Vec<Scores>,
        out: &mut Scores,
    ) {
        by_slot.clear();
        for block in self.block..self.seq.slots().div_ceil(BLOCK_TOKENS) {
            let lanes = (self.seq.slots() - block * BLOCK_TOKENS).min(BLOCK_TOKENS);
            let mut scores = [[0.0; BLOCK_TOKENS]; MAX_TILE_ROWS];
            self.score(s, q, block, lanes, &mut scores);
            by_slot.push(scores);
        }
        let start = self.block * BLOCK_TOKENS;
        for (r, &visible) in visible.iter().enumerate() {
            let row = self.seq_row(r);
            for (lane, score) in out[r].iter_mut().enumerate() {
                *score = if lane < visible {
                    let slot = self.seq.slot(row, start + lane) - start;
                    by_slot[slot / BLOCK_TOKENS][r][slot % BLOCK_TOKENS]
                } else {
                    f32::NEG_INFINITY
                };
            }
        }
    }

    /// Accumulates the values of `count` slots from `slot`, all in one block, into some rows of the tile. Their
    /// weights start at `lane`.
    #[allow(clippy::too_many_arguments, reason = "an operation with as many operands")]
    #[inline(always)]
    fn add_values<S: Simd16>(
        &self,
        s: S,
        slot: usize,
        count: usize,
        weights: &Scores,
        rows: Range<usize>,
        rescale: &[f32; MAX_TILE_ROWS],
        lane: usize,
        state: &mut State<'_>,
    ) {
        let dim = self.call.layout.head_dim_v;
        let stride = State::stride(dim);
        let values = self.values(slot / BLOCK_TOKENS);
        let first = slot % BLOCK_TOKENS;
        assert!(first + count <= BLOCK_TOKENS && lane + count <= BLOCK_TOKENS && !rows.is_empty());
        let acc_rows = self.rows.start + rows.start..self.rows.start + rows.end;
        let acc = &mut state.acc[acc_rows.start * stride..acc_rows.end * stride];
        // SAFETY: the value range is `[64][dim]` halves, 2-aligned, and `first + count` is at most 64, as are
        // the weights from `lane`; `acc` was cut to the rows; there are 1 to `TILE_ROWS` of them.
        unsafe {
            let values = Values { start: values.as_ptr().cast::<u16>().add(first * dim), dim };
            let weights = weights[rows.start].as_ptr().add(lane);
            let acc = RowsMut { start: acc.as_mut_ptr(), stride };
            let prefetch = self.keys(self.next).as_ptr();
            tile::accumulate(s, values, count, weights, rows.len(), rescale, prefetch, acc);
        }
    }

    /// Accumulates the values of one row's remaining positions, one call per run of consecutive slots.
    #[inline(always)]
    fn add_remaining_values<S: Simd16>(
        &self,
        s: S,
        lanes: Range<usize>,
        r: usize,
        weights: &Scores,
        state: &mut State<'_>,
    ) {
        let row = self.seq_row(r);
        let slot_of = |lane| self.seq.slot(row, self.block * BLOCK_TOKENS + lane);
        let mut lane = lanes.start;
        while lane < lanes.end {
            let slot = slot_of(lane);
            let room = (lanes.end - lane).min(BLOCK_TOKENS - slot % BLOCK_TOKENS);
            let count = (1..room).find(|&i| slot_of(lane + i) != slot + i).unwrap_or(room);
            self.add_values(s, slot, count, weights, r..r + 1, &[1.0; MAX_TILE_ROWS], lane, state);
            lane += count;
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
        let max = if next.max[r] > total.max[r] { next.max[r] } else { total.max[r] };
        let mut scale = [0.0; LANES];
        (scale[0], scale[1]) = (total.max[r] - max, next.max[r] - max);
        let shift = s.load_array(&scale);
        s.store_array(&mut scale, exp16(s, shift));
        total.max[r] = max;
        total.sum[r] = next.sum[r].mul_add(scale[1], total.sum[r] * scale[0]);
        let (before, after) = (s.splat(scale[0]), s.splat(scale[1]));
        let acc = total.acc[r * stride..(r + 1) * stride].as_chunks_mut::<LANES>().0;
        let add = next.acc[r * stride..(r + 1) * stride].as_chunks::<LANES>().0;
        for (acc, add) in acc.iter_mut().zip(add) {
            let sum = s.fma(s.load_array(add), after, s.mul(s.load_array(acc), before));
            s.store_array(acc, sum);
        }
    }
}

/// Divides by the softmax sums and writes the rows of an item.
#[inline(always)]
fn write_out<S: Simd16>(s: S, call: &Call<'_>, item: &Item, state: &State<'_>) {
    let dim = call.layout.head_dim_v;
    let stride = State::stride(dim);
    for (r, acc) in state.acc.chunks_exact(stride).enumerate() {
        let row = call.seqs[item.seq].rows.start + item.rows.start + r / call.group_heads;
        let head = item.head * call.group_heads + r % call.group_heads;
        let start = (row * call.q_heads + head) * dim;
        // SAFETY: rows of different sequences are disjoint, and each row and head is written by one item.
        let out = unsafe { call.out.part(start, dim) };
        let inverse = s.splat(1.0 / state.sum[r]);
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
