//! The activations of a step in the layout of the matmuls: rows quantised to 8 bits per 32 columns.
//!
//! Rows are stored in tiles of up to 16, a 64-byte cell per (32-block, row), blocks outermost, so that a
//! kernel advances one pointer for any number of rows. Rows may be cut into segments, one per expert; a tile never
//! spans two segments. A row's cells depend only on that row.

use std::ops::Range;

use crate::compute::Compute;
use crate::share::Shared;
use crate::simd::{Kernel, Simd16};

/// Rows of a tile; the last one may have fewer.
pub(crate) const TILE: usize = 16;
/// Bytes of a cell: 32 quantised values, then the fields below.
pub(crate) const CELL: usize = 64;
/// Offset of `scale` = amax / 127 (f32).
pub(crate) const SCALE: usize = 32;
/// Offset of `scale · f32(sum)` (f32), for the minima.
pub(crate) const SCALED_SUM: usize = 36;
/// Offset of the negated sum of the 32 values (i32), for the zero points; the two halves' follow.
pub(crate) const MINUS_SUM: usize = 40;
/// Offset of the products of the negated sum with each of [`ZEROS`] (i32).
const MINUS_PRODUCTS: usize = 52;
/// Zero points so common that their products are kept ready.
const ZEROS: [u8; 3] = [8, 16, 128];

/// Offset of the product of a zero point with the negated sum (i32), if it is kept ready.
pub(crate) const fn minus_product(zero: u8) -> Option<usize> {
    let mut i = 0;
    while i < ZEROS.len() {
        if ZEROS[i] == zero {
            return Some(MINUS_PRODUCTS + 4 * i);
        }
        i += 1;
    }
    None
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Cell([u8; CELL]);

/// Rows of activations; the buffers are reused across steps.
pub struct Activations {
    /// Consecutive ranges of rows; no tile spans two.
    segments: Vec<Range<usize>>,
    cols: usize,
    cells: Vec<Cell>,
    floats: Vec<f32>,
    with_floats: bool,
}

impl Default for Activations {
    fn default() -> Self {
        Self::new()
    }
}

impl Activations {
    /// Activations for quantised weights.
    #[must_use]
    pub fn new() -> Self {
        Self { segments: Vec::new(), cols: 0, cells: Vec::new(), floats: Vec::new(), with_floats: false }
    }

    /// Activations for quantised and float weights: the unquantised rows are stored too.
    #[must_use]
    pub fn with_floats() -> Self {
        Self { with_floats: true, ..Self::new() }
    }

    /// Resizes to `rows` rows of `cols`, in one segment. Their contents are unspecified until
    /// [`Activations::fill`] or [`Activations::quantize`].
    pub fn reset(&mut self, rows: usize, cols: usize) {
        self.reset_segments([rows], cols);
    }

    /// As [`Activations::reset`], with a segment of each of the given numbers of rows.
    pub fn reset_segments(&mut self, rows: impl IntoIterator<Item = usize>, cols: usize) {
        self.segments.clear();
        let mut end = 0;
        for rows in rows {
            self.segments.push(end..end + rows);
            end += rows;
        }
        self.cols = cols;
        let cells = end * cols.div_ceil(32);
        if self.cells.len() < cells {
            self.cells.resize(cells, Cell([0; CELL]));
        }
        if self.with_floats && self.floats.len() < end * cols {
            self.floats.resize(end * cols, 0.0);
        }
    }

    /// Rows of the step.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.segments.last().map_or(0, |segment| segment.end)
    }

    /// The rows of each segment.
    #[must_use]
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// Columns of a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Sets the rows from `x`, row-major.
    ///
    /// A block of 32 with a value that isn't finite gets the scale NaN, so its products are NaN.
    ///
    /// # Panics
    /// When `x` isn't `rows` × `cols` long.
    pub fn quantize(&mut self, c: &Compute, x: &[f32]) {
        assert_eq!(x.len(), self.rows() * self.cols, "activations of {} x {}", self.rows(), self.cols);
        if self.with_floats {
            self.floats[..x.len()].copy_from_slice(x);
        }
        let cols = self.cols;
        self.fill_cells(c, |row, quantise| quantise(&x[row * cols..][..cols]));
    }

    /// Sets each row by `produce(row, out)`, which must write all of `out`. Rows are produced in parallel.
    pub fn fill(&mut self, c: &Compute, produce: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let cols = self.cols;
        if self.with_floats {
            let mut floats = std::mem::take(&mut self.floats);
            let shared = Shared::new(&mut floats);
            self.fill_cells(c, |row, quantise| {
                // SAFETY: every row is produced by one worker.
                let out = unsafe { shared.part(row * cols, cols) };
                produce(row, out);
                quantise(out);
            });
            self.floats = floats;
        } else {
            thread_local! {
                static ROW: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
            }
            self.fill_cells(c, |row, quantise| {
                let mut out = ROW.take();
                out.resize(cols, 0.0);
                produce(row, &mut out);
                quantise(&out);
                ROW.set(out);
            });
        }
    }

    /// Sets row `r` to row `from[r]` of `source`, without quantising again.
    ///
    /// # Panics
    /// When `from` isn't one row per row, the columns differ, or `source` lacks floats that `self` stores.
    pub fn gather(&mut self, c: &Compute, source: &Activations, from: &[u32]) {
        assert_eq!(from.len(), self.rows(), "a source for every row");
        assert_eq!(self.cols, source.cols, "columns of gathered rows");
        let (cols, blocks) = (self.cols, self.cols.div_ceil(32));
        let (cells, floats) = (Shared::new(&mut self.cells), Shared::new(&mut self.floats));
        let segments = &self.segments;
        let with_floats = self.with_floats;
        c.pool().split(from.len(), from.len() * cols, &|rows| {
            for r in rows {
                let (to, from_place) =
                    (place(segments, blocks, r), place(&source.segments, blocks, from[r] as usize));
                for block in 0..blocks {
                    // SAFETY: every cell belongs to one row, and every row to one worker.
                    let cell = unsafe { cells.part(to.first + block * to.step, 1) };
                    cell[0] = source.cells[from_place.first + block * from_place.step];
                }
                if with_floats {
                    // SAFETY: as above.
                    let row = unsafe { floats.part(r * cols, cols) };
                    row.copy_from_slice(&source.floats[from[r] as usize * cols..][..cols]);
                }
            }
        });
    }

    /// Calls `row(r, quantise)` for every row, where `quantise` writes the cells of that row.
    fn fill_cells(&mut self, c: &Compute, row: impl Fn(usize, &mut dyn FnMut(&[f32])) + Sync) {
        let (rows, blocks, token) = (self.rows(), self.cols.div_ceil(32), c.token());
        let (cells, segments) = (Shared::new(&mut self.cells), &self.segments);
        let rows_of = |range: Range<usize>| {
            for r in range {
                let place = place(segments, blocks, r);
                row(r, &mut |x| token.dispatch(QuantiseRow { x, cells, place }));
            }
        };
        c.pool().split(rows, rows * self.cols, &rows_of);
    }

    /// The first cell of the tile that starts at a row; the cells of a block are consecutive, row by row.
    pub(crate) fn tile_at(&self, row: usize) -> *const u8 {
        self.cells[row * self.cols.div_ceil(32)..].as_ptr().cast()
    }

    /// The unquantised rows; `None` without [`Activations::with_floats`].
    pub(crate) fn floats(&self) -> Option<&[f32]> {
        self.with_floats.then(|| &self.floats[..self.rows() * self.cols])
    }
}

/// Where the cells of a row are.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    /// Cells from a block to the next one: rows of the tile.
    step: usize,
}

fn place(segments: &[Range<usize>], blocks: usize, row: usize) -> Place {
    let segment = &segments[segments.partition_point(|segment| segment.end <= row)];
    let tile = segment.start + (row - segment.start) / TILE * TILE;
    Place { first: tile * blocks + (row - tile), step: TILE.min(segment.end - tile) }
}

/// Quantises a row into its cells.
struct QuantiseRow<'a> {
    x: &'a [f32],
    cells: Shared<'a, Cell>,
    place: Place,
}

impl Kernel for QuantiseRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let (whole, rest) = self.x.as_chunks::<32>();
        let mut at = self.place.first;
        for x in whole {
            // SAFETY: a cell is part of one row, and a row is written by one worker.
            quantise_block(s, x, &mut unsafe { self.cells.part(at, 1) }[0]);
            at += self.place.step;
        }
        if !rest.is_empty() {
            let mut x = [0.0; 32];
            x[..rest.len()].copy_from_slice(rest);
            // SAFETY: as above.
            quantise_block(s, &x, &mut unsafe { self.cells.part(at, 1) }[0]);
        }
    }
}

#[inline(always)]
fn quantise_block<S: Simd16>(s: S, x: &[f32; 32], cell: &mut Cell) {
    let cell = &mut cell.0;
    // SAFETY: `x` has 32 values.
    let amax = f32::from_bits(unsafe { s.max_abs_bits(x.as_ptr()) });
    let by = 127.0 / amax;
    let (scale, sums) = if !amax.is_finite() {
        cell[..32].fill(0);
        (f32::NAN, [0, 0])
    } else if !by.is_finite() {
        // All zero, or so small that 127 / amax overflows.
        cell[..32].fill(0);
        (0.0, [0, 0])
    } else {
        // SAFETY: `x` has 32 values and the cell room for 32 bytes; no |x · by| rounds to more than 127.
        let sums = unsafe {
            let (x, q) = (x.as_ptr(), cell.as_mut_ptr());
            [s.quantise(x, by, q), s.quantise(x.add(16), by, q.add(16))]
        };
        (amax / 127.0, sums)
    };
    let sum = sums[0] + sums[1];
    cell[SCALE..][..4].copy_from_slice(&scale.to_le_bytes());
    cell[SCALED_SUM..][..4].copy_from_slice(&(scale * sum as f32).to_le_bytes());
    for (i, sum) in [sum, sums[0], sums[1]].into_iter().enumerate() {
        cell[MINUS_SUM + 4 * i..][..4].copy_from_slice(&(-sum).to_le_bytes());
    }
    for (i, zero) in ZEROS.into_iter().enumerate() {
        cell[MINUS_PRODUCTS + 4 * i..][..4].copy_from_slice(&(-sum * i32::from(zero)).to_le_bytes());
    }
}
