//! Activations times packed weights: the partition over threads and the loop over tiles.
//!
//! Several matrices that read the same activations run in one parallel section. Each thread takes a contiguous
//! range of the 16-row groups of all of them, so it reads contiguous memory; an output's value does not depend on the
//! partition.

use std::ops::Range;

use crate::activations::{Activations, CELL, TILE};
use crate::compute::{Compute, Token};
use crate::packed::PackedMatrix;
use crate::share::Shared;
use crate::simd::LANES;
use crate::tile::{TileCall, run};

/// Bytes of weights per panel: they stay in L1 while all tiles of a long step use them.
const PANEL_BYTES: usize = 24 * 1024;
/// Rows whose multiplication takes about as long as reading the weights from memory.
const ROWS_PER_READ: usize = 3;
/// As [`PANEL_BYTES`] for float weights, whose panels stay in L2: their tiles read several groups at once.
const FLOAT_PANEL_BYTES: usize = 256 * 1024;
/// Float panels are multiples of this many groups, which the sizes of float tiles divide.
const FLOAT_PANEL_GROUPS: usize = 12;

/// One matrix to multiply.
pub struct MatmulJob<'a> {
    /// The weights.
    pub weight: &'a PackedMatrix,
    /// Added to the result, one value per weight row.
    pub bias: Option<&'a [f32]>,
    /// `[activations.rows()][weight.rows()]`.
    pub out: &'a mut [f32],
    /// Accumulate into `out` instead of overwriting it.
    pub add: bool,
}

/// The matrices of all experts for one purpose, to multiply with the rows that were routed to each.
pub struct ExpertJob<'a> {
    /// One matrix per expert, all of one shape.
    pub weights: &'a [PackedMatrix],
    /// Added to the result, `[expert][weight row]`.
    pub bias: Option<&'a [f32]>,
    /// `[activations.rows()][weight.rows()]`; overwritten.
    pub out: &'a mut [f32],
}

/// Multiplies every row of `x` with every job's weights.
///
/// # Panics
/// When shapes don't match, or a weight is float and the activations were made without floats.
pub fn matmul(c: &Compute, x: &Activations, jobs: &mut [MatmulJob<'_>]) {
    let mut units = Vec::with_capacity(jobs.len());
    for MatmulJob { weight, bias, out, add } in jobs {
        let out = Output { values: shared_rows(x, weight, out), add: *add };
        units.push(Unit::new(x, weight, *bias, out, 0..x.rows()));
    }
    run_units(c, x, &units);
}

/// Multiplies segment `i` of `x` with expert `experts[i]` of every job: each touched expert's weights are read once.
///
/// # Panics
/// As [`matmul`]; when there isn't an expert per segment, or one is out of range.
pub fn matmul_experts(c: &Compute, x: &Activations, experts: &[u32], jobs: &mut [ExpertJob<'_>]) {
    assert_eq!(experts.len(), x.segments().len(), "an expert for every segment");
    let mut units = Vec::with_capacity(jobs.len() * experts.len());
    for ExpertJob { weights, bias, out } in jobs {
        let Some(first) = weights.first() else { continue };
        let rows = first.rows();
        assert!(weights.iter().all(|weight| weight.rows() == rows), "experts of one shape");
        let out = Output { values: shared_rows(x, first, out), add: false };
        for (&expert, segment) in experts.iter().zip(x.segments()) {
            let expert = expert as usize;
            let bias = bias.map(|bias| &bias[expert * rows..][..rows]);
            units.push(Unit::new(x, &weights[expert], bias, out, segment.clone()));
        }
    }
    run_units(c, x, &units);
}

/// Shares the outputs of all rows of `x`, after a check of their number.
fn shared_rows<'a>(x: &Activations, weight: &PackedMatrix, out: &'a mut [f32]) -> Shared<'a, f32> {
    assert_eq!(out.len(), x.rows() * weight.rows(), "outputs of {} rows", x.rows());
    Shared::new(out)
}

/// Computes all units, each worker a contiguous range of equal cost.
fn run_units(c: &Compute, x: &Activations, units: &[Unit<'_>]) {
    let total: usize = units.iter().map(Unit::cost).sum();
    if total == 0 {
        return;
    }
    let token = c.token();
    c.pool().run(&|worker| {
        let mine = worker.share(total);
        let mut first = 0;
        for unit in units.iter().filter(|unit| !unit.rows.is_empty()) {
            let cost = unit.group_cost();
            // A group belongs to the worker whose range its first byte is in.
            let start = mine.start.saturating_sub(first).div_ceil(cost);
            let end = mine.end.saturating_sub(first).div_ceil(cost).min(unit.weight.groups());
            if start < end {
                unit.run(token, x, start..end);
            }
            first += unit.cost();
        }
    });
}

/// Where results are written.
#[derive(Clone, Copy)]
struct Output<'a> {
    /// `[rows of the activations][rows of the weight]`.
    values: Shared<'a, f32>,
    add: bool,
}

/// One matrix times some rows of the activations, with checked shapes; its output is shared between the workers.
struct Unit<'a> {
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    out: Output<'a>,
    /// A segment of the activations.
    rows: Range<usize>,
}

impl<'a> Unit<'a> {
    fn new(
        x: &Activations,
        weight: &'a PackedMatrix,
        bias: Option<&'a [f32]>,
        out: Output<'a>,
        rows: Range<usize>,
    ) -> Self {
        assert_eq!(weight.cols(), x.cols(), "weight columns and activation columns");
        assert!(bias.is_none_or(|bias| bias.len() == weight.rows()), "one bias per weight row");
        assert!(!weight.is_float() || x.floats().is_some(), "float weights need `Activations::with_floats`");
        Self { weight, bias, out, rows }
    }

    /// Relative cost of a group: reading it takes about as long as multiplying it with a few rows.
    fn group_cost(&self) -> usize {
        self.weight.group_bytes() * (ROWS_PER_READ + self.rows.len())
    }

    fn cost(&self) -> usize {
        if self.rows.is_empty() { 0 } else { self.group_cost() * self.weight.groups() }
    }

    /// Computes a range of groups for all its rows.
    fn run(&self, token: Token, x: &Activations, groups: Range<usize>) {
        if self.rows.len() <= TILE {
            return self.tile(token, x, self.rows.clone(), groups);
        }
        let group_bytes = self.weight.group_bytes();
        let panel = if self.weight.is_float() {
            (FLOAT_PANEL_BYTES / group_bytes / FLOAT_PANEL_GROUPS).max(1) * FLOAT_PANEL_GROUPS
        } else {
            (PANEL_BYTES / group_bytes).max(1)
        };
        for first in groups.clone().step_by(panel) {
            for start in self.rows.clone().step_by(TILE) {
                let tile = start..self.rows.end.min(start + TILE);
                self.tile(token, x, tile, first..groups.end.min(first + panel));
            }
        }
    }

    /// Computes a range of groups for the rows of one tile.
    fn tile(&self, token: Token, x: &Activations, tile: Range<usize>, groups: Range<usize>) {
        let rows = self.weight.rows();
        let row = groups.start * LANES;
        let size = tile.len();
        let (activations, act_bytes, step) = match x.floats() {
            Some(floats) if self.weight.is_float() => {
                (floats[tile.start * x.cols()..].as_ptr().cast(), 4 * x.cols(), 4 * x.cols())
            }
            _ => (x.tile_at(tile.start), CELL, CELL * size),
        };
        let mut done = 0;
        while done < size {
            let token_row = tile.start + done;
            let call = TileCall {
                weights: self.weight.group(groups.start).as_ptr(),
                groups: groups.len(),
                group_bytes: self.weight.group_bytes(),
                cols: x.cols(),
                activations: activations.wrapping_add(done * act_bytes),
                step,
                out: self.out.values.start().wrapping_add(token_row * rows + row),
                out_step: rows,
                rows: rows - row,
                bias: self.bias.map_or(std::ptr::null(), |bias| bias[row..].as_ptr()),
                add: self.out.add,
            };
            // SAFETY: the matrix was packed for its type and has these groups; `Unit::new` compared its
            // columns with those of `x` and its outputs and bias with its rows; a group's outputs are
            // written by one worker.
            done += unsafe {
                match token {
                    Token::Scalar(simd) => run(simd, self.weight.ty(), &call, size - done),
                    Token::Avx2(simd) => run(simd, self.weight.ty(), &call, size - done),
                    Token::AvxVnni(simd) => run(simd, self.weight.ty(), &call, size - done),
                    Token::Avx512(simd) => run(simd, self.weight.ty(), &call, size - done),
                }
            };
        }
    }
}
