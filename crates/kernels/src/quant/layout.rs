//! How each quantised type is taken apart: bit planes for the codes, and a kind of scales.
//!
//! One description serves packing, dequantising and the kernels, which see it as a constant.

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
    /// Per 256 an f16 scale and an f16 scale of the minima, per 32 an integer for each of them.
    Super,
    /// Per 256 an f16 scale; per 16 a signed integer scale. `min`: instead, scale (low 4 bits) and minimum
    /// (high 4 bits) per 16, and a second f16 for the minima.
    Pair {
        /// Whether there are minima.
        min: bool,
    },
}

/// How the weights of a quantised type are stored once packed, and what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bits of a code in the first plane: 2, 4 or 8.
    pub low_bits: usize,
    /// Further bits in the second plane: 0, 1 or 2.
    pub high_bits: usize,
    /// Taken off the code (after the table, if any): 0 or a power of two.
    pub zero: u8,
    /// Values of the codes, plus `zero`.
    pub table: Option<&'static [u8; 16]>,
    /// The kind of scales.
    pub scales: Scales,
}

/// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113; plus 128.
static IQ4_NL: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// Twice the e2m1 values: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives; plus 16.
static E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

const PLAIN: Layout =
    Layout { low_bits: 4, high_bits: 0, zero: 0, table: None, scales: Scales::Half { min: false } };

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
        })
    }
}

impl Layout {
    /// 32-blocks that share a record: 1, or 8 for the 256-wide types.
    #[must_use]
    pub const fn subs(&self) -> usize {
        match self.scales {
            Scales::Half { .. } | Scales::Exponent => 1,
            Scales::Super | Scales::Pair { .. } => 8,
        }
    }

    /// Number of f16 fields per row at the start of a record.
    pub(crate) const fn super_fields(&self) -> usize {
        match self.scales {
            Scales::Half { .. } | Scales::Exponent => 0,
            Scales::Super | Scales::Pair { min: true } => 2,
            Scales::Pair { min: false } => 1,
        }
    }

    /// Number of fields per row after the codes of a 32-block, and the bytes of each.
    pub(crate) const fn sub_fields(&self) -> (usize, usize) {
        match self.scales {
            Scales::Half { min } => (1 + min as usize, 2),
            Scales::Exponent => (1, 1),
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
            let [d, dmin] = [half(block.sup[0]), half(block.sup[1])];
            *out = match self.scales {
                Scales::Half { min: false } => half(a) * q,
                Scales::Half { min: true } => half(a) * q + half(b),
                Scales::Exponent => exponent(a as u8) * q,
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
