//! A model's identity: a hash over every byte of its files that can change an answer.
//!
//! BLAKE3 of the structure (header, metadata with the tokenizer, tensor list) and of each tensor's own BLAKE3, so
//! that tensors can be hashed on several threads. It depends on the files' bytes alone, not on their names. There
//! is no faster identity from samples, sizes or times: keys of cached blocks are derived from this one, and a block of
//! other weights under the same key would be a wrong answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::Gguf;

/// Bytes that are hashed before their pages are released; the experts of a layer can be gigabytes in one tensor.
const PIECE: usize = 32 << 20;

impl Gguf {
    /// Changes with any byte of metadata or weights. Reads the whole model at the first call, on up to `threads`
    /// threads, and caches the result; releases the pages that it has read.
    pub fn hash_on(&self, threads: usize) -> [u8; 32] {
        *self.hash.get_or_init(|| {
            let hashes = self.tensor_hashes(threads.max(1));
            let mut hasher = blake3::Hasher::new_derive_key("foretoken 2026-11 gguf v2");
            for part in &self.parts {
                hasher.update(&(part.bytes.len() as u64).to_le_bytes());
                hasher.update(&(part.data_start as u64).to_le_bytes());
                hasher.update(&part.bytes[..part.data_start]);
            }
            for hash in &hashes {
                hasher.update(hash.as_bytes());
            }
            hasher.finalize().into()
        })
    }

    /// [`Gguf::hash_on`] one thread, unless it is cached.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.hash_on(1)
    }

    /// Each tensor's hash, in the order of the tensors.
    fn tensor_hashes(&self, threads: usize) -> Vec<blake3::Hash> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut hashed = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(tensor) = self.tensors.get(at) else { return hashed };
                let mut hasher = blake3::Hasher::new();
                for (piece, bytes) in self.bytes(tensor).chunks(PIECE).enumerate() {
                    hasher.update(bytes);
                    self.release_part(tensor, piece * PIECE..(piece + 1) * PIECE);
                }
                hashed.push((at, hasher.finalize()));
            }
        };
        let mut hashes = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut hashes = work();
            for other in others {
                hashes.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            hashes
        });
        hashes.sort_unstable_by_key(|&(at, _)| at);
        hashes.into_iter().map(|(_, hash)| hash).collect()
    }
}
