//! What every decoder has, and why a model file can't be used.

use crate::gguf::GgufError;

/// Hyperparameters that all families share.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub arch: String,
    /// `general.name`, or the architecture where the file has none.
    pub name: String,
    /// Decoder layers.
    pub layers: usize,
    /// Layers for multi-token prediction, which follow the decoder's in the file.
    pub prediction_layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Tokens in the vocabulary: rows of the embedding table.
    pub vocab: usize,
    /// Context length of the training, in tokens.
    pub ctx_train: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
}

/// An error of loading a model file.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The GGUF container is malformed.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An architecture that this build does not implement.
    #[error("architecture '{arch}' is not supported; this build knows {}", supported.join(", "))]
    UnsupportedArchitecture {
        /// The value of `general.architecture`.
        arch: String,
        /// The implemented architectures.
        supported: Vec<&'static str>,
    },
    /// A metadata key that the architecture needs is not in the file.
    #[error("the file has no metadata key '{key}', which a '{arch}' model needs")]
    MissingKey {
        /// The key.
        key: String,
        /// The architecture that needs it.
        arch: String,
    },
    /// An invalid metadata value.
    #[error("metadata key '{key}': {message}")]
    BadValue {
        /// The key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("the file has no tensor '{tensor}', which a '{arch}' model needs")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The architecture that needs it.
        arch: String,
    },
    /// A tensor whose shape differs from what the metadata imply.
    #[error("tensor '{tensor}' has shape {got:?}, expected {expected:?} (innermost dimension first)")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, innermost first.
        got: Vec<usize>,
        /// Dimensions that the metadata imply.
        expected: Vec<usize>,
    },
    /// A tensor that the architecture does not use; ignoring it would give wrong answers.
    #[error("tensor '{tensor}' is not part of a '{arch}' model as this build knows it")]
    UnknownTensor {
        /// The tensor.
        tensor: String,
        /// The architecture.
        arch: String,
    },
    /// A file that should have a head for multi-token prediction.
    #[error("the file has no head for multi-token prediction (no 'nextn' tensors)")]
    NoHead,
    /// A head for multi-token prediction of another model.
    #[error(
        "the head for multi-token prediction is of another model: its {what} is {theirs}, the model's {ours}"
    )]
    OtherHead {
        /// What differs.
        what: &'static str,
        /// The model's.
        ours: String,
        /// The head's.
        theirs: String,
    },
    /// The weights cannot be packed.
    #[error("tensor '{tensor}': {source}")]
    Pack {
        /// The tensor.
        tensor: String,
        /// The kernels' error.
        source: foretoken_kernels::PackError,
    },
}
