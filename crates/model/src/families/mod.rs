//! Model families behind one trait.
//!
//! A family knows its tensors' names and the order of operations in a layer; everything else (embedding,
//! final norm, head, sampling, caches) is shared by all families. Adding a family means an entry in
//! [`FAMILIES`] and, if its layers differ, an implementation of [`Decoder`].

mod dense;

use foretoken_kernels::kv::{AttnSeq, KvLayout};
use foretoken_kernels::rope::RopeStyle;
use foretoken_kernels::{Compute, PackedMatrix};

use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;

/// The layers of a model.
pub(crate) trait Decoder: Send + Sync {
    /// Layout of the KV of a block.
    fn kv_layout(&self) -> KvLayout;

    /// Runs all layers over `scratch.residual`, reading and writing the KV of `seqs`.
    fn forward(&self, compute: &Compute, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]);

    /// All packed weights.
    fn matrices(&self) -> Vec<&PackedMatrix>;
}

/// Loads the tensors of all layers.
type Load = fn(&Loader<'_>, &ModelConfig) -> Result<Box<dyn Decoder>, ModelError>;

/// One supported `general.architecture`.
pub(crate) struct Family {
    pub(crate) arch: &'static str,
    pub(crate) rope: RopeStyle,
    pub(crate) load: Load,
}

/// Every supported architecture.
pub(crate) const FAMILIES: [Family; 3] = [
    // Llama 2 and 3, SmolLM2, DeepSeek-R1-Distill-Llama. GGUF stores its query and key rows permuted so that
    // rotated pairs are neighbours.
    Family { arch: "llama", rope: RopeStyle::Interleaved, load: dense::load },
    // Qwen 2 and 2.5, DeepSeek-R1-Distill-Qwen: the same layers with query, key and value biases.
    Family { arch: "qwen2", rope: RopeStyle::Halves, load: dense::load },
    // Qwen 3 dense: no biases, an RMS norm on each query and key head.
    Family { arch: "qwen3", rope: RopeStyle::Halves, load: dense::load_with_qk_norm },
];

/// The family of an architecture.
pub(crate) fn family(arch: &str) -> Result<&'static Family, ModelError> {
    FAMILIES.iter().find(|family| family.arch == arch).ok_or_else(|| ModelError::UnsupportedArchitecture {
        arch: arch.to_string(),
        supported: FAMILIES.iter().map(|family| family.arch).collect(),
    })
}
