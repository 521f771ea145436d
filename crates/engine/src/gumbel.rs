//! Gumbel noise over the vocabulary, and the token with the largest logit plus noise.
//!
//! The token with the largest log-probability plus independent Gumbel noise is a draw from the distribution (Gumbel-max,
//! or an exponential race). Because the noise of a token does not depend on the distribution, whoever knows the noise
//! and a similar distribution mostly finds the same token (Daliri, Musco, Suresh, arXiv 2408.07978). The invariant:
//! noise is canonical, a function of key and token id in fixed f64 operations, so it has the same bits on every machine.
//!
//! The arrival times of the race are made in two levels, so that a draw need not touch the whole vocabulary: the first
//! arrival in a block of 64 tokens is an exponential of rate 64 at a uniform place, and as an exponential has no memory,
//! the others follow that one by exponentials of rate 1. Every token's arrival is then exponential of rate 1 and independent
//! of the others', and one number bounds the noise of a block.

use std::f64::consts::LN_2;

use crate::logit_blocks::{BLOCK, BLOCK_BITS, Floor, LogitBlocks};
use crate::random::mix;

/// The streams of random numbers of a key: for blocks and for tokens.
const OF_BLOCKS: u64 = 0x6A09_E667_F3BC_C908;
const OF_TOKENS: u64 = 0xBB67_AE85_84CA_A73B;
/// Distance of the numbers of a stream (SplitMix64).
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;
/// Bits of a random number that make its exponential.
const PRECISION: u32 = 52;
/// Above the rounding error of a logarithm, by far.
const SLACK: f64 = 1e-9;
/// `ln 64`: the noise of a block is that much larger than that of a token.
const LN_BLOCK: f64 = BLOCK_BITS as f64 * LN_2;

/// The noise of one draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noise {
    blocks: u64,
    tokens: u64,
}

impl Noise {
    /// The noise of draw number `draw` with `seed`.
    pub(crate) fn new(seed: u64, draw: u64) -> Noise {
        let key = mix(mix(seed).wrapping_add(draw.wrapping_mul(STRIDE)));
        Noise { blocks: mix(key ^ OF_BLOCKS), tokens: mix(key ^ OF_TOKENS) }
    }

    /// The Gumbel noise of a token.
    pub(crate) fn of(self, token: u32) -> f64 {
        let block = self.block(token / BLOCK as u32);
        if block.first == token {
            return gumbel(block.arrival());
        }
        gumbel(block.arrival() + exponential(self.bits_of(token)))
    }

    /// The token with the largest logit plus noise among those that `floor` admits, the smaller id of equals; 0 if no
    /// logit is above minus infinity. `blocks` are those of `logits`.
    pub(crate) fn argmax(self, logits: &[f32], blocks: &LogitBlocks, floor: Floor) -> u32 {
        let mut best = Best { score: f64::NEG_INFINITY, token: 0 };
        // Whoever wins is mostly near the largest logit, and a good score first spares the rest.
        let start = blocks.largest();
        self.search(logits, start, floor, &mut best);
        for (at, &max) in blocks.maxima().iter().enumerate() {
            if max < floor.logit || at == start {
                continue;
            }
            let bound = LN_BLOCK + bound(mix_at(self.blocks, at as u32));
            if f64::from(max) + bound >= best.score {
                self.search(logits, at, floor, &mut best);
            }
        }
        best.token
    }

    /// Looks for a better token in a block.
    fn search(self, logits: &[f32], at: usize, floor: Floor, best: &mut Best) {
        let block = self.block(at as u32);
        let (arrival, ids) = (block.arrival(), (at * BLOCK) as u32..);
        let first = gumbel(arrival);
        for (&logit, token) in logits[at * BLOCK..].iter().take(BLOCK).zip(ids) {
            if !floor.admits(logit, token) || f64::from(logit) + first + SLACK < best.score {
                continue;
            }
            if token == block.first {
                best.offer(f64::from(logit) + first, token);
                continue;
            }
            let bits = self.bits_of(token);
            if f64::from(logit) + bound(bits) >= best.score {
                best.offer(f64::from(logit) + gumbel(arrival + exponential(bits)), token);
            }
        }
    }

    fn block(self, at: u32) -> Block {
        let bits = mix_at(self.blocks, at);
        // The low bits have no part in the exponential.
        Block { bits, first: at * BLOCK as u32 + (bits % BLOCK as u64) as u32 }
    }

    fn bits_of(self, token: u32) -> u64 {
        mix_at(self.tokens, token)
    }
}

/// The random numbers of a block: when the first of its tokens arrives, and which it is.
struct Block {
    bits: u64,
    first: u32,
}

impl Block {
    fn arrival(&self) -> f64 {
        exponential(self.bits) / BLOCK as f64
    }
}

struct Best {
    score: f64,
    token: u32,
}

impl Best {
    fn offer(&mut self, score: f64, token: u32) {
        if score > self.score || (score == self.score && token < self.token) {
            *self = Best { score, token };
        }
    }
}

fn mix_at(stream: u64, at: u32) -> u64 {
    mix(stream.wrapping_add(u64::from(at).wrapping_mul(STRIDE)))
}

/// An exponential of rate 1 from the high bits of a random number: `-ln u`, `u` in `2^-53 ..= 1 - 2^-53`.
fn exponential(bits: u64) -> f64 {
    let u = ((bits >> (64 - PRECISION)) as f64 + 0.5) * (1.0 / (1u64 << PRECISION) as f64);
    -libm::log(u)
}

fn gumbel(arrival: f64) -> f64 {
    -libm::log(arrival)
}

/// An upper bound of `gumbel(exponential(bits))` without a logarithm: `-ln u ≥ 1 - u ≥ 2^-(n + 1)`, if `n` leading bits
/// are ones.
fn bound(bits: u64) -> f64 {
    f64::from(bits.leading_ones().min(PRECISION) + 1) * LN_2 + SLACK
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Chi-square of counts against equal expectations.
    fn chi_square(counts: &[u32]) -> f64 {
        let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
    }

    /// In which of 8 equally probable classes an arrival of rate 1 falls.
    fn class(noise: f64) -> usize {
        (8.0 * (1.0 - (-(-noise).exp()).exp())) as usize
    }

    #[test]
    fn noise_is_the_same_everywhere() {
        // A Python implementation with the platform's logarithm gives these within one unit in the last place. A change
        // of them is a change of every seeded answer.
        let noise = Noise::new(42, 7);
        let bits: Vec<u64> = [0, 1, 63, 64, 151_935].map(|token| noise.of(token).to_bits()).to_vec();
        let expected = [
            0xbfe3_49c4_208c_a9d0,
            0xbfe2_43b1_155b_fc3b,
            0x3ffb_57a0_63dc_024b,
            0x3fd1_c8aa_4ca5_0d46,
            0xbfe8_3d2a_ca21_d145,
        ];
        assert_eq!(bits, expected, "{bits:#018x?}");
    }

    #[test]
    fn arrivals_are_exponential_wherever_the_token_is_in_its_block() {
        // 7 degrees of freedom: 24.3 is the 99.9 % quantile; of 12 tokens the largest is below 29.
        for token in (0..12).map(|i| i * 13) {
            let mut counts = [0; 8];
            (0..40_000).for_each(|draw| counts[class(Noise::new(5, draw).of(token))] += 1);
            assert!(chi_square(&counts) < 29.0, "token {token}: {counts:?}");
        }
    }

    #[test]
    fn noise_is_independent_over_tokens_draws_and_seeds() {
        let noise = |seed, draw, token| class(Noise::new(seed, draw).of(token));
        type Pair = fn(u64, &dyn Fn(u64, u64, u32) -> usize) -> (usize, usize);
        let pairs: [(&str, Pair); 7] = [
            ("two tokens of a block", |n, of| (of(1, n, 70), of(1, n, 71))),
            ("distant tokens of a block", |n, of| (of(1, n, 64), of(1, n, 127))),
            ("tokens of neighbouring blocks", |n, of| (of(1, n, 63), of(1, n, 64))),
            ("two draws", |n, of| (of(1, n, 9), of(1, n + 1, 9))),
            ("two seeds", |n, of| (of(n, 3, 9), of(n + 1, 3, 9))),
            ("seed and draw exchanged", |n, of| (of(n, 3, 9), of(3, n, 9))),
            ("draw and token exchanged", |n, of| (of(1, n, 3), of(1, 3, n as u32))),
        ];
        for (name, pair) in pairs {
            let mut counts = [0; 64];
            for n in 100..80_100 {
                let (a, b) = pair(n, &noise);
                counts[8 * a + b] += 1;
            }
            // 63 degrees of freedom: 103.4 is the 99.9 % quantile.
            assert!(chi_square(&counts) < 103.4, "{name}: {}", chi_square(&counts));
        }
    }

    proptest! {
        #[test]
        fn the_search_finds_what_looking_at_every_token_finds(
            logits in prop::collection::vec(prop_oneof![
                8 => -12.0f32..12.0, 1 => Just(2.5f32), 1 => Just(f32::NEG_INFINITY)
            ], 1..700),
            sharpness in prop_oneof![Just(0.0f32), Just(0.3), Just(1.0), Just(5.0)],
            floor in prop_oneof![Just(f32::NEG_INFINITY), -12.0f32..2.5, Just(2.5f32)],
            id in 0u32..700,
            seed in any::<u64>(),
            draw in any::<u64>(),
        ) {
            let logits: Vec<f32> = logits.iter().map(|l| if l.is_finite() { l * sharpness } else { *l }).collect();
            let floor = Floor { logit: floor, id };
            let noise = Noise::new(seed, draw);
            let mut best = Best { score: f64::NEG_INFINITY, token: 0 };
            for (token, &logit) in logits.iter().enumerate() {
                if floor.admits(logit, token as u32) {
                    best.offer(f64::from(logit) + noise.of(token as u32), token as u32);
                }
            }
            let mut blocks = LogitBlocks::default();
            blocks.read(&logits);
            prop_assert_eq!(noise.argmax(&logits, &blocks, floor), best.token);
        }

        #[test]
        fn the_bound_is_above_the_noise(bits in any::<u64>(), ones in 0u32..64) {
            let bits = bits | !(u64::MAX >> ones);
            prop_assert!(gumbel(exponential(bits)) < bound(bits), "{:x}", bits);
            prop_assert!(gumbel(exponential(bits)) > bound(bits) - 1.5 || bits.leading_ones() < 2);
        }
    }
}
