//! The packed form of each quantised type: bit planes for the codes, and a kind of scales.
//!
//! One description serves packing, dequantising and the kernels, which see it as a constant. Types with a codebook of
//! vectors (IQ1, IQ2, IQ3) are packed as codes of single values, because few values occur: 3 bits for 1 and 2 bits, 4
//! for 3. That takes more memory than the file (IQ1_S 3.3 bits per weight for 1.6, IQ2_XXS 3.3 for 2.1, IQ3_XXS 4.3 for
//! 3.1) and in return needs no lookup of vectors in the inner loop: these types run on the kernels of the others.

use super::GgmlType;
use super::block::Block;

/// The scales that go with the codes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// An f16 scale per 32; `min`: also an f16 minimum that is added.
    Half {
        /// Whether there are minima.
        min: bool,
    },
    /// A power of two per 32 (e8m0), taken times one half.
    Exponent,
    /// An f16 scale per 256.
    Whole,
    /// Per 256 an f16 scale, per 32 a signed integer scale.
    Signed,
    /// Per 256 an f16 scale and an f16 scale of the minima, per 32 an integer for each of them.
    Super,
    /// Per 256 an f16 scale; per 16 a signed integer scale. `min`: instead, scale (low 4 bits) and minimum
    /// (high 4 bits) per 16, and a second f16 for the minima.
    Pair {
        /// Whether there are minima.
        min: bool,
    },
}

/// The packed form and the meaning of a quantised type's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bits of a code in the first plane: 2, 4 or 8.
    pub low_bits: usize,
    /// Further bits in the second plane: 0, 1 or 2.
    pub high_bits: usize,
    /// Subtracted from the code (after the table, if any): 0 or a power of two.
    pub zero: u8,
    /// Values of the codes, plus `zero`.
    pub table: Option<&'static [u8; 16]>,
    /// The kind of scales.
    pub scales: Scales,
    /// The f16 scale of a block of 256 is divided by two to this power.
    pub scale_shift: u32,
}

/// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113; plus 128.
static IQ4_NL: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// Twice the e2m1 values: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives; plus 16.
static E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

/// ±8, ±25 and ±43 by index and sign; plus 64.
static IQ2: [u8; 16] = [72, 89, 107, 64, 56, 39, 21, 64, 64, 64, 64, 64, 64, 64, 64, 64];
/// ±4, ±12, ±20, ±28, ±36, ±44, ±52 and ±62; plus 64.
static IQ3_XXS: [u8; 16] = [68, 76, 84, 92, 100, 108, 116, 126, 60, 52, 44, 36, 28, 20, 12, 2];
/// ±1, ±3, ±5, ±7, ±9, ±11, ±13 and ±15; plus 16.
static IQ3_S: [u8; 16] = [17, 19, 21, 23, 25, 27, 29, 31, 15, 13, 11, 9, 7, 5, 3, 1];
/// Eight times -1, 0 and 1 shifted by an eighth up: -7, 1, 9, or down: -9, -1, 7; plus 16.
static IQ1: [u8; 16] = [9, 17, 25, 16, 7, 15, 23, 16, 16, 16, 16, 16, 16, 16, 16, 16];

/// 3-bit codes into a table, as the IQ types of 1 and 2 bits are packed.
const THREE_BITS: Layout =
    Layout { low_bits: 2, high_bits: 1, scales: Scales::Signed, scale_shift: 3, ..PLAIN };
const PLAIN: Layout = Layout {
    low_bits: 4,
    high_bits: 0,
    zero: 0,
    table: None,
    scales: Scales::Half { min: false },
    scale_shift: 0,
};

impl GgmlType {
    /// The layout of a quantised type; `None` for F32, F16 and BF16.
    #[must_use]
    pub const fn layout(self) -> Option<Layout> {
        Some(match self {
            Self::F32 | Self::F16 | Self::BF16 => return None,
            Self::Q4_0 => Layout { zero: 8, ..PLAIN },
            Self::Q4_1 => Layout { scales: Scales::Half { min: true }, ..PLAIN },
            Self::Q5_0 => Layout { high_bits: 1, zero: 16, ..PLAIN },
            Self::Q5_1 => Layout { high_bits: 1, scales: Scales::Half { min: true }, ..PLAIN },
            Self::Q8_0 => Layout { low_bits: 8, zero: 128, ..PLAIN },
            Self::Q2_K => Layout { low_bits: 2, scales: Scales::Pair { min: true }, ..PLAIN },
            Self::Q3_K => {
                Layout { low_bits: 2, high_bits: 1, zero: 4, scales: Scales::Pair { min: false }, ..PLAIN }
            }
            Self::Q4_K => Layout { scales: Scales::Super, ..PLAIN },
            Self::Q5_K => Layout { high_bits: 1, scales: Scales::Super, ..PLAIN },
            Self::Q6_K => Layout { high_bits: 2, zero: 32, scales: Scales::Pair { min: false }, ..PLAIN },
            Self::IQ4_NL => Layout { zero: 128, table: Some(&IQ4_NL), ..PLAIN },
            Self::MXFP4 => Layout { zero: 16, table: Some(&E2M1), scales: Scales::Exponent, ..PLAIN },
            Self::IQ2_XXS => Layout { zero: 64, table: Some(&IQ2), ..THREE_BITS },
            Self::IQ2_XS | Self::IQ2_S => {
                Layout { zero: 64, table: Some(&IQ2), scales: Scales::Pair { min: false }, ..THREE_BITS }
            }
            Self::IQ3_XXS => {
                Layout { zero: 64, table: Some(&IQ3_XXS), scales: Scales::Signed, scale_shift: 2, ..PLAIN }
            }
            Self::IQ3_S => Layout { zero: 16, table: Some(&IQ3_S), scales: Scales::Signed, ..PLAIN },
            Self::IQ1_S => Layout { zero: 16, table: Some(&IQ1), ..THREE_BITS },
            Self::IQ1_M => {
                Layout { zero: 16, table: Some(&IQ1), scales: Scales::Pair { min: false }, ..THREE_BITS }
            }
            Self::IQ4_XS => Layout { zero: 128, table: Some(&IQ4_NL), scales: Scales::Signed, ..PLAIN },
            Self::TQ1_0 | Self::TQ2_0 => Layout { low_bits: 2, zero: 1, scales: Scales::Whole, ..PLAIN },
        })
    }
}

impl Layout {
    /// 32-blocks that share a record: 1, or 8 for the 256-wide types.
    #[must_use]
    pub const fn subs(&self) -> usize {
        match self.scales {
            Scales::Half { .. } | Scales::Exponent => 1,
            Scales::Whole | Scales::Signed | Scales::Super | Scales::Pair { .. } => 8,
        }
    }

    /// Number of f16 fields per row at the start of a record.
    pub(crate) const fn super_fields(&self) -> usize {
        match self.scales {
            Scales::Half { .. } | Scales::Exponent => 0,
            Scales::Super | Scales::Pair { min: true } => 2,
            Scales::Whole | Scales::Signed | Scales::Pair { min: false } => 1,
        }
    }

    /// Number of fields per row after the codes of a 32-block, and the bytes of each.
    pub(crate) const fn sub_fields(&self) -> (usize, usize) {
        match self.scales {
            Scales::Half { min } => (1 + min as usize, 2),
            Scales::Whole => (0, 1),
            Scales::Exponent | Scales::Signed => (1, 1),
            Scales::Super | Scales::Pair { .. } => (2, 1),
        }
    }

    /// Bytes of the codes of 16 rows × 32.
    pub(crate) const fn plane_bytes(&self) -> usize {
        (self.low_bits + self.high_bits) * 64
    }

    /// Bytes of a 32-block of 16 rows: planes, then fields.
    pub(crate) const fn sub_bytes(&self) -> usize {
        let (count, width) = self.sub_fields();
        self.plane_bytes() + 16 * count * width
    }

    /// Bytes of a record: what 16 rows × one GGUF block become.
    #[must_use]
    pub const fn record_bytes(&self) -> usize {
        32 * self.super_fields() + self.subs() * self.sub_bytes()
    }

    /// The factor of the f16 scale of a block of 256: a power of two, so multiplying by it is exact.
    #[must_use]
    pub const fn scale_factor(&self) -> f32 {
        1.0 / (1u32 << self.scale_shift) as f32
    }

    /// The integer that a code stands for: what the kernels' dot products multiply.
    #[must_use]
    pub fn integer(&self, code: u8) -> i32 {
        let code = self.table.map_or(code, |table| table[usize::from(code & 15)]);
        i32::from(code) - i32::from(self.zero)
    }

    /// The values of a block, in the operations and the order of `gguf.quants`.
    pub(crate) fn values(&self, block: &Block, out: &mut [f32]) {
        for (k, out) in out.iter_mut().enumerate() {
            let q = self.integer(block.codes[k]) as f32;
            let [a, b] = block.sub[k / 32];
            let [d, dmin] = [half(block.sup[0]) * self.scale_factor(), half(block.sup[1])];
            *out = match self.scales {
                Scales::Half { min: false } => half(a) * q,
                Scales::Half { min: true } => half(a) * q + half(b),
                Scales::Exponent => exponent(a as u8) * q,
                Scales::Whole => d * q,
                Scales::Signed => (d * f32::from(a as u8 as i8)) * q,
                Scales::Super => (d * f32::from(a)) * q - dmin * f32::from(b),
                Scales::Pair { min } => {
                    let field = [a, b][k / 16 % 2] as u8;
                    if min {
                        (d * f32::from(field & 15)) * q - dmin * f32::from(field >> 4)
                    } else {
                        (d * f32::from(field as i8)) * q
                    }
                }
            };
        }
    }
}

/// An f16 by its bits.
#[must_use]
pub(crate) fn half(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

/// Half of the power of two that an e8m0 byte stands for: 2^(e - 128), ggml's `E8M0_TO_FP32_HALF`.
#[must_use]
pub(crate) fn exponent(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}
