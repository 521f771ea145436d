//! Activations times packed weights: the split over threads and the walk over tiles.
//!
//! Several matrices that read the same activations share one fork. Each thread takes a contiguous share of
//! the 16-row groups of all of them, so it reads contiguous memory; nothing of an output's value depends on
//! the split.

use crate::acts::{Acts, CELL, TILE};
use crate::compute::{Compute, Token};
use crate::packed::{LANES, PackedMatrix};
use crate::share::Shared;
use crate::tile::{TileCall, run};

/// Bytes of weights that stay in the first cache while the tiles of a long step pass over them.
const PANEL_BYTES: usize = 24 * 1024;

/// One matrix to multiply.
pub struct MatmulJob<'a> {
    /// The weights.
    pub weight: &'a PackedMatrix,
    /// Added at the end, one value per weight row.
    pub bias: Option<&'a [f32]>,
    /// `[acts.rows()][weight.rows()]`.
    pub out: &'a mut [f32],
    /// Whether to add to `out` instead of replacing it.
    pub add: bool,
}

/// Multiplies every row of `x` with every job's weights.
///
/// # Panics
/// When shapes don't fit, or a float weight meets activations without floats.
pub fn matmul(c: &Compute, x: &Acts, jobs: &mut [MatmulJob<'_>]) {
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

/// A checked job whose output the workers share.
struct Prepared<'a> {
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    out: Shared<'a, f32>,
    add: bool,
}

impl<'a> Prepared<'a> {
    fn new(x: &Acts, job: &'a mut MatmulJob<'_>) -> Self {
        let weight = job.weight;
        assert_eq!(weight.cols(), x.cols(), "weight columns and activation columns");
        assert_eq!(job.out.len(), x.rows() * weight.rows(), "outputs of {} rows", x.rows());
        assert!(job.bias.is_none_or(|bias| bias.len() == weight.rows()), "one bias per weight row");
        assert!(!weight.is_float() || x.floats().is_some(), "float weights need `Acts::with_floats`");
        Self { weight, bias: job.bias, out: Shared::new(job.out), add: job.add }
    }

    /// Does a range of groups for all tokens.
    fn run(&self, token: Token, x: &Acts, groups: std::ops::Range<usize>) {
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

    /// Does a range of groups for the tokens of one tile.
    fn tile(&self, token: Token, x: &Acts, tile: usize, groups: std::ops::Range<usize>) {
        let rows = self.weight.rows();
        let row = groups.start * LANES;
        let size = TILE.min(x.rows() - tile * TILE);
        let (acts, act_bytes, step) = match x.floats() {
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
                acts: acts.wrapping_add(done * act_bytes),
                step,
                out: self.out.start().wrapping_add(token_row * rows + row),
                out_step: rows,
                rows: rows - row,
                bias: self.bias.map_or(std::ptr::null(), |bias| bias[row..].as_ptr()),
                add: self.add,
            };
            // SAFETY: the matrix was packed for its type and has these groups; `Prepared::new` compared its
            // columns with those of `x` and its outputs and bias with its rows; a group's outputs belong to the
            // one worker that has the group in its share.
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
