//! Counter-based randomness: a random number is a function of a seed and a counter, so a seed gives the
//! same text however many tokens a step verified, in whatever company, and after any restart.

/// A uniform number in `[0, 1)` for the token at `position` of a sequence sampled with `seed`.
///
/// Two rounds of the SplitMix64 finaliser (Steele, Lea, Flood 2014); the top 53 bits fill an f64 exactly.
fn uniform(seed: u64, position: u64) -> f64 {
    let bits = mix(mix(seed).wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A uniform number in `[0, 1)` for `position` of a sequence sampled with `seed`: `which` of several that are independent
/// of each other.
pub(crate) fn uniform_of(seed: u64, position: u64, which: u64) -> f64 {
    uniform(mix(seed ^ which.wrapping_mul(0xD6E8_FEB8_6659_FD93)), position)
}

/// A seed for a request that did not bring one: differs between processes and between calls.
pub(crate) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// A step of SplitMix64: a bijection whose output bits all depend on all input bits.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::uniform;

    #[test]
    fn the_same_counter_gives_the_same_number() {
        assert_eq!(uniform(7, 42).to_bits(), uniform(7, 42).to_bits());
        assert_ne!(uniform(7, 42).to_bits(), uniform(8, 42).to_bits());
        assert_ne!(uniform(7, 42).to_bits(), uniform(7, 43).to_bits());
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let mut buckets = [0u32; 16];
        for position in 0..16_000 {
            buckets[(uniform(3, position) * 16.0) as usize] += 1;
        }
        // Chi-square with 15 degrees of freedom: 37.7 is the 99.9 % quantile.
        let chi: f64 = buckets.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 37.7, "chi-square {chi}: {buckets:?}");
    }
}
