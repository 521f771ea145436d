//! Unique identifiers of responses, requests and tool calls.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes identifiers that nobody can predict.
#[derive(Debug)]
pub(crate) struct Ids {
    seed: [u64; 2],
    count: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        let seed = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
        Ids { seed, count: AtomicU64::new(0) }
    }

    /// A unique id, such as `chatcmpl-…`.
    pub(crate) fn fresh(&self, prefix: &str) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut input = [0; 24];
        for (bytes, word) in input.chunks_exact_mut(8).zip([self.seed[0], self.seed[1], count]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let hash = blake3::hash(&input).to_hex();
        format!("{prefix}{}", &hash[..24])
    }
}
