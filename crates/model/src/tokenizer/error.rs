//! Errors in a file's vocabulary.

use crate::gguf::GgufError;

/// Why a tokenizer could not be built. The message names the GGUF key.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Metadata could not be read.
    #[error("reading the vocabulary")]
    Gguf(#[from] GgufError),
    /// A required key is missing.
    #[error("the file has no `{0}`: it carries no usable vocabulary")]
    Missing(&'static str),
    /// An unsupported vocabulary type.
    #[error("tokenizer model `{0}` is not supported (supported: gpt2, llama, gemma4)")]
    Model(String),
    /// An unsupported pre-tokenizer.
    #[error("pre-tokenizer `{name}` is not supported (supported: {})", super::pre_tokenizers().collect::<Vec<_>>().join(", "))]
    PreTokenizer {
        /// `tokenizer.ggml.pre`.
        name: String,
    },
    /// A list whose length differs from the number of tokens.
    #[error("`{key}` has {found} entries for {tokens} tokens")]
    Length {
        /// The GGUF key.
        key: &'static str,
        /// Its number of entries.
        found: usize,
        /// Number of entries of `tokenizer.ggml.tokens`.
        tokens: usize,
    },
    /// An id outside the vocabulary.
    #[error("`{key}` is {id}, but there are {tokens} tokens")]
    Id {
        /// The GGUF key.
        key: &'static str,
        /// Its value.
        id: u32,
        /// Number of entries of `tokenizer.ggml.tokens`.
        tokens: usize,
    },
    /// A tokenizer library rejects the vocabulary.
    #[error("building the tokenizer: {0}")]
    Build(String),
}
