//! A few rows of an item over one block: which lanes each sees, and what the inner loops do with them.
//!
//! A row adds up values over rising positions, whichever of them it shares with the other rows of the tile.

use std::ops::Range;

use super::plan::{Item, SeqPlan};
use super::tile::{self, RowsMut, RowsPtr, Softmax, Values};
use super::{Call, Scores, Source, State};
use crate::kv::{BLOCK_TOKENS, Part};
use crate::simd::{MAX_TILE_ROWS, Simd16};

/// A few rows of an item over one block of positions.
pub(super) struct Tile<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) seq: &'a SeqPlan<'a>,
    pub(super) item: &'a Item,
    pub(super) block: usize,
    /// The block to prefetch keys of.
    pub(super) next: usize,
    /// Range of the item's (row, query head) pairs.
    pub(super) rows: Range<usize>,
}

/// The lanes of a block that a row of a tile sees.
#[derive(Clone, Copy, Default)]
struct Lanes {
    first: usize,
    /// The lane after the last one.
    visible: usize,
    /// The lane from which on positions may be in other slots than their own.
    in_place: usize,
}

impl Lanes {
    fn is_empty(&self) -> bool {
        self.first >= self.visible
    }
}

impl Tile<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd16>(&self, s: S, q: &[f32], state: &mut State<'_>, by_slot: &mut Vec<Scores>) {
        if self.is_whole() {
            return self.run_whole(s, q, state);
        }
        let count = self.rows.len();
        let mut lanes = [Lanes::default(); MAX_TILE_ROWS];
        for (r, lanes) in lanes[..count].iter_mut().enumerate() {
            let row = self.seq_row(r);
            lanes.first = self.within(self.seq.first(row));
            lanes.visible = self.within(self.seq.visible(row));
            lanes.in_place = self.within(self.seq.in_place(row));
        }
        let lanes = &lanes[..count];
        if lanes.iter().all(Lanes::is_empty) {
            return;
        }
        let mut scores = [[0.0; BLOCK_TOKENS]; MAX_TILE_ROWS];
        if lanes.iter().all(|lanes| lanes.visible == lanes.in_place) {
            let most = lanes.iter().map(|lanes| lanes.visible).max().unwrap_or(0);
            self.score(s, q, self.block, most, &mut scores);
        } else {
            self.score_tree(s, q, lanes, by_slot, &mut scores);
        }
        for (row, lanes) in scores.iter_mut().zip(lanes) {
            row[..lanes.first].fill(f32::NEG_INFINITY);
            row[lanes.visible..].fill(f32::NEG_INFINITY);
        }
        let rescale = self.softmax_weights(s, &mut scores, state);
        self.add_visible_values(s, lanes, &scores, rescale, state);
    }

    /// Whether every row sees the whole block, each position in its own slot: most blocks of a long context.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        let from_start = |r| self.seq.first(self.seq_row(r)) <= self.block * BLOCK_TOKENS;
        self.seq.filled_before(self.block) && (!self.seq.hides_some() || (0..self.rows.len()).all(from_start))
    }

    /// Adds the values of each row's lanes, over rising lanes: together where all rows see the same slots.
    #[inline(always)]
    fn add_visible_values<S: Simd16>(
        &self,
        s: S,
        lanes: &[Lanes],
        scores: &Scores,
        mut rescale: [f32; MAX_TILE_ROWS],
        state: &mut State<'_>,
    ) {
        let first = lanes.iter().map(|lanes| lanes.first).max().unwrap_or(0);
        let in_place = lanes.iter().map(|lanes| lanes.in_place).min().unwrap_or(0);
        let start = self.block * BLOCK_TOKENS;
        let together = first..in_place.max(first);
        if together.is_empty() {
            self.add_values(s, start, 0, scores, 0..lanes.len(), &rescale, 0, state);
            for (r, lanes) in lanes.iter().enumerate() {
                self.add_values_by_slot(s, lanes.first..lanes.visible, r, scores, state);
            }
            return;
        }
        for (r, lanes) in lanes.iter().enumerate().filter(|(_, lanes)| lanes.first < first) {
            let (slot, count) = (start + lanes.first, first - lanes.first);
            let of_row = [rescale[r]; MAX_TILE_ROWS];
            self.add_values(s, slot, count, scores, r..r + 1, &of_row, lanes.first, state);
            rescale[r] = 1.0;
        }
        let (slot, count) = (start + first, together.len());
        self.add_values(s, slot, count, scores, 0..lanes.len(), &rescale, first, state);
        for (r, lanes) in lanes.iter().enumerate() {
            self.add_values_by_slot(s, together.end..lanes.visible, r, scores, state);
        }
    }

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

    /// What is to be scored of a block: `[dim_k][64]` halves, or rows of latents.
    #[inline(always)]
    fn keys(&self, block: usize) -> &[u8] {
        match self.call.source {
            Source::Heads(heads) => &self.seq.kv.part(block, heads.part)[heads.keys(self.item.head)],
            Source::Latent(latent, _) => &self.seq.kv.part(block, Part::Lasting)[latent.rows()],
        }
    }

    /// What is to be added up of a block: `[64][dim_v]` halves, or rows of latents.
    #[inline(always)]
    fn values(&self, block: usize) -> &[u8] {
        match self.call.source {
            Source::Heads(heads) => &self.seq.kv.part(block, heads.part)[heads.values(self.item.head)],
            Source::Latent(latent, _) => &self.seq.kv.part(block, Part::Lasting)[latent.rows()],
        }
    }

    /// Scores of the first `lanes` slots of a block, and minus infinity for the others.
    #[inline(always)]
    fn score<S: Simd16>(&self, s: S, q: &[f32], block: usize, lanes: usize, out: &mut Scores) {
        let dim = self.call.source.dim_k();
        let keys: *const u16 = self.keys(block).as_ptr().cast();
        let q = RowsPtr { start: q[self.rows.start * dim..self.rows.end * dim].as_ptr(), stride: dim };
        let (rows, scale) = (self.rows.len(), self.call.scoring.scale);
        // SAFETY: keys are `[dim][64]` halves, latents `[64][dim]`, and blocks and ranges are 2-aligned; `q` was cut
        // to the tile's rows; `out` has room for the largest tile; tiles have 1 to `TILE_ROWS` rows.
        unsafe {
            match self.call.source {
                Source::Heads(_) => {
                    let prefetch = self.values(block).as_ptr();
                    tile::scores(s, keys, dim, q, rows, lanes, scale, prefetch, out.as_mut_ptr());
                }
                Source::Latent(..) => {
                    tile::latent_scores(s, keys, dim, q, rows, lanes, scale, out.as_mut_ptr());
                }
            }
        }
        if let Some(cap) = self.call.scoring.softcap {
            tile::soften(s, &mut out[..rows], lanes, cap);
        }
    }

    /// Scores of this block's positions for rows of a draft tree, whose positions may lie in later slots.
    #[inline(always)]
    fn score_tree<S: Simd16>(
        &self,
        s: S,
        q: &[f32],
        lanes: &[Lanes],
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
        for (r, lanes) in lanes.iter().enumerate() {
            let row = self.seq_row(r);
            for (lane, score) in out[r].iter_mut().enumerate().take(lanes.visible).skip(lanes.first) {
                let slot = self.seq.slot(row, start + lane) - start;
                *score = by_slot[slot / BLOCK_TOKENS][r][slot % BLOCK_TOKENS];
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
        let dim = self.call.source.dim_v();
        let stride = State::stride(dim);
        let values = self.values(slot / BLOCK_TOKENS);
        let first = slot % BLOCK_TOKENS;
        assert!(first + count <= BLOCK_TOKENS && lane + count <= BLOCK_TOKENS && !rows.is_empty());
        let acc_rows = self.rows.start + rows.start..self.rows.start + rows.end;
        let acc = &mut state.acc[acc_rows.start * stride..acc_rows.end * stride];
        let value_stride = match self.call.source {
            Source::Heads(_) => dim,
            Source::Latent(latent, _) => latent.width(),
        };
        // SAFETY: the values are 64 rows of halves, 2-aligned and a stride apart, and `first + count` is at most 64, as
        // are the weights from `lane`; `acc` was cut to the rows; there are 1 to `TILE_ROWS` of them.
        unsafe {
            let start = values.as_ptr().cast::<u16>().add(first * value_stride);
            let values = Values { start, dim, stride: value_stride };
            let weights = weights[rows.start].as_ptr().add(lane);
            let acc = RowsMut { start: acc.as_mut_ptr(), stride };
            let prefetch = self.keys(self.next).as_ptr();
            tile::accumulate(s, values, count, weights, rows.len(), rescale, prefetch, acc);
        }
    }

    /// Accumulates the values of some lanes of one row, one call per run of consecutive slots.
    #[inline(always)]
    fn add_values_by_slot<S: Simd16>(
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
