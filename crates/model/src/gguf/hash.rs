//! What identifies a model's weights: a full hash, and a fingerprint that is quick enough for every start.
//!
//! Both are BLAKE3 and depend on the files' bytes alone, not on their names.

use super::Gguf;

/// Samples per tensor, and the bytes of each. 290 tensors (a 135M model) make 0.9 MB to hash.
const SAMPLES: usize = 3;
const SAMPLE_BYTES: usize = 1_024;

impl Gguf {
    /// A quick identity: every file's length and whole structure (header, metadata with the tokenizer,
    /// tensor list), and three samples of 1 KiB of each tensor: start, middle and end.
    ///
    /// Different models, quantisations and fine-tunes differ in it. It is *not* proof against a change
    /// inside a tensor that misses all samples and keeps every length, which nobody makes by accident;
    /// [`Gguf::weights_hash`] is, at the price of reading the whole model.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("foretoken 2026 gguf fingerprint v1");
        self.hash_structure(&mut hasher);
        for tensor in self.tensors() {
            let bytes = self.bytes(tensor);
            let last = bytes.len().saturating_sub(SAMPLE_BYTES);
            for sample in 0..SAMPLES {
                let start = last * sample / (SAMPLES - 1);
                hasher.update(&bytes[start..bytes.len().min(start + SAMPLE_BYTES)]);
            }
        }
        hasher.finalize().into()
    }

    /// The full identity: structure and every byte of tensor data. Reads the whole model once (about a second
    /// per 2 GB that are in memory already), then remembers the answer.
    pub fn weights_hash(&self) -> [u8; 32] {
        *self.weights_hash.get_or_init(|| {
            let mut hasher = blake3::Hasher::new_derive_key("foretoken 2026 gguf weights v1");
            self.hash_structure(&mut hasher);
            for tensor in self.tensors() {
                hasher.update(self.bytes(tensor));
            }
            hasher.finalize().into()
        })
    }

    fn hash_structure(&self, hasher: &mut blake3::Hasher) {
        for part in &self.parts {
            hasher.update(&(part.bytes.len() as u64).to_le_bytes());
            hasher.update(&(part.data_start as u64).to_le_bytes());
            hasher.update(&part.bytes[..part.data_start]);
        }
    }
}
