//! The inner loops of a matmul: a few tokens times a run of 16-row groups, the same code for every instruction set.
//!
//! The codes of a 32-block are unpacked once and multiplied with every token of the tile; float weights are in
//! [`crate::float_tile`]. The invariant is the canonical order: each output is one lane's chain of operations over rising
//! k, for any size of tile.

use std::marker::PhantomData;

use crate::activations::{CELL, MINUS_SUM, SCALE, SCALED_SUM, minus_product};
use crate::float_tile::{self, Float};
use crate::quant::{GgmlType, Layout, Scales};
use crate::simd::{Kernel, LANES, Simd16};

/// Distance in bytes from a kernel's reads to its prefetches: about what it reads during one memory access.
pub(crate) const AHEAD: usize = 4096;

/// Consecutive groups of a matrix, times consecutive tokens of a tile.
pub(crate) struct TileCall {
    /// The first group.
    pub(crate) weights: *const u8,
    /// Number of groups.
    pub(crate) groups: usize,
    /// Bytes of a group.
    pub(crate) group_bytes: usize,
    /// Input features.
    pub(crate) cols: usize,
    /// The first token's first cell; for float weights, its row of floats.
    pub(crate) activations: *const u8,
    /// Bytes from a token's 32-block to its next one; for float weights, from a token's row to the next token's.
    pub(crate) step: usize,
    /// The first token's output of the first group.
    pub(crate) out: *mut f32,
    /// Floats from a token's outputs to the next one's.
    pub(crate) out_step: usize,
    /// Rows from the first group's first one to the matrix's end.
    pub(crate) rows: usize,
    /// Added to the results, if not null; as long as `rows`.
    pub(crate) bias: *const f32,
    /// Whether results are accumulated into `out`.
    pub(crate) add: bool,
}

/// Numbers of tokens for which a format's kernel is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileSizes {
    /// Every size up to the largest of a quantised format: a step of any size is one tile.
    All,
    /// Powers of two: rare formats should not lengthen compilation and the program.
    Powers,
    /// Those of float formats.
    Float,
}

/// The kernel of a packed weight format.
pub(crate) trait Format {
    /// The sizes of its tiles.
    const SIZES: TileSizes;

    /// Computes and stores the products of all groups of `call` with `T` tokens.
    ///
    /// # Safety
    /// As [`Tile::new`].
    unsafe fn run<S: Simd16, const T: usize>(s: S, call: &TileCall);
}

/// A tile of `T` tokens, to be run on an instruction set.
pub(crate) struct Tile<'a, F, const T: usize>(&'a TileCall, PhantomData<F>);

impl<'a, F, const T: usize> Tile<'a, F, T> {
    /// # Safety
    /// Running it reads and writes what `call` points to: `groups` groups of format `F`, the activations of
    /// `T` tokens, and for each of them `min(rows, 16 groups)` outputs that nobody else uses meanwhile.
    pub(crate) unsafe fn new(call: &'a TileCall) -> Self {
        Self(call, PhantomData)
    }
}

impl<F: Format, const T: usize> Kernel for Tile<'_, F, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd16>(self, s: S) {
        // SAFETY: the promise made to `new`.
        unsafe { F::run::<S, T>(s, self.0) }
    }
}

/// Adds bias and old output as requested, and writes one group's outputs of one token.
///
/// # Safety
/// `row` and `t` must be within what `Tile::new` was promised.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd16>(s: S, call: &TileCall, row: usize, t: usize, sum: S::V) {
    // SAFETY: `row` and `t` are of the call, whose pointers are valid by `Tile::new`.
    unsafe {
        let out = call.out.add(t * call.out_step + row);
        let rows = call.rows - row;
        if rows >= LANES {
            let mut sum = sum;
            if !call.bias.is_null() {
                sum = s.add(sum, s.load(call.bias.add(row)));
            }
            if call.add {
                sum = s.add(s.load(out), sum);
            }
            s.store(out, sum);
        } else {
            let mut lanes = [0.0; LANES];
            s.store(lanes.as_mut_ptr(), sum);
            for (i, mut sum) in lanes.into_iter().take(rows).enumerate() {
                if !call.bias.is_null() {
                    sum += *call.bias.add(row + i);
                }
                if call.add {
                    sum += *out.add(i);
                }
                *out.add(i) = sum;
            }
        }
    }
}

/// A quantised type's layout as a constant.
pub(crate) trait Quantised {
    const LAYOUT: Layout;
    const SIZES: TileSizes;
}

impl<Q: Quantised> Format for Q {
    const SIZES: TileSizes = Q::SIZES;

    #[inline(always)]
    unsafe fn run<S: Simd16, const T: usize>(s: S, call: &TileCall) {
        for group in 0..call.groups {
            // SAFETY: the caller guarantees these groups, tokens and outputs.
            unsafe {
                let sums = quantised_group::<Q, S, T>(s, call.weights.add(group * call.group_bytes), call);
                for (t, sum) in sums.into_iter().enumerate() {
                    store(s, call, group * LANES, t, sum);
                }
            }
        }
    }
}

/// The products of one group with `T` tokens.
///
/// # Safety
/// `weights` must be a packed group of this format with `call.cols` columns, and `call.activations` the cells of `T`
/// tokens.
#[inline(always)]
unsafe fn quantised_group<Q: Quantised, S: Simd16, const T: usize>(
    s: S,
    weights: *const u8,
    call: &TileCall,
) -> [S::V; T] {
    let layout = const { Q::LAYOUT };
    let mut sums = [s.splat(0.0); T];
    let mut at = weights;
    let mut activations = call.activations;
    for _ in 0..call.cols / (32 * layout.subs()) {
        // SAFETY: a record of this layout and its `subs` cells of each token are valid by the caller's promise;
        // prefetching doesn't read.
        unsafe {
            let d = super_scales(s, &layout, at);
            at = at.add(32 * layout.super_fields());
            for _ in 0..layout.subs() {
                for line in 0..layout.sub_bytes().div_ceil(64) {
                    s.prefetch(at.wrapping_add(AHEAD + 64 * line));
                }
                if matches!(layout.scales, Scales::Pair { .. }) {
                    paired::<S, T>(s, &layout, at, activations, d, &mut sums);
                } else {
                    single::<S, T>(s, &layout, at, activations, d, &mut sums);
                }
                at = at.add(layout.sub_bytes());
                activations = activations.add(call.step);
            }
        }
    }
    sums
}

/// The f16 scales of a 256-block's scales and minima, for 16 rows.
///
/// # Safety
/// `at` must be a record of this layout.
#[inline(always)]
unsafe fn super_scales<S: Simd16>(s: S, layout: &Layout, at: *const u8) -> [S::V; 2] {
    // SAFETY: as many fields as the layout has are there.
    unsafe {
        match layout.super_fields() {
            0 => [s.splat(0.0); 2],
            1 if layout.scale_shift > 0 => {
                [s.mul(s.load_f16(at.cast()), s.splat(layout.scale_factor())), s.splat(0.0)]
            }
            1 => [s.load_f16(at.cast()), s.splat(0.0)],
            _ => [s.load_f16(at.cast()), s.load_f16(at.add(32).cast())],
        }
    }
}

/// Repeats the body for the tokens below `T`. In a loop over this many tokens the compiler keeps the sums in memory;
/// unrolled by hand, they stay in registers.
macro_rules! each_token {
    (|$t:ident| $body:block) => {
        each_token!(@ $t $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $t:ident $body:block $($index:literal)+) => {
        $(if $index < T {
            let $t = $index;
            $body
        })+
    };
}

/// Unpacks a 32-block's planes into 8 chunks of 16 rows × 4 codes.
///
/// # Safety
/// `at` must be a 32-block of this layout.
#[inline(always)]
unsafe fn codes<S: Simd16>(s: S, layout: &Layout, at: *const u8) -> [S::B; 8] {
    let (low, high) = (layout.low_bits, layout.high_bits);
    let per_low = 8 / low;
    // Loops, not closures: code that isn't inlined into the token's `enter` is compiled without its instructions.
    // SAFETY: chunks of both planes are within the block.
    unsafe {
        let mut codes = [s.load_b(at); 8];
        for (chunk, code) in codes.iter_mut().enumerate() {
            let plane = s.load_b(at.add(64 * (chunk / per_low)));
            let shift = low * (chunk % per_low);
            *code = if shift > 0 { s.shr_b(plane, shift) } else { plane };
            if low < 8 {
                *code = s.and_b(*code, (1 << low) - 1);
            }
            if let Some(per_high) = 8usize.checked_div(high) {
                let plane = s.load_b(at.add(64 * (low + chunk / per_high)));
                let shift = high * (chunk % per_high);
                let bits =
                    if shift >= low { s.shr_b(plane, shift - low) } else { s.shl_b(plane, low - shift) };
                *code = s.or_b(*code, s.and_b(bits, ((1 << high) - 1) << low));
            }
            if let Some(table) = layout.table {
                *code = s.lookup(table, *code);
            }
        }
        codes
    }
}

/// The dot product of some chunks with as many groups of 4 values of a cell, zero point subtracted.
///
/// # Safety
/// `cell` must be a cell; `from` and the number of chunks within 8; `minus_sum` the field of these chunks.
#[inline(always)]
unsafe fn dot<S: Simd16>(
    s: S,
    layout: &Layout,
    codes: &[S::B],
    cell: *const u8,
    from: usize,
    minus_sum: usize,
) -> S::I {
    let wide = layout.zero == 128;
    // SAFETY: all of it is in the cell.
    unsafe {
        let mut sum = if layout.zero == 0 || (wide && S::WIDE_IS_SIGNED) {
            s.zero_i()
        } else {
            match minus_product(layout.zero) {
                Some(product) if minus_sum == MINUS_SUM => s.splat_i(cell.add(product).cast()),
                _ => s.shl_i(s.splat_i(cell.add(minus_sum).cast()), layout.zero.trailing_zeros()),
            }
        };
        for (i, &codes) in codes.iter().enumerate() {
            let x = cell.add(4 * (from + i));
            sum = if wide { s.dot_wide(sum, codes, x) } else { s.dot(sum, codes, x) };
        }
        sum
    }
}

/// A 32-block with one scale (and minimum).
///
/// # Safety
/// `at` must be a 32-block of this layout, and `activations` point to `T` cells.
#[inline(always)]
unsafe fn single<S: Simd16, const T: usize>(
    s: S,
    layout: &Layout,
    at: *const u8,
    activations: *const u8,
    [d, dmin]: [S::V; 2],
    sums: &mut [S::V; T],
) {
    // SAFETY: fields and cells are within the block and the tokens.
    unsafe {
        let codes = codes(s, layout, at);
        let fields = at.add(layout.plane_bytes());
        let (scale, min) = match layout.scales {
            Scales::Half { min: false } => (s.load_f16(fields.cast()), None),
            Scales::Half { min: true } => {
                (s.load_f16(fields.cast()), Some(s.load_f16(fields.add(32).cast())))
            }
            Scales::Exponent => (s.load_exponent(fields), None),
            Scales::Whole => (d, None),
            Scales::Signed => (s.mul(d, s.convert(s.load_i8(fields))), None),
            Scales::Super | Scales::Pair { .. } => {
                let min = s.mul(dmin, s.convert(s.load_u8(fields.add(16))));
                (s.mul(d, s.convert(s.load_u8(fields))), Some(min))
            }
        };
        each_token!(|t| {
            let (cell, sum) = (activations.add(CELL * t), &mut sums[t]);
            let dot = s.convert(dot(s, layout, &codes, cell, 0, MINUS_SUM));
            *sum = s.fma(s.mul(dot, scale), s.splat_at(cell.add(SCALE).cast()), *sum);
            if let Some(min) = min {
                let x = s.splat_at(cell.add(SCALED_SUM).cast());
                *sum = match layout.scales {
                    Scales::Super => s.fnma(min, x, *sum),
                    _ => s.fma(min, x, *sum),
                };
            }
        });
    }
}

/// A 32-block with an integer scale (and minimum) per 16.
///
/// # Safety
/// `at` must be a 32-block of this layout, and `activations` point to `T` cells.
#[inline(always)]
unsafe fn paired<S: Simd16, const T: usize>(
    s: S,
    layout: &Layout,
    at: *const u8,
    activations: *const u8,
    [d, dmin]: [S::V; 2],
    sums: &mut [S::V; T],
) {
    // SAFETY: fields and cells are within the block and the tokens.
    unsafe {
        let codes = codes(s, layout, at);
        let fields = at.add(layout.plane_bytes());
        let (low, high) = (s.load_u8(fields), s.load_u8(fields.add(16)));
        let has_min = matches!(layout.scales, Scales::Pair { min: true });
        let (scale_low, scale_high) = if has_min {
            (s.and_i(low, 15), s.and_i(high, 15))
        } else {
            (s.load_i8(fields), s.load_i8(fields.add(16)))
        };
        let (min_low, min_high) = (s.shr_i(low, 4), s.shr_i(high, 4));
        let (minus_low, minus_high) = (MINUS_SUM + 4, MINUS_SUM + 8);
        each_token!(|t| {
            let (cell, sum) = (activations.add(CELL * t), &mut sums[t]);
            let low = s.mul_i(dot(s, layout, &codes[..4], cell, 0, minus_low), scale_low);
            let high = s.mul_i(dot(s, layout, &codes[4..], cell, 4, minus_high), scale_high);
            let scale = s.splat_at(cell.add(SCALE).cast());
            *sum = s.fma(s.mul(s.convert(s.add_i(low, high)), d), scale, *sum);
            if has_min {
                let low = s.mul_i(min_low, s.splat_i(cell.add(minus_low).cast()));
                let high = s.mul_i(min_high, s.splat_i(cell.add(minus_high).cast()));
                *sum = s.fma(s.mul(s.convert(s.add_i(low, high)), dmin), scale, *sum);
            }
        });
    }
}

/// The formats by their type's name.
macro_rules! formats {
    ($($float:ident)+; $($sizes:ident: $($name:ident $(= $same:ident)*),+;)+) => {
        /// A type per quantised format.
        #[allow(non_camel_case_types)]
        pub(crate) mod formats {
            $($(pub(crate) struct $name;)+)+
        }
        $($(impl Quantised for formats::$name {
            const LAYOUT: Layout = GgmlType::$name.layout().expect("a quantised type");
            const SIZES: TileSizes = TileSizes::$sizes;
        })+)+

        /// Runs one tile kernel of the type `ty`, and returns its number of tokens.
        ///
        /// # Safety
        /// As `Tile::new`, for the format of `ty` and the returned number of tokens.
        pub(crate) unsafe fn run(simd: impl Simd16, ty: GgmlType, call: &TileCall, tokens: usize) -> usize {
            // SAFETY: the caller's promise.
            unsafe {
                match ty {
                    $(GgmlType::$float => simd.tile::<Float<float_tile::$float>>(call, tokens),)+
                    $($(GgmlType::$name $(| GgmlType::$same)* => simd.tile::<formats::$name>(call, tokens),)+)+
                }
            }
        }
    };
}

formats! {
    F32 F16 BF16;
    All: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4, IQ4_XS;
    // `=`: another type with the same layout.
    Powers: IQ2_XXS, IQ2_XS = IQ2_S, IQ3_XXS, IQ3_S, IQ1_S, IQ1_M, TQ1_0 = TQ2_0;
}
