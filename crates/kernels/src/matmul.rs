//! Activations times packed weights: the partition over threads and the loop over tiles.
//!
//! Several matrices that read the same activations run in one parallel section. Each thread takes a contiguous
//! range of the 16-row groups of all of them, so it reads contiguous memory; an output's value does not depend on the
//! partition.

use crate::activations::{Activations, CELL, TILE};
use crate::compute::{Compute, Token};
use crate::packed::{LANES, PackedMatrix};
use crate::share::Shared;
use crate::tile::{TileCall, run};

/// Bytes of weights per panel: they stay in L1 while all tiles of a long step use them.
const PANEL_BYTES: usize = 24 * 1024;

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

/// Multiplies every row of `x` with every job's weights.
///
/// # Panics
/// When shapes don't match, or a weight is float and the activations were made without floats.
pub fn matmul(c: &Compute, x: &Activations, jobs: &mut [MatmulJob<'_>]) {
    let jobs: Vec<Prepared<'_>> = jobs.iter_mut().map(|job| Prepared::new(x, job)).collect();
    let groups = jobs.iter().map(|job| job.weight.groups()).sum();
    if x.rows() == 0 {
        return;
    }
    let token = c.token();
    c.pool().run(&|worker| {
        let mine = worker.share(groups);
        let mut first = 0;
        for job in &jobs {
            let (start, end) = (mine.start.max(first), mine.end.min(first + job.weight.groups()));
            if start < end {
                job.run(token, x, start - first..end - first);
            }
            first += job.weight.groups();
        }
    });
}

/// A job with checked shapes, whose output is shared between the workers.
struct Prepared<'a> {
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    out: Shared<'a, f32>,
    add: bool,
}

impl<'a> Prepared<'a> {
    fn new(x: &Activations, job: &'a mut MatmulJob<'_>) -> Self {
        let weight = job.weight;
        assert_eq!(weight.cols(), x.cols(), "weight columns and activation columns");
        assert_eq!(job.out.len(), x.rows() * weight.rows(), "outputs of {} rows", x.rows());
        assert!(job.bias.is_none_or(|bias| bias.len() == weight.rows()), "one bias per weight row");
        assert!(!weight.is_float() || x.floats().is_some(), "float weights need `Activations::with_floats`");
        Self { weight, bias: job.bias, out: Shared::new(job.out), add: job.add }
    }

    /// Computes a range of groups for all rows of activations.
    fn run(&self, token: Token, x: &Activations, groups: std::ops::Range<usize>) {
        if x.rows() <= TILE {
            return self.tile(token, x, 0, groups);
        }
        let panel = (PANEL_BYTES / self.weight.group_bytes()).max(1);
        for first in groups.clone().step_by(panel) {
            for tile in 0..x.rows().div_ceil(TILE) {
                self.tile(token, x, tile, first..groups.end.min(first + panel));
            }
        }
    }

    /// Computes a range of groups for the rows of one tile.
    fn tile(&self, token: Token, x: &Activations, tile: usize, groups: std::ops::Range<usize>) {
        let rows = self.weight.rows();
        let row = groups.start * LANES;
        let size = TILE.min(x.rows() - tile * TILE);
        let (activations, act_bytes, step) = match x.floats() {
            Some(floats) if self.weight.is_float() => {
                (floats[tile * TILE * x.cols()..].as_ptr().cast(), 4 * x.cols(), 4 * x.cols())
            }
            _ => (x.tile(tile), CELL, CELL * size),
        };
        let mut done = 0;
        while done < size {
            let token_row = tile * TILE + done;
            let call = TileCall {
                weights: self.weight.group(groups.start).as_ptr(),
                groups: groups.len(),
                group_bytes: self.weight.group_bytes(),
                cols: x.cols(),
                activations: activations.wrapping_add(done * act_bytes),
                step,
                out: self.out.start().wrapping_add(token_row * rows + row),
                out_step: rows,
                rows: rows - row,
                bias: self.bias.map_or(std::ptr::null(), |bias| bias[row..].as_ptr()),
                add: self.add,
            };
            // SAFETY: the matrix was packed for its type and has these groups; `Prepared::new` compared its
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
