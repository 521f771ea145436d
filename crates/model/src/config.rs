//! Hyperparameters of a decoder, read from GGUF metadata.
//!
//! Every number that determines a shape or a formula is validated here once; loading the weights and the forward pass
//! rely on it. Nothing here reads a tensor.

use foretoken_kernels::rope::{RopeConfig, RopeScaling, RopeStyle};

use crate::gguf::{Gguf, GgufError};

/// Hyperparameters shared by all dense decoder families.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub arch: String,
    /// `general.name`, or the architecture where the file has none.
    pub name: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward network.
    pub ffn_width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a query and key head.
    pub head_dim_k: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Tokens in the vocabulary, as the embedding table has them.
    pub vocab: usize,
    /// Context length of the training, in tokens.
    pub ctx_train: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
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
    /// The weights cannot be packed.
    #[error("tensor '{tensor}': {source}")]
    Pack {
        /// The tensor.
        tensor: String,
        /// The kernels' error.
        source: foretoken_kernels::PackError,
    },
}

/// Largest accepted value of a count in the metadata; keeps products far from overflow.
const COUNT_MAX: u32 = 1 << 20;

impl ModelConfig {
    /// Reads the hyperparameters of `gguf`. `style` is how the family pairs rotated elements.
    ///
    /// # Errors
    /// A key that is missing, of another type, or out of range.
    pub fn from_gguf(gguf: &Gguf, style: RopeStyle) -> Result<ModelConfig, ModelError> {
        let keys = Keys::new(gguf)?;
        let width = keys.count("embedding_length")?;
        let heads = keys.count("attention.head_count")?;
        let kv_heads = keys.optional_count("attention.head_count_kv")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(
                keys.bad("attention.head_count_kv", format!("{kv_heads} does not divide {heads} heads"))
            );
        }
        let key_length = keys.optional_count("attention.key_length")?;
        if key_length.is_none() && width % heads != 0 {
            return Err(
                keys.bad("attention.head_count", format!("{heads} does not divide the width {width}"))
            );
        }
        let head_dim_k = key_length.unwrap_or(width / heads);
        let head_dim_v = keys.optional_count("attention.value_length")?.unwrap_or(width / heads);
        let ctx_train = keys.count("context_length")?;
        let norm_eps = keys.float("attention.layer_norm_rms_epsilon")?;
        if !(0.0..=1.0).contains(&norm_eps) {
            return Err(keys.bad("attention.layer_norm_rms_epsilon", format!("{norm_eps} is not in 0..=1")));
        }
        let embedding = gguf.tensor("token_embd.weight").ok_or_else(|| ModelError::MissingTensor {
            tensor: "token_embd.weight".into(),
            arch: keys.arch.clone(),
        })?;
        Ok(ModelConfig {
            name: gguf.get_str("general.name")?.unwrap_or(&keys.arch).to_string(),
            layers: keys.count("block_count")?,
            width,
            ffn_width: keys.count("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim_k,
            head_dim_v,
            vocab: embedding.rows(),
            ctx_train,
            norm_eps,
            rope: rope(&keys, head_dim_k, ctx_train, style)?,
            arch: keys.arch,
        })
    }

    /// Query heads that share one key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

fn rope(
    keys: &Keys<'_>,
    head_dim: usize,
    ctx_train: usize,
    style: RopeStyle,
) -> Result<RopeConfig, ModelError> {
    let dim = keys.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
    if dim > head_dim || dim % 2 != 0 {
        let message = format!("{dim} is not an even number of at most {head_dim}, the head size");
        return Err(keys.bad("rope.dimension_count", message));
    }
    let base = keys.optional_float("rope.freq_base")?.unwrap_or(10_000.0);
    if !(base.is_finite() && base > 0.0) {
        return Err(keys.bad("rope.freq_base", format!("{base} is not a positive number")));
    }
    let factor = match keys.optional_float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // Files that predate the scaling keys.
        None => keys.optional_float("rope.scale_linear")?,
    };
    if let Some(factor) = factor.filter(|f| !(f.is_finite() && *f > 0.0)) {
        return Err(keys.bad("rope.scaling.factor", format!("{factor} is not a positive number")));
    }
    let kind = keys.string("rope.scaling.type")?;
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None, None) => RopeScaling::None,
        (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
        (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
            factor,
            original_ctx: keys.optional_count("rope.scaling.original_context_length")?.unwrap_or(ctx_train)
                as u32,
            attn_factor: keys.optional_float("rope.scaling.attn_factor")?.unwrap_or(1.0),
            beta_fast: keys.optional_float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.optional_float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        },
        (Some("linear" | "yarn"), None) => return Err(keys.missing("rope.scaling.factor")),
        (Some(other), _) => {
            let message =
                format!("'{other}' is not supported; this build knows none, linear, yarn and llama3");
            return Err(keys.bad("rope.scaling.type", message));
        }
    };
    Ok(RopeConfig { dim, base, scaling, style })
}

/// Metadata lookups below the architecture's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: String,
}

impl<'a> Keys<'a> {
    fn new(gguf: &'a Gguf) -> Result<Keys<'a>, ModelError> {
        let key = "general.architecture";
        let arch = gguf
            .get_str(key)?
            .ok_or_else(|| ModelError::MissingKey { key: key.into(), arch: "(unnamed)".into() })?;
        Ok(Keys { gguf, arch: arch.to_string() })
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    fn missing(&self, suffix: &str) -> ModelError {
        ModelError::MissingKey { key: self.key(suffix), arch: self.arch.clone() }
    }

    fn bad(&self, suffix: &str, message: String) -> ModelError {
        ModelError::BadValue { key: self.key(suffix), message }
    }

    fn optional_count(&self, suffix: &str) -> Result<Option<usize>, ModelError> {
        match self.gguf.get_u32(&self.key(suffix))? {
            None => Ok(None),
            Some(n) if (1..=COUNT_MAX).contains(&n) => Ok(Some(n as usize)),
            Some(n) => Err(self.bad(suffix, format!("{n} is not in 1..={COUNT_MAX}"))),
        }
    }

    fn count(&self, suffix: &str) -> Result<usize, ModelError> {
        self.optional_count(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    fn optional_float(&self, suffix: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.gguf.get_f32(&self.key(suffix))?)
    }

    fn float(&self, suffix: &str) -> Result<f32, ModelError> {
        self.optional_float(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    fn string(&self, suffix: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.gguf.get_str(&self.key(suffix))?)
    }
}
