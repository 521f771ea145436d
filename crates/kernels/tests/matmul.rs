//! Every instruction set against a naive twin: the canonical arithmetic written down row by row.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests; it does not see that helpers are part of them

use foretoken_kernels::quant::{Scales, parse};
use foretoken_kernels::{
    Activations, Compute, ExpertJob, GgmlType, Isa, MatmulJob, PackError, PackedMatrix, matmul,
    matmul_experts, quant,
};
use half::f16;

/// A small generator (splitmix64), so that a failing case can be named by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Roughly normal.
    fn float(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / 16_777_216.0 - 0.5).sum()
    }

    fn half(&mut self) -> [u8; 2] {
        f16::from_f32(self.float() * 0.05).to_le_bytes()
    }
}

/// The bytes of an IQ1_M block whose high nibbles make up its scale.
const IQ1_M_SCALE: [usize; 4] = [49, 51, 53, 55];

/// Where the f16 fields of a block are.
fn halves(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::F32 | GgmlType::BF16 | GgmlType::MXFP4 | GgmlType::IQ1_M => &[],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        _ => &[0],
    }
}

/// Random rows of any type, with scales that are finite.
fn weights(random: &mut Random, ty: GgmlType, elements: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..elements / ty.block_len() {
        let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| random.next() as u8).collect();
        match ty {
            GgmlType::F32 | GgmlType::BF16 => {
                let value = (random.float() * 0.1).to_le_bytes();
                let width = block.len();
                block.copy_from_slice(&value[4 - width..]);
            }
            GgmlType::MXFP4 => {
                block[0] =
                    if random.below(8) == 0 { random.below(3) as u8 } else { 118 + random.below(8) as u8 };
            }
            GgmlType::IQ1_M => {
                let half = u16::from_le_bytes(random.half());
                for (i, at) in IQ1_M_SCALE.into_iter().enumerate() {
                    block[at] = block[at] & 15 | ((half >> (4 * i)) as u8) << 4;
                }
            }
            _ => {
                for &at in halves(ty) {
                    block[at..at + 2].copy_from_slice(&random.half());
                }
            }
        }
        bytes.extend(block);
    }
    bytes
}

/// Activations with blocks of zeros, tiny and large values, and values that round to even.
fn activations(random: &mut Random, elements: usize) -> Vec<f32> {
    let mut x = Vec::with_capacity(elements);
    while x.len() < elements {
        let size = [1.0, 1.0, 1.0, 0.0, 1e-40, 1e-20, 1e6][random.below(7)];
        for _ in 0..32.min(elements - x.len()) {
            x.push(if random.below(5) == 0 {
                random.below(9) as f32 * 0.5 * size
            } else {
                random.float() * size
            });
        }
    }
    x
}

/// 32 quantised activations.
struct Quantised {
    q: [i32; 32],
    scale: f32,
}

fn quantise(x: &[f32]) -> Quantised {
    let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    let by = 127.0 / amax;
    let mut q = [0; 32];
    if x.iter().any(|x| !x.is_finite()) {
        return Quantised { q, scale: f32::NAN };
    }
    if !by.is_finite() {
        return Quantised { q, scale: 0.0 };
    }
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * by).round_ties_even() as i32;
    }
    Quantised { q, scale: amax / 127.0 }
}

/// One output: a row of blocks times a row of activations.
fn twin_row(ty: GgmlType, row: &[u8], x: &[f32], xq: &[Quantised]) -> f32 {
    let Some(layout) = ty.layout() else {
        let mut w = vec![0.0; x.len()];
        quant::dequantize(ty, row, &mut w);
        return w.iter().zip(x).fold(0.0, |sum, (w, x)| w.mul_add(*x, sum));
    };
    let half = |bits: u16| f16::from_bits(bits).to_f32();
    let mut sum = 0.0f32;
    for (i, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
        let block = parse(ty, bytes);
        for j in 0..ty.block_len() / 32 {
            let x = &xq[i * ty.block_len() / 32 + j];
            let w: Vec<i32> = block.codes[32 * j..][..32].iter().map(|&code| layout.integer(code)).collect();
            let dot = |from: usize, to: usize| (from..to).map(|k| w[k] * x.q[k]).sum::<i32>();
            let total = |from: usize, to: usize| x.q[from..to].iter().sum::<i32>();
            let [a, b] = block.sub[j];
            let [d, dmin] = block.sup.map(half);
            let d = d * layout.scale_factor();
            let (weighted, min) = match layout.scales {
                Scales::Half { min } => (dot(0, 32) as f32 * half(a), min.then(|| half(b))),
                Scales::Exponent => (dot(0, 32) as f32 * 2f64.powi(i32::from(a) - 128) as f32, None),
                Scales::Whole => (dot(0, 32) as f32 * d, None),
                Scales::Signed => (dot(0, 32) as f32 * (d * f32::from(a as u8 as i8)), None),
                Scales::Super => (dot(0, 32) as f32 * (d * f32::from(a)), Some(-(dmin * f32::from(b)))),
                Scales::Pair { min: false } => {
                    let [a, b] = [a, b].map(|field| i32::from(field as u8 as i8));
                    ((a * dot(0, 16) + b * dot(16, 32)) as f32 * d, None)
                }
                Scales::Pair { min: true } => {
                    let [a, b] = [a, b].map(i32::from);
                    sum = (((a & 15) * dot(0, 16) + (b & 15) * dot(16, 32)) as f32 * d).mul_add(x.scale, sum);
                    let mins = (a >> 4) * total(0, 16) + (b >> 4) * total(16, 32);
                    ((-mins) as f32 * dmin, None)
                }
            };
            sum = weighted.mul_add(x.scale, sum);
            if let Some(min) = min {
                sum = min.mul_add(x.scale * total(0, 32) as f32, sum);
            }
        }
    }
    sum
}

fn twin(ty: GgmlType, rows: usize, cols: usize, weights: &[u8], x: &[f32]) -> Vec<f32> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let mut out = Vec::new();
    for x in x.chunks_exact(cols) {
        let xq: Vec<_> = x.chunks(32).map(quantise).collect();
        out.extend((0..rows).map(|r| twin_row(ty, &weights[r * row_bytes..][..row_bytes], x, &xq)));
    }
    out
}

fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{what}: output {i} is {found:e}, not {expected:e}");
    }
}

fn computes() -> Vec<Compute> {
    let each = |isa| [1, 2].map(|threads| Compute::new(isa, threads).unwrap());
    Isa::available().into_iter().flat_map(each).collect()
}

/// Compares all instruction sets and thread counts with the twin for some shapes and numbers of tokens.
fn check_type(ty: GgmlType) {
    let computes = computes();
    let unit = ty.block_len();
    let mut random = Random(u64::from(ty.id()));
    for rows in [1, 16, 37, 64] {
        let cols = if unit == 1 {
            [1, 37, 64, 100][rows % 4]
        } else {
            unit * (1 + random.below(if unit == 32 { 7 } else { 3 }))
        };
        let bytes = weights(&mut random, ty, rows * cols);
        let x = activations(&mut random, 33 * cols);
        let expected = twin(ty, rows, cols, &bytes, &x);
        for c in &computes {
            let weight = PackedMatrix::pack(c, ty, rows, cols, &bytes).unwrap();
            for tokens in 1..=33 {
                let mut activations = Activations::with_floats();
                activations.reset(tokens, cols);
                activations.quantize(c, &x[..tokens * cols]);
                let mut out = vec![f32::NAN; tokens * rows];
                matmul(
                    c,
                    &activations,
                    &mut [MatmulJob { weight: &weight, bias: None, out: &mut out, add: false }],
                );
                let what = format!(
                    "{ty} {rows}x{cols}, {tokens} tokens, {}, {} threads",
                    c.isa(),
                    c.pool().threads()
                );
                assert_same(&out, &expected[..tokens * rows], &what);
            }
        }
    }
}

macro_rules! every_isa_equals_the_twin {
    ($($test:ident: $ty:ident),+) => {
        mod every_isa_equals_the_twin {
            $(#[test]
            fn $test() {
                super::check_type(super::GgmlType::$ty);
            })+
        }
    };
}

every_isa_equals_the_twin! {
    f32: F32, f16: F16, bf16: BF16, q4_0: Q4_0, q4_1: Q4_1, q5_0: Q5_0, q5_1: Q5_1, q8_0: Q8_0, q2_k: Q2_K,
    q3_k: Q3_K, q4_k: Q4_K, q5_k: Q5_K, q6_k: Q6_K, iq4_nl: IQ4_NL, mxfp4: MXFP4, iq2_xxs: IQ2_XXS, iq2_xs: IQ2_XS, iq2_s: IQ2_S,
    iq3_xxs: IQ3_XXS, iq3_s: IQ3_S, iq1_s: IQ1_S, iq1_m: IQ1_M, iq4_xs: IQ4_XS, tq1_0: TQ1_0, tq2_0: TQ2_0
}

#[test]
fn extreme_codes_do_not_saturate() {
    // All codes at their ends against activations at theirs, where 16-bit sums of pairs are largest.
    for ty in GgmlType::all().filter(|ty| ty.layout().is_some()) {
        let cols = 256;
        for byte in [0u8, 0x7f, 0x80, 0xff] {
            let mut random = Random(1);
            let mut bytes = weights(&mut random, ty, 16 * cols);
            let scales = weights(&mut random, ty, 16 * cols);
            bytes.fill(byte);
            // Keep the float fields, which 0xff would make NaN.
            let kept: Vec<(usize, u8)> = match ty {
                GgmlType::MXFP4 => vec![(0, 0xff)],
                GgmlType::IQ1_M => IQ1_M_SCALE.map(|at| (at, 0xf0)).to_vec(),
                _ => halves(ty).iter().flat_map(|&at| [(at, 0xff), (at + 1, 0xff)]).collect(),
            };
            for (block, scales) in
                bytes.chunks_exact_mut(ty.block_bytes()).zip(scales.chunks_exact(ty.block_bytes()))
            {
                kept.iter().for_each(|&(at, mask)| block[at] = block[at] & !mask | scales[at] & mask);
            }
            let x: Vec<f32> = [1.0f32, -1.0].into_iter().flat_map(|x| vec![x; cols]).collect();
            let expected = twin(ty, 16, cols, &bytes, &x);
            for c in computes() {
                let weight = PackedMatrix::pack(&c, ty, 16, cols, &bytes).unwrap();
                let mut activations = Activations::new();
                activations.reset(2, cols);
                activations.quantize(&c, &x);
                let mut out = vec![0.0; 32];
                matmul(
                    &c,
                    &activations,
                    &mut [MatmulJob { weight: &weight, bias: None, out: &mut out, add: false }],
                );
                assert_same(&out, &expected, &format!("{ty}, bytes {byte:#x}, {}", c.isa()));
            }
        }
    }
}

#[test]
fn bias_is_added_last_and_add_keeps_what_was_there() {
    let (rows, cols, tokens) = (37, 64, 18);
    let mut random = Random(7);
    let bytes = weights(&mut random, GgmlType::Q4_1, rows * cols);
    let x = activations(&mut random, tokens * cols);
    let bias: Vec<f32> = (0..rows).map(|_| random.float()).collect();
    let old: Vec<f32> = (0..rows * tokens).map(|_| random.float()).collect();
    let product = twin(GgmlType::Q4_1, rows, cols, &bytes, &x);
    for c in computes() {
        let weight = PackedMatrix::pack(&c, GgmlType::Q4_1, rows, cols, &bytes).unwrap();
        let mut activations = Activations::new();
        activations.reset(tokens, cols);
        activations.quantize(&c, &x);
        for (bias, add) in [(Some(&bias[..]), false), (None, true), (Some(&bias[..]), true)] {
            let mut out = old.clone();
            matmul(&c, &activations, &mut [MatmulJob { weight: &weight, bias, out: &mut out, add }]);
            let expected: Vec<f32> = (0..rows * tokens)
                .map(|i| {
                    let sum = bias.map_or(product[i], |bias| product[i] + bias[i % rows]);
                    if add { old[i] + sum } else { sum }
                })
                .collect();
            assert_same(&out, &expected, &format!("{}, bias {}, add {add}", c.isa(), bias.is_some()));
        }
    }
}

#[test]
fn several_jobs_in_one_call_equal_each_alone() {
    let (cols, tokens) = (128, 5);
    let mut random = Random(11);
    let shapes = [(48, GgmlType::Q4_0), (5, GgmlType::F16), (33, GgmlType::Q8_0)];
    let bytes = shapes.map(|(rows, ty)| weights(&mut random, ty, rows * cols));
    let x = activations(&mut random, tokens * cols);
    for c in computes() {
        let mut activations = Activations::with_floats();
        activations.reset(tokens, cols);
        activations.fill(&c, &|row, out| out.copy_from_slice(&x[row * cols..][..cols]));
        let packed: Vec<_> = std::iter::zip(shapes, &bytes)
            .map(|((rows, ty), bytes)| PackedMatrix::pack(&c, ty, rows, cols, bytes).unwrap())
            .collect();
        let mut outs: Vec<_> = shapes.iter().map(|(rows, _)| vec![f32::NAN; rows * tokens]).collect();
        let mut jobs: Vec<_> = std::iter::zip(&packed, &mut outs)
            .map(|(weight, out)| MatmulJob { weight, bias: None, out, add: false })
            .collect();
        matmul(&c, &activations, &mut jobs);
        for (((rows, ty), bytes), out) in shapes.into_iter().zip(&bytes).zip(&outs) {
            assert_same(out, &twin(ty, rows, cols, bytes, &x), &format!("{ty} among others, {}", c.isa()));
        }
    }
}

/// Rows of segments: one row, none, several tiles, one tile.
const SEGMENTS: [usize; 5] = [1, 0, 37, 16, 3];

#[test]
fn experts_equal_the_twin_of_each_segment() {
    let (experts, cols) = ([4u32, 1, 0, 7, 2], 128);
    let tokens: usize = SEGMENTS.iter().sum();
    for (ty, rows) in [(GgmlType::Q4_0, 37), (GgmlType::Q6_K, 16), (GgmlType::MXFP4, 48), (GgmlType::F16, 5)]
    {
        let cols = cols.max(ty.block_len());
        let mut random = Random(rows as u64);
        let bytes: Vec<_> = (0..8).map(|_| weights(&mut random, ty, rows * cols)).collect();
        let bias: Vec<f32> = (0..8 * rows).map(|_| random.float()).collect();
        let x = activations(&mut random, tokens * cols);
        for c in computes() {
            let packed: Vec<_> =
                bytes.iter().map(|bytes| PackedMatrix::pack(&c, ty, rows, cols, bytes).unwrap()).collect();
            let mut activations = Activations::with_floats();
            activations.reset_segments(SEGMENTS, cols);
            activations.quantize(&c, &x);
            let mut out = vec![f32::NAN; tokens * rows];
            let job = ExpertJob { weights: &packed, bias: Some(&bias), out: &mut out };
            matmul_experts(&c, &activations, &experts, &mut [job]);
            for (&expert, segment) in experts.iter().zip(activations.segments()) {
                let x = &x[segment.start * cols..segment.end * cols];
                let mut expected = twin(ty, rows, cols, &bytes[expert as usize], x);
                for (i, value) in expected.iter_mut().enumerate() {
                    *value += bias[expert as usize * rows + i % rows];
                }
                let what = format!("{ty}, expert {expert}, {}, {} threads", c.isa(), c.pool().threads());
                assert_same(&out[segment.start * rows..segment.end * rows], &expected, &what);
            }
        }
    }
}

#[test]
fn gathered_rows_are_the_rows_they_come_from() {
    let (rows, cols, source_rows) = (33, 96, 21);
    let tokens: usize = SEGMENTS.iter().sum();
    let mut random = Random(5);
    let from: Vec<u32> = (0..tokens).map(|_| random.below(source_rows) as u32).collect();
    let x = activations(&mut random, source_rows * cols);
    let picked: Vec<f32> = from.iter().flat_map(|&row| &x[row as usize * cols..][..cols]).copied().collect();
    for ty in [GgmlType::Q5_0, GgmlType::F32] {
        let bytes = weights(&mut random, ty, rows * cols);
        let expected = twin(ty, rows, cols, &bytes, &picked);
        for c in computes() {
            let packed = vec![PackedMatrix::pack(&c, ty, rows, cols, &bytes).unwrap()];
            let (mut source, mut gathered) = (Activations::with_floats(), Activations::with_floats());
            source.reset(source_rows, cols);
            source.quantize(&c, &x);
            gathered.reset_segments(SEGMENTS, cols);
            gathered.gather(&c, &source, &from);
            let mut out = vec![f32::NAN; tokens * rows];
            let job = ExpertJob { weights: &packed, bias: None, out: &mut out };
            matmul_experts(&c, &gathered, &[0; SEGMENTS.len()], &mut [job]);
            assert_same(&out, &expected, &format!("{ty}, {}", c.isa()));
        }
    }
}

#[test]
fn a_row_that_is_not_finite_affects_only_itself() {
    let (rows, cols) = (16, 64);
    let mut random = Random(3);
    let bytes = weights(&mut random, GgmlType::Q4_0, rows * cols);
    let good = activations(&mut random, cols);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [good.clone(), good.clone()].concat();
        x[40] = bad;
        for c in computes() {
            let weight = PackedMatrix::pack(&c, GgmlType::Q4_0, rows, cols, &bytes).unwrap();
            let mut activations = Activations::new();
            activations.reset(2, cols);
            activations.quantize(&c, &x);
            let mut out = vec![0.0; 2 * rows];
            matmul(
                &c,
                &activations,
                &mut [MatmulJob { weight: &weight, bias: None, out: &mut out, add: false }],
            );
            assert!(out[..rows].iter().all(|x| x.is_nan()), "{bad} {}", c.isa());
            assert_same(&out[rows..], &twin(GgmlType::Q4_0, rows, cols, &bytes, &good), "the row beside it");
        }
    }
}

#[test]
fn malformed_tensors_are_refused() {
    let c = Compute::new(Isa::Scalar, 1).unwrap();
    let pack = |ty, rows, cols, bytes: &[u8]| PackedMatrix::pack(&c, ty, rows, cols, bytes).err().unwrap();
    assert_eq!(pack(GgmlType::F32, 0, 4, &[]), PackError::Empty { rows: 0, cols: 4 });
    let part = PackError::PartBlock { ty: GgmlType::Q4_K, cols: 128, block: 256 };
    assert_eq!(pack(GgmlType::Q4_K, 1, 128, &[0; 72]), part);
    let length = PackError::Length { ty: GgmlType::Q4_0, rows: 2, cols: 32, expected: 36, found: 35 };
    assert_eq!(pack(GgmlType::Q4_0, 2, 32, &[0; 35]), length);
    let vast = pack(GgmlType::F32, usize::MAX / 8, usize::MAX / 8, &[]);
    assert!(matches!(vast, PackError::Length { found: 0, .. }), "{vast}");
}

#[test]
fn packed_size_stays_near_the_tensor() {
    let c = Compute::new(Isa::Scalar, 1).unwrap();
    for ty in GgmlType::all() {
        let bytes = vec![0; ty.row_bytes(512).unwrap() * 32];
        let packed = PackedMatrix::pack(&c, ty, 32, 512, &bytes).unwrap();
        let ratio = packed.bytes() as f64 / bytes.len() as f64;
        // Codebook types are packed as codes of single values; `quant::Layout` says why.
        let most = match ty {
            GgmlType::IQ1_S | GgmlType::IQ1_M => 2.13,
            GgmlType::IQ2_XXS | GgmlType::IQ2_XS | GgmlType::IQ2_S => 1.61,
            GgmlType::IQ3_XXS | GgmlType::IQ3_S => 1.41,
            GgmlType::TQ1_0 => 1.23,
            _ => 1.04,
        };
        assert!((1.0..most).contains(&ratio), "{ty} grows by {ratio}");
    }
}
