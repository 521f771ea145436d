//! What can be wrong with a file's vocabulary.

use crate::gguf::GgufError;

/// Why a tokenizer couldn't be built. The GGUF key at fault is in the message.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Metadata couldn't be read.
    #[error("reading the vocabulary")]
    Gguf(#[from] GgufError),
    /// A key without which there is no tokenizer.
    #[error("the file has no `{0}`: it carries no usable vocabulary")]
    Missing(&'static str),
    /// A vocabulary of another kind.
    #[error("tokenizer model `{0}` is not supported (supported: gpt2, llama, gemma4)")]
    Model(String),
    /// A pre-tokenizer of another kind.
    #[error("pre-tokenizer `{name}` is not supported (supported: {})", super::PRE_TOKENIZERS.join(", "))]
    PreTokenizer {
        /// `tokenizer.ggml.pre`.
        name: String,
    },
    /// Lists that should have as many entries as there are tokens.
    #[error("`{key}` has {found} entries for {tokens} tokens")]
    Length {
        /// The GGUF key.
        key: &'static str,
        /// Its entries.
        found: usize,
        /// Entries of `tokenizer.ggml.tokens`.
        tokens: usize,
    },
    /// An id that no token has.
    #[error("`{key}` is {id}, but there are {tokens} tokens")]
    Id {
        /// The GGUF key.
        key: &'static str,
        /// Its value.
        id: u32,
        /// Entries of `tokenizer.ggml.tokens`.
        tokens: usize,
    },
    /// The libraries below refuse the vocabulary.
    #[error("building the tokenizer: {0}")]
    Build(String),
}
