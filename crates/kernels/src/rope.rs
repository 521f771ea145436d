//! Rotary position embeddings: tables of cosines and sines, and their application to queries and keys.
//!
//! Angles are computed in f64 with the `libm` crate and rounded once, so the tables are the same on every
//! machine. Tables grow by pages of positions on demand and never shrink.

use crate::compute::Compute;
use crate::share::Shared;
use crate::simd::{Kernel, LANES, Simd16, dispatch};

/// Positions per page of a table.
const PAGE: usize = 256;

/// Which elements of a head form a rotated pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `2i` with `2i + 1`: GGUF files of the `llama` architecture.
    Interleaved,
    /// `i` with `i + dim / 2`: the `qwen` family and Hugging Face's own layout.
    Halves,
}

/// Context extension beyond the training length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// No extension.
    None,
    /// Positions are divided by `factor`.
    Linear {
        /// Extension factor.
        factor: f32,
    },
    /// YaRN (arXiv 2309.00071) as llama.cpp and Hugging Face have it: low frequencies are interpolated, high
    /// ones are not. The magnitude that goes with it is [`RopeConfig::magnitude`].
    Yarn {
        /// Extension factor.
        factor: f32,
        /// Context length of the training, in tokens.
        original_ctx: u32,
        /// Rotations within that context above which a frequency is not interpolated; usually 32.
        beta_fast: f32,
        /// Rotations below which a frequency is fully interpolated; usually 1.
        beta_slow: f32,
        /// Whether the first and last pair of the ramp between the two are rounded to whole ones, as in the paper's code.
        truncate: bool,
    },
}

/// `1 + 0.1 m ln factor`: the magnitude that belongs to a YaRN of `factor`, with `m = 1`; DeepSeek has an `m` of its own.
#[must_use]
pub fn yarn_magnitude(factor: f32, m: f64) -> f64 {
    1.0 + 0.1 * m * libm::log(f64::from(factor))
}

/// Parameters of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Number of rotated elements of a head (its first ones); even.
    pub dim: usize,
    /// Base of the frequencies, such as 10,000.
    pub base: f32,
    /// Extension of the context length.
    pub scaling: RopeScaling,
    /// Factor of all cosines and sines; 1 unless a scaling of the context has one.
    pub magnitude: f64,
    /// How elements are paired.
    pub style: RopeStyle,
}

/// Where the heads of a row are, and which of their elements rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRows {
    /// Numbers from a row to the next.
    pub stride: usize,
    /// Heads, one after the other from the start of the row.
    pub heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Numbers of a head before those that rotate.
    pub skip: usize,
}

impl HeadRows {
    /// Rows that are nothing but heads, which rotate from their first element on.
    pub fn packed(heads: usize, head_dim: usize) -> Self {
        Self { stride: heads * head_dim, heads, head_dim, skip: 0 }
    }
}

/// Cosines and sines by position.
#[derive(Debug)]
pub struct RopeTable {
    dim: usize,
    style: RopeStyle,
    /// Angle per position of each pair.
    frequencies: Vec<f64>,
    magnitude: f64,
    /// Each `[PAGE][cos: dim / 2, sin: dim / 2]`.
    pages: Vec<Box<[f32]>>,
}

impl RopeTable {
    /// An empty table. `freq_factors` divide the `dim / 2` frequencies (`rope_freqs.weight`: Llama 3 and its kin).
    ///
    /// # Panics
    /// If `dim` is odd or zero, or there are frequency factors but not `dim / 2` of them.
    pub fn new(config: RopeConfig, freq_factors: Option<&[f32]>) -> Self {
        let RopeConfig { dim, base, scaling, magnitude, style } = config;
        assert!(dim > 0 && dim.is_multiple_of(2), "rotary dimension {dim} is not a positive even number");
        if let Some(factors) = freq_factors {
            assert_eq!(factors.len(), dim / 2, "one frequency factor per rotated pair");
        }
        let frequencies = (0..dim / 2)
            .map(|pair| {
                let plain = libm::pow(f64::from(base), -2.0 * pair as f64 / dim as f64);
                let divisor = freq_factors.map_or(1.0, |factors| f64::from(factors[pair]));
                scale_frequency(plain / divisor, pair, dim, f64::from(base), scaling)
            })
            .collect();
        Self { dim, style, frequencies, magnitude, pages: Vec::new() }
    }

    /// Rotates the first `dim` elements of each head in place. Row `r` of `x` starts at `r * stride` and is at
    /// `positions[r]`; its heads are contiguous.
    ///
    /// # Panics
    /// If the heads exceed the stride, or the rows exceed `x`.
    pub fn apply(&mut self, c: &Compute, x: &mut [f32], at: HeadRows, positions: &[u32]) {
        let HeadRows { stride, heads, head_dim, skip } = at;
        assert!(
            self.dim + skip <= head_dim && heads * head_dim <= stride,
            "rotary heads don't fit their rows"
        );
        let rows = positions.len();
        let needed = rows.checked_sub(1).map_or(0, |last| last * stride + heads * head_dim);
        assert!(x.len() >= needed, "fewer rows than positions");
        self.grow_to(positions.iter().copied().max().unwrap_or(0));
        let (pages, dim, style) = (&self.pages, self.dim, self.style);
        let x = Shared::new(x);
        c.pool().split(rows, rows * heads * dim, &|rows| {
            for row in rows {
                // SAFETY: rows don't overlap, and each has one worker.
                let x = unsafe { x.part(row * stride, heads * head_dim) };
                let position = positions[row] as usize;
                let entry = &pages[position / PAGE][position % PAGE * dim..][..dim];
                dispatch(c, Rotate { x, head_dim, skip, style, entry });
            }
        });
    }

    /// Adds pages up to the one that holds position `last`.
    fn grow_to(&mut self, last: u32) {
        while self.pages.len() <= last as usize / PAGE {
            let page = self.page(self.pages.len() * PAGE);
            self.pages.push(page);
        }
    }

    /// A page that starts at `position`.
    fn page(&self, position: usize) -> Box<[f32]> {
        let entry = |position: usize| {
            let angles = self.frequencies.iter().map(move |f| f * position as f64);
            let cosines = angles.clone().map(|angle| (libm::cos(angle) * self.magnitude) as f32);
            let sines = angles.map(|angle| (libm::sin(angle) * self.magnitude) as f32);
            cosines.chain(sines)
        };
        (position..position + PAGE).flat_map(entry).collect()
    }
}

/// Angle per position of a pair, from its unscaled one.
fn scale_frequency(plain: f64, pair: usize, dim: usize, base: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / f64::from(factor),
        RopeScaling::Yarn { factor, original_ctx, beta_fast, beta_slow, truncate } => {
            // The pair that rotates `rotations` times within the original context.
            let pair_of = |rotations: f64| {
                let ratio = f64::from(original_ctx) / (rotations * std::f64::consts::TAU);
                dim as f64 * libm::log(ratio) / (2.0 * libm::log(base))
            };
            let (low, high) = (pair_of(f64::from(beta_fast)), pair_of(f64::from(beta_slow)));
            let (low, high) = if truncate { (libm::floor(low), libm::ceil(high)) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            let interpolated = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            plain / f64::from(factor) * interpolated + plain * (1.0 - interpolated)
        }
    }
}

/// Rotates the heads of one row.
struct Rotate<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    skip: usize,
    style: RopeStyle,
    entry: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        let half = self.entry.len() / 2;
        let (cos, sin) = self.entry.split_at(half);
        for head in self.x.chunks_exact_mut(self.head_dim) {
            let head = &mut head[self.skip..];
            match self.style {
                RopeStyle::Halves => {
                    let (first, second) = head[..2 * half].split_at_mut(half);
                    rotate_halves(s, first, second, cos, sin);
                }
                RopeStyle::Interleaved => {
                    for ((pair, &cos), &sin) in
                        head[..2 * half].as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin)
                    {
                        *pair = rotate(*pair, cos, sin);
                    }
                }
            }
        }
    }
}

/// One pair. The order of roundings is part of the canonical arithmetic.
#[inline(always)]
fn rotate([x, y]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [x.mul_add(cos, -(y * sin)), x.mul_add(sin, y * cos)]
}

/// As [`rotate`], 16 pairs at a time.
#[inline(always)]
fn rotate_halves<S: Simd16>(s: S, first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, first_rest) = first.as_chunks_mut::<LANES>();
    let (second, second_rest) = second.as_chunks_mut::<LANES>();
    let (cos, cos_rest) = cos.as_chunks::<LANES>();
    let (sin, sin_rest) = sin.as_chunks::<LANES>();
    for (((x, y), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (a, b) = (s.load_array(x), s.load_array(y));
        let (cos, sin) = (s.load_array(cos), s.load_array(sin));
        s.store_array(x, s.fma(a, cos, s.sub(s.splat(-0.0), s.mul(b, sin))));
        s.store_array(y, s.fma(a, sin, s.mul(b, cos)));
    }
    for (((x, y), &cos), &sin) in first_rest.iter_mut().zip(second_rest).zip(cos_rest).zip(sin_rest) {
        [*x, *y] = rotate([*x, *y], cos, sin);
    }
}
