//! Parses one GGUF block into its stored integers, in the order of k.

use super::{GgmlType, codebook};

/// The stored integers of a block of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Unsigned codes by k; a block of 32 uses the first 32.
    pub codes: [u8; 256],
    /// Per 32: scale and minimum (f16 bits, e8m0, or small integers; negative ones as a byte in two's complement), or for types with a scale per 16, the
    /// bytes of both halves.
    pub sub: [[u16; 2]; 8],
    /// Per block of 256: f16 bits of the scale and of the minima's scale.
    pub sup: [u16; 2],
}

impl Block {
    pub(crate) const ZERO: Self = Self { codes: [0; 256], sub: [[0; 2]; 8], sup: [0; 2] };
}

/// Parses one block. Field orders are ggml's (`ggml-common.h`, `ggml-quants.c`).
///
/// # Panics
/// When `bytes` is shorter than a block, or the type is a float.
#[must_use]
pub fn parse(ty: GgmlType, bytes: &[u8]) -> Block {
    let mut block = Block::ZERO;
    parse_into(ty, bytes, &mut block);
    block
}

pub(crate) fn parse_into(ty: GgmlType, bytes: &[u8], block: &mut Block) {
    let b = block;
    let half_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => unreachable!("{ty} has no blocks"),
        GgmlType::Q4_0 | GgmlType::IQ4_NL => {
            b.sub[0][0] = half_at(0);
            nibbles_16(&bytes[2..18], &mut b.codes);
        }
        GgmlType::MXFP4 => {
            b.sub[0][0] = u16::from(bytes[0]);
            nibbles_16(&bytes[1..17], &mut b.codes);
        }
        GgmlType::Q4_1 => {
            b.sub[0] = [half_at(0), half_at(2)];
            nibbles_16(&bytes[4..20], &mut b.codes);
        }
        GgmlType::Q5_0 => {
            b.sub[0][0] = half_at(0);
            nibbles_16(&bytes[6..22], &mut b.codes);
            fifth_bits(&bytes[2..6], &mut b.codes);
        }
        GgmlType::Q5_1 => {
            b.sub[0] = [half_at(0), half_at(2)];
            nibbles_16(&bytes[8..24], &mut b.codes);
            fifth_bits(&bytes[4..8], &mut b.codes);
        }
        GgmlType::Q8_0 => {
            b.sub[0][0] = half_at(0);
            for (code, &byte) in b.codes.iter_mut().zip(&bytes[2..34]) {
                *code = byte ^ 0x80;
            }
        }
        GgmlType::Q2_K => {
            b.sup = [half_at(80), half_at(82)];
            for (half, field) in b.sub.as_flattened_mut().iter_mut().zip(&bytes[..16]) {
                *half = u16::from(*field);
            }
            pairs_32(&bytes[16..80], &mut b.codes);
        }
        GgmlType::Q3_K => {
            b.sup[0] = half_at(108);
            scales_q3(&bytes[96..108], b.sub.as_flattened_mut());
            pairs_32(&bytes[32..96], &mut b.codes);
            bits_32(&bytes[..32], 2, &mut b.codes);
        }
        GgmlType::Q4_K => {
            b.sup = [half_at(0), half_at(2)];
            scales_mins_k(&bytes[4..16], &mut b.sub);
            nibbles_32(&bytes[16..144], &mut b.codes);
        }
        GgmlType::Q5_K => {
            b.sup = [half_at(0), half_at(2)];
            scales_mins_k(&bytes[4..16], &mut b.sub);
            nibbles_32(&bytes[48..176], &mut b.codes);
            bits_32(&bytes[16..48], 4, &mut b.codes);
        }
        GgmlType::Q6_K => {
            b.sup[0] = half_at(208);
            for (half, field) in b.sub.as_flattened_mut().iter_mut().zip(&bytes[192..208]) {
                *half = u16::from(*field);
            }
            codes_q6(&bytes[..128], &bytes[128..192], &mut b.codes);
        }
        GgmlType::IQ4_XS => {
            b.sup[0] = half_at(0);
            scales_iq4(half_at(2), &bytes[4..8], &mut b.sub);
            for (codes, qs) in b.codes.chunks_exact_mut(32).zip(bytes[8..136].chunks_exact(16)) {
                nibbles_16(qs, codes);
            }
        }
        GgmlType::TQ1_0 => {
            b.sup[0] = half_at(52);
            trits(&bytes[..32], &mut b.codes[..160]);
            trits(&bytes[32..48], &mut b.codes[160..240]);
            trits(&bytes[48..52], &mut b.codes[240..]);
        }
        GgmlType::TQ2_0 => {
            b.sup[0] = half_at(64);
            pairs_32(&bytes[..64], &mut b.codes);
        }
        GgmlType::IQ2_XXS => codebook::iq2_xxs(bytes, b),
        GgmlType::IQ2_XS => codebook::iq2_xs(bytes, b),
        GgmlType::IQ2_S => codebook::iq2_s(bytes, b),
        GgmlType::IQ3_XXS => codebook::iq3_xxs(bytes, b),
        GgmlType::IQ3_S => codebook::iq3_s(bytes, b),
        GgmlType::IQ1_S => codebook::iq1_s(bytes, b),
        GgmlType::IQ1_M => codebook::iq1_m(bytes, b),
    }
}

/// 16 bytes: low nibbles are k 0–15, high nibbles k 16–31.
fn nibbles_16(qs: &[u8], codes: &mut [u8]) {
    for (k, byte) in qs[..16].iter().enumerate() {
        codes[k] = byte & 15;
        codes[k + 16] = byte >> 4;
    }
}

/// Each byte holds one base-3 digit of every run of codes, as a fraction of 256: multiplying by 3 shifts digits out at
/// the top, the first run's first.
fn trits(qs: &[u8], codes: &mut [u8]) {
    let mut power = 1u8;
    for codes in codes.chunks_exact_mut(qs.len()) {
        for (code, byte) in codes.iter_mut().zip(qs) {
            *code = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
        }
        power = power.wrapping_mul(3);
    }
}

/// 8 scales of 6 bits, less 32: low nibbles in 4 bytes, high bit pairs in 16 bits.
fn scales_iq4(high: u16, low: &[u8], sub: &mut [[u16; 2]; 8]) {
    for (j, sub) in sub.iter_mut().enumerate() {
        let scale = low[j / 2] >> (j % 2 * 4) & 15 | ((high >> (2 * j) & 3) as u8) << 4;
        sub[0] = u16::from(scale.wrapping_sub(32));
    }
}

/// Bit k of 4 bytes is the fifth bit of code k.
fn fifth_bits(qh: &[u8], codes: &mut [u8; 256]) {
    for (k, code) in codes[..32].iter_mut().enumerate() {
        *code |= (qh[k / 8] >> (k % 8) & 1) << 4;
    }
}

/// 32 bytes per 64 codes: low nibbles are the first 32 of them.
fn nibbles_32(qs: &[u8], codes: &mut [u8; 256]) {
    for (codes, qs) in codes.chunks_exact_mut(64).zip(qs.chunks_exact(32)) {
        for (k, byte) in qs.iter().enumerate() {
            codes[k] = byte & 15;
            codes[k + 32] = byte >> 4;
        }
    }
}

/// 32 bytes per 128 codes: two bits for each of four runs of 32.
fn pairs_32(qs: &[u8], codes: &mut [u8; 256]) {
    for (codes, qs) in codes.chunks_exact_mut(128).zip(qs.chunks_exact(32)) {
        for (k, code) in codes.iter_mut().enumerate() {
            *code = qs[k % 32] >> (k / 32 * 2) & 3;
        }
    }
}

/// 32 bytes: bit s of byte j belongs to code 32 s + j.
fn bits_32(qh: &[u8], shift: usize, codes: &mut [u8; 256]) {
    for (s, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(qh) {
            *code |= (byte >> s & 1) << shift;
        }
    }
}

/// Per 128 codes: 64 bytes of nibbles (low: the first 64) and 32 bytes of bit pairs (four runs of 32).
fn codes_q6(ql: &[u8], qh: &[u8], codes: &mut [u8; 256]) {
    let halves = ql.chunks_exact(64).zip(qh.chunks_exact(32));
    for (codes, (ql, qh)) in codes.chunks_exact_mut(128).zip(halves) {
        for (k, code) in codes.iter_mut().enumerate() {
            let low = ql[k % 64] >> (k / 64 * 4) & 15;
            *code = low | (qh[k % 32] >> (k / 32 * 2) & 3) << 4;
        }
    }
}

/// 8 scales and 8 minima of 6 bits in 12 bytes.
fn scales_mins_k(packed: &[u8], sub: &mut [[u16; 2]; 8]) {
    for (j, sub) in sub.iter_mut().enumerate() {
        let [scale, min] = if j < 4 {
            [packed[j] & 63, packed[j + 4] & 63]
        } else {
            let both = packed[j + 4];
            [both & 15 | (packed[j - 4] >> 6) << 4, both >> 4 | (packed[j] >> 6) << 4]
        };
        *sub = [u16::from(scale), u16::from(min)];
    }
}

/// 16 scales of 6 bits, less 32, in 12 bytes: 4 low bits first, then the 2 high ones.
fn scales_q3(packed: &[u8], scales: &mut [u16]) {
    for (j, scale) in scales.iter_mut().enumerate() {
        let low = packed[j % 8] >> (j / 8 * 4) & 15;
        let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        *scale = u16::from((low | high << 4).wrapping_sub(32));
    }
}
