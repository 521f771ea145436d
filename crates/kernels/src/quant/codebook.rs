//! Reading blocks of the IQ types of 1 to 3 bits, whose codes come from codebooks of 8 or 4 values.
//!
//! A block stores an index into a codebook per 8 (or 4) weights. Here each weight becomes a code of its own, by which
//! `Layout` finds its value: the index of its magnitude, and its sign (or, for IQ1, the direction of the shift) as the
//! next bit. Field orders are ggml's (`ggml-common.h`, `ggml-quants.c`).
//!
//! The codebooks are ggml's (MIT licence), in `codebooks/`, written by `make_codebooks.py` from the `gguf` Python
//! package. They cannot be computed: they were chosen by how often vectors occur in real models.

use super::Block;

/// A codebook: per vector the index of each of its magnitudes, the first in the lowest bits.
type Codebook<const N: usize> = [u16; N];

/// Vectors of 8 magnitudes, 2 bits each.
static IQ2_XXS: Codebook<256> = read(include_str!("codebooks/iq2_xxs.txt"));
static IQ2_XS: Codebook<512> = read(include_str!("codebooks/iq2_xs.txt"));
static IQ2_S: Codebook<1024> = read(include_str!("codebooks/iq2_s.txt"));
static IQ1_S: Codebook<2048> = read(include_str!("codebooks/iq1_s.txt"));
/// Vectors of 4 magnitudes, 3 bits each.
static IQ3_XXS: Codebook<256> = read(include_str!("codebooks/iq3_xxs.txt"));
static IQ3_S: Codebook<512> = read(include_str!("codebooks/iq3_s.txt"));

/// Reads a codebook at compile time: 4 hexadecimal digits per vector, after comment lines that start with `#`.
const fn read<const N: usize>(text: &str) -> Codebook<N> {
    let (bytes, mut at, mut digits, mut words) = (text.as_bytes(), 0, 0, [0; N]);
    let mut comment = false;
    while at < bytes.len() {
        match bytes[at] {
            b'#' => comment = true,
            b'\n' => comment = false,
            byte if !comment && byte.is_ascii_hexdigit() => {
                let digit = if byte.is_ascii_digit() { byte - b'0' } else { byte - b'a' + 10 };
                words[digits / 4] = words[digits / 4] << 4 | digit as u16;
                digits += 1;
            }
            _ => {}
        }
        at += 1;
    }
    assert!(digits == 4 * N, "a codebook of another length");
    words
}

/// Writes the 8 codes of a vector; bit k of `signs` is the sign of code k.
fn eight(vector: u16, signs: u8, codes: &mut [u8]) {
    for (k, code) in codes.iter_mut().enumerate() {
        *code = (vector >> (2 * k) & 3) as u8 | (signs >> k & 1) << 2;
    }
}

/// Writes the 8 codes of two vectors of 4; bit k of `signs` is the sign of code k.
fn twice_four(vectors: [u16; 2], signs: u8, codes: &mut [u8]) {
    for (k, code) in codes.iter_mut().enumerate() {
        *code = (vectors[k / 4] >> (3 * (k % 4)) & 7) as u8 | (signs >> k & 1) << 3;
    }
}

/// 8 signs of which the last makes their number even, from the first 7.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// `2 s + 1` for a scale of which the block stores `s`.
fn odd(scale: u8) -> u16 {
    2 * u16::from(scale) + 1
}

fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Scales of 4 bits per 16, two in a byte.
fn scales_16(bytes: &[u8], sub: &mut [[u16; 2]; 8]) {
    for (sub, byte) in sub.iter_mut().zip(bytes) {
        *sub = [odd(byte & 15), odd(byte >> 4)];
    }
}

/// Scale; per 32: 4 indices, then 4 times 7 signs and a scale of 4 bits.
pub(super) fn iq2_xxs(bytes: &[u8], b: &mut Block) {
    b.sup[0] = half_at(bytes, 0);
    let blocks = bytes[2..66].chunks_exact(8);
    for ((codes, sub), bytes) in b.codes.chunks_exact_mut(32).zip(&mut b.sub).zip(blocks) {
        let word = word_at(bytes, 4);
        sub[0] = odd((word >> 28) as u8);
        for (l, codes) in codes.chunks_exact_mut(8).enumerate() {
            eight(IQ2_XXS[usize::from(bytes[l])], even_signs(word >> (7 * l)), codes);
        }
    }
}

/// Scale; per 8: 9 bits of index and 7 signs; scales of 4 bits per 16.
pub(super) fn iq2_xs(bytes: &[u8], b: &mut Block) {
    b.sup[0] = half_at(bytes, 0);
    for (l, codes) in b.codes.chunks_exact_mut(8).enumerate() {
        let word = half_at(bytes, 2 + 2 * l);
        eight(IQ2_XS[usize::from(word & 511)], even_signs(u32::from(word >> 9)), codes);
    }
    scales_16(&bytes[66..74], &mut b.sub);
}

/// Scale; per 8: 8 low bits of index; per 8: 8 signs; per 8: 2 high bits of index; scales of 4 bits per 16.
pub(super) fn iq2_s(bytes: &[u8], b: &mut Block) {
    b.sup[0] = half_at(bytes, 0);
    for (l, codes) in b.codes.chunks_exact_mut(8).enumerate() {
        let high = usize::from(bytes[66 + l / 4] >> (l % 4 * 2) & 3);
        eight(IQ2_S[usize::from(bytes[2 + l]) | high << 8], bytes[34 + l], codes);
    }
    scales_16(&bytes[74..82], &mut b.sub);
}

/// Scale; per 4: index; per 32: 4 times 7 signs and a scale of 4 bits.
pub(super) fn iq3_xxs(bytes: &[u8], b: &mut Block) {
    b.sup[0] = half_at(bytes, 0);
    for (l, codes) in b.codes.chunks_exact_mut(8).enumerate() {
        let word = word_at(bytes, 66 + 4 * (l / 4));
        b.sub[l / 4][0] = odd((word >> 28) as u8);
        let vectors = [2 + 2 * l, 3 + 2 * l].map(|at| IQ3_XXS[usize::from(bytes[at])]);
        twice_four(vectors, even_signs(word >> (l % 4 * 7)), codes);
    }
}

/// Scale; per 4: 8 low bits of index; per 4: high bit of index; per 8: signs; scales of 4 bits per 32.
pub(super) fn iq3_s(bytes: &[u8], b: &mut Block) {
    b.sup[0] = half_at(bytes, 0);
    for (l, codes) in b.codes.chunks_exact_mut(8).enumerate() {
        let vectors = [2 * l, 2 * l + 1].map(|i| {
            let high = usize::from(bytes[66 + i / 8] >> (i % 8) & 1);
            IQ3_S[usize::from(bytes[2 + i]) | high << 8]
        });
        twice_four(vectors, bytes[74 + l], codes);
    }
    for (j, sub) in b.sub.iter_mut().enumerate() {
        sub[0] = odd(bytes[106 + j / 2] >> (j % 2 * 4) & 15);
    }
}

/// Scale; per 8: 8 low bits of index; per 32: 4 times 3 high bits, a scale of 3 bits and the shift's direction.
pub(super) fn iq1_s(bytes: &[u8], b: &mut Block) {
    b.sup[0] = half_at(bytes, 0);
    for (l, codes) in b.codes.chunks_exact_mut(8).enumerate() {
        let word = half_at(bytes, 34 + 2 * (l / 4));
        b.sub[l / 4][0] = odd((word >> 12 & 7) as u8);
        let high = usize::from(word >> (l % 4 * 3) & 7);
        let down = if word >> 15 == 0 { 0 } else { 0xff };
        eight(IQ1_S[usize::from(bytes[2 + l]) | high << 8], down, codes);
    }
}

/// Per 8: 8 low bits of index; per 8: 3 high bits and the shift's direction; per 16: scales of 3 bits, four in 16 bits,
/// whose highest 4 bits are a quarter of the f16 scale.
pub(super) fn iq1_m(bytes: &[u8], b: &mut Block) {
    let words = [48, 50, 52, 54].map(|at| half_at(bytes, at));
    b.sup[0] = words.iter().enumerate().fold(0, |half, (i, word)| half | word >> 12 << (4 * i));
    for (l, codes) in b.codes.chunks_exact_mut(8).enumerate() {
        let nibble = bytes[32 + l / 2] >> (l % 2 * 4);
        let down = if nibble & 8 == 0 { 0 } else { 0xff };
        eight(IQ1_S[usize::from(bytes[l]) | usize::from(nibble & 7) << 8], down, codes);
    }
    for (i, scale) in b.sub.as_flattened_mut().iter_mut().enumerate() {
        *scale = odd((words[i / 4] >> (i % 4 * 3) & 7) as u8);
    }
}
