//! The types of GGUF weights: their sizes, and the values of their blocks.
//!
//! Nothing here is optimised for speed. These are the reference definitions of the packed kernels, checked against the
//! `gguf` Python package. `Block` holds a block's stored integers, so packing reorders them without rounding.

mod block;
mod codebook;
mod layout;

pub(crate) use block::parse_into;
pub use block::{Block, parse};
pub use layout::{Layout, Scales};
pub(crate) use layout::{exponent, half};

/// A tensor's element type, named and numbered as in GGUF.
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima per 16, two halves per 256.
    Q2_K,
    /// 3 bits, 6-bit scales per 16, one half per 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minima per 32, two halves per 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima per 32, two halves per 256.
    Q5_K,
    /// 6 bits, 8-bit scales per 16, one half per 256.
    Q6_K,
    /// 4 bits into a table of 16 values, one scale per 32.
    IQ4_NL,
    /// 4-bit floats (e2m1), one power of two per 32.
    MXFP4,
    /// Codebook of 8 values in {8, 25, 43}, signs of even parity; 4-bit scale per 32.
    IQ2_XXS,
    /// As IQ2_XXS with a larger codebook; 4-bit scale per 16.
    IQ2_XS,
    /// As IQ2_XS with a still larger codebook and any signs.
    IQ2_S,
    /// Codebook of 4 values in {4, 12, …, 62}, signs of even parity; 4-bit scale per 32.
    IQ3_XXS,
    /// Codebook of 4 odd values up to 15, any signs; 4-bit scale per 32.
    IQ3_S,
    /// Codebook of 8 values in {-1, 0, 1}, shifted by an eighth up or down; 3-bit scale per 32.
    IQ1_S,
    /// As IQ1_S with the direction of the shift per 8 and the scale per 16.
    IQ1_M,
    /// 4 bits into the table of IQ4_NL, 6-bit scale per 32, one half per 256.
    IQ4_XS,
    /// Ternary, five values per byte; one half per 256.
    TQ1_0,
    /// Ternary, 2 bits per value; one half per 256.
    TQ2_0,
}

/// Every type with its GGUF id, name, elements per block and bytes per block.
const TYPES: [(GgmlType, u32, &str, usize, usize); 25] = [
    (GgmlType::F32, 0, "F32", 1, 4),
    (GgmlType::F16, 1, "F16", 1, 2),
    (GgmlType::BF16, 30, "BF16", 1, 2),
    (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
    (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
    (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
    (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
    (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
    (GgmlType::Q2_K, 10, "Q2_K", 256, 84),
    (GgmlType::Q3_K, 11, "Q3_K", 256, 110),
    (GgmlType::Q4_K, 12, "Q4_K", 256, 144),
    (GgmlType::Q5_K, 13, "Q5_K", 256, 176),
    (GgmlType::Q6_K, 14, "Q6_K", 256, 210),
    (GgmlType::IQ4_NL, 20, "IQ4_NL", 32, 18),
    (GgmlType::MXFP4, 39, "MXFP4", 32, 17),
    (GgmlType::IQ2_XXS, 16, "IQ2_XXS", 256, 66),
    (GgmlType::IQ2_XS, 17, "IQ2_XS", 256, 74),
    (GgmlType::IQ2_S, 22, "IQ2_S", 256, 82),
    (GgmlType::IQ3_XXS, 18, "IQ3_XXS", 256, 98),
    (GgmlType::IQ3_S, 21, "IQ3_S", 256, 110),
    (GgmlType::IQ1_S, 19, "IQ1_S", 256, 50),
    (GgmlType::IQ1_M, 29, "IQ1_M", 256, 56),
    (GgmlType::IQ4_XS, 23, "IQ4_XS", 256, 136),
    (GgmlType::TQ1_0, 34, "TQ1_0", 256, 54),
    (GgmlType::TQ2_0, 35, "TQ2_0", 256, 66),
];

impl GgmlType {
    /// Every type that this crate knows.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.into_iter().map(|entry| entry.0)
    }

    /// The type with this id in a GGUF tensor record; `None` if it is not supported.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|entry| entry.1 == id).map(|entry| entry.0)
    }

    fn entry(self) -> &'static (Self, u32, &'static str, usize, usize) {
        // The table is in the order of the enum (a test says so).
        &TYPES[self as usize]
    }

    /// Its id in a GGUF tensor record.
    #[must_use]
    pub fn id(self) -> u32 {
        self.entry().1
    }

    /// Its name as llama.cpp writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().2
    }

    /// Elements per block: 1, 32 or 256.
    #[must_use]
    pub fn block_len(self) -> usize {
        self.entry().3
    }

    /// Bytes per block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.entry().4
    }

    /// Bytes of a row of `cols` elements; `None` when that isn't a whole number of blocks or overflows.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len())
            .then(|| (cols / self.block_len()).checked_mul(self.block_bytes()))?
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the values of whole blocks to `out`, exactly as `gguf.quants.dequantize` does.
///
/// # Panics
/// When `bytes` isn't exactly the blocks of `out.len()` elements.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        ty.row_bytes(out.len()),
        Some(bytes.len()),
        "{ty}: {} bytes for {} elements",
        bytes.len(),
        out.len()
    );
    let blocks = bytes.chunks_exact(ty.block_bytes());
    match ty.layout() {
        None => {
            for (value, bytes) in out.iter_mut().zip(blocks) {
                *value = float(ty, bytes);
            }
        }
        Some(layout) => {
            for (values, bytes) in out.chunks_exact_mut(ty.block_len()).zip(blocks) {
                layout.values(&parse(ty, bytes), values);
            }
        }
    }
}

/// One element of a float type.
pub(crate) fn float(ty: GgmlType, bytes: &[u8]) -> f32 {
    match (ty, bytes) {
        (GgmlType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
        (GgmlType::BF16, &[a, b]) => f32::from_bits(u32::from(u16::from_le_bytes([a, b])) << 16),
        (GgmlType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("{ty} with {} bytes is no float", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for ty in GgmlType::all() {
            assert_eq!(ty.entry().0, ty);
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
        }
    }

    #[test]
    fn row_bytes_refuses_part_blocks_and_overflow() {
        assert_eq!(GgmlType::Q4_0.row_bytes(64), Some(36));
        assert_eq!(GgmlType::Q4_0.row_bytes(48), None);
        assert_eq!(GgmlType::F32.row_bytes(usize::MAX), None);
    }
}
