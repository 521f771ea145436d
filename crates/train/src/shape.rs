//! The shape of a head: one decoder layer as the model's own, and a projection into it.
//!
//! Read from the model's metadata. Not for weights. The invariant: a shape describes what `foretoken_model` would load as
//! the head of this model, so families whose layers differ from it are refused.

use std::sync::Arc;

use foretoken_kernels::quant;
use foretoken_model::ModelConfig;
use foretoken_model::gguf::Gguf;

use crate::error::TrainError;

/// Largest accepted size in the metadata, as the loader's.
const COUNT_MAX: u32 = 1 << 20;

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `2i` with `2i + 1`.
    Neighbours,
    /// `i` with `i + dim / 2`.
    Halves,
}

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// How elements are paired.
    pub pairs: Pairs,
    /// Angle per position of each pair; twice as many elements of each head rotate.
    pub frequencies: Vec<f64>,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct HeadShape {
    /// `general.architecture`.
    pub arch: String,
    /// The head's layer in a file: the model's number of layers.
    pub layer: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Length of queries, keys and values.
    pub head_dim: usize,
    /// Numbers between the two halves of the feed-forward network.
    pub feed_forward: usize,
    /// Epsilon of the RMS norms.
    pub eps: f32,
    /// Rotary positions.
    pub rotation: Arc<Rotation>,
}

/// A tensor of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Its name within the layer, without `.weight`.
    pub name: &'static str,
    /// Outputs; 1 for a norm.
    pub rows: usize,
    /// Inputs, or the length of a norm.
    pub cols: usize,
}

impl TensorShape {
    /// Whether it is the weight of a norm.
    pub fn is_norm(&self) -> bool {
        self.name.ends_with("norm")
    }
}

impl HeadShape {
    /// The head of a model. `feed_forward`: the width of its feed-forward network, the model's if `None`.
    ///
    /// # Errors
    /// A family or a form of rotation that is not supported, or a value out of range.
    pub fn of(
        gguf: &Gguf,
        config: &ModelConfig,
        feed_forward: Option<usize>,
    ) -> Result<HeadShape, TrainError> {
        let pairs = match config.arch.as_str() {
            "llama" => Pairs::Neighbours,
            "qwen2" => Pairs::Halves,
            other => {
                let message = format!("its architecture is '{other}'; llama and qwen2 are supported");
                return Err(TrainError::Unsupported(message));
            }
        };
        let count = |suffix: &str| -> Result<Option<usize>, TrainError> {
            let key = format!("{}.{suffix}", config.arch);
            match gguf.get_u32(&key)? {
                Some(n) if !(1..=COUNT_MAX).contains(&n) => {
                    Err(TrainError::Unsupported(format!("metadata key '{key}' is {n}")))
                }
                n => Ok(n.map(|n| n as usize)),
            }
        };
        let needed = |suffix: &str| {
            let missing =
                || TrainError::Unsupported(format!("it has no metadata key '{}.{suffix}'", config.arch));
            count(suffix)?.ok_or_else(missing)
        };
        let heads = needed("attention.head_count")?;
        let kv_heads = count("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = count("attention.key_length")?.unwrap_or(config.width / heads);
        if count("attention.value_length")?.unwrap_or(head_dim) != head_dim || !heads.is_multiple_of(kv_heads)
        {
            let message = "its keys and values differ in length, or its heads don't divide evenly";
            return Err(TrainError::Unsupported(message.into()));
        }
        let own = needed("feed_forward_length")?;
        let feed_forward = feed_forward.unwrap_or(own);
        for (what, size) in [
            ("width", config.width),
            ("attention width", heads * head_dim),
            ("feed-forward width", feed_forward),
        ] {
            // The blocks of Q8_0.
            if size == 0 || size % 32 != 0 {
                return Err(TrainError::Unsupported(format!("its {what} of {size} is not a multiple of 32")));
            }
        }
        Ok(HeadShape {
            arch: config.arch.clone(),
            layer: config.layers,
            width: config.width,
            vocab: config.vocab,
            heads,
            kv_heads,
            head_dim,
            feed_forward,
            eps: config.norm_eps,
            rotation: Arc::new(rotation(gguf, config, head_dim, pairs)?),
        })
    }

    /// The tensors of a head, in the order of its parameters.
    pub fn tensors(&self) -> [TensorShape; 13] {
        let HeadShape { width, heads, kv_heads, head_dim, feed_forward, .. } = *self;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let matrix = |name, rows, cols| TensorShape { name, rows, cols };
        let norm = |name| TensorShape { name, rows: 1, cols: width };
        [
            norm("attn_norm"),
            matrix("attn_q", q, width),
            matrix("attn_k", kv, width),
            matrix("attn_v", kv, width),
            matrix("attn_output", width, q),
            norm("ffn_norm"),
            matrix("ffn_gate", feed_forward, width),
            matrix("ffn_up", feed_forward, width),
            matrix("ffn_down", width, feed_forward),
            matrix("nextn.eh_proj", width, 2 * width),
            norm("nextn.enorm"),
            norm("nextn.hnorm"),
            norm("nextn.shared_head_norm"),
        ]
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.rows * tensor.cols).sum()
    }
}

fn rotation(
    gguf: &Gguf,
    config: &ModelConfig,
    head_dim: usize,
    pairs: Pairs,
) -> Result<Rotation, TrainError> {
    let key = |suffix: &str| format!("{}.rope.{suffix}", config.arch);
    let scaling = gguf.get_str(&key("scaling.type"))?;
    let factor = match scaling {
        None | Some("linear") => {
            gguf.get_f32(&key("scaling.factor"))?.or(gguf.get_f32(&key("scale_linear"))?)
        }
        Some("none") => None,
        Some(other) => {
            return Err(TrainError::Unsupported(format!("its positions are scaled by '{other}'")));
        }
    };
    let (factor, base) = (factor.unwrap_or(1.0), gguf.get_f32(&key("freq_base"))?.unwrap_or(10_000.0));
    let dim = gguf.get_u32(&key("dimension_count"))?.map_or(head_dim, |dim| dim as usize);
    let sound = |x: f32| x.is_finite() && x > 0.0;
    if dim > head_dim || dim == 0 || dim % 2 != 0 || !sound(factor) || !sound(base) {
        return Err(TrainError::Unsupported(
            "its rotary positions have a size or a base out of range".into(),
        ));
    }
    let mut divisors = vec![1f32; dim / 2];
    if let Some(info) = gguf.tensor("rope_freqs.weight") {
        if info.dims() != [dim / 2] {
            return Err(TrainError::Unsupported(format!("'rope_freqs.weight' has shape {:?}", info.dims())));
        }
        quant::dequantize(info.ty, gguf.bytes(info), &mut divisors);
    }
    let frequency = |(pair, divisor): (usize, &f32)| {
        f64::from(base).powf(-2.0 * pair as f64 / dim as f64) / f64::from(*divisor) / f64::from(factor)
    };
    Ok(Rotation { pairs, frequencies: divisors.iter().enumerate().map(frequency).collect() })
}
