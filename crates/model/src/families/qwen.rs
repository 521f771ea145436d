//! Qwen 2 and 2.5, DeepSeek-R1-Distill-Qwen: Llama's layer with biases on queries, keys and values, which are taken
//! where a file has them. Qwen 3 has none of them and an RMS norm on each query and key head instead.

use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Activation, Blueprint, Gated, LayerSpec, QkNorm};

pub(super) fn qwen2(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    blueprint(hyper, QkNorm::None)
}

pub(super) fn qwen3(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    blueprint(hyper, QkNorm::Heads)
}

fn blueprint(hyper: &Hyperparameters<'_>, qk_norm: QkNorm) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let mut attention = hyper.grouped()?;
    attention.qk_norm = qk_norm;
    let rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, activation: Activation::Silu };
    let layer = LayerSpec::new(attention.into(), feed_forward.into());
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
