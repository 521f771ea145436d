//! Qwen 2 and 2.5, DeepSeek-R1-Distill-Qwen: Llama's layer with biases on queries, keys and values, which are taken
//! where a file has them. Qwen 3 has none of them and an RMS norm on each query and key head instead.
//!
//! The mixtures have the same attentions. Qwen 2's has a shared expert, whose output is multiplied with a sigmoid; Qwen 3's has none.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;
use foretoken_kernels::router::Gating;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, FeedForward, Gated, LayerSpec, QkNorm, SharedExpert};

pub(super) fn qwen2(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    blueprint(hyper, QkNorm::None, dense(hyper)?)
}

pub(super) fn qwen3(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    blueprint(hyper, QkNorm::Heads, dense(hyper)?)
}

pub(super) fn qwen2moe(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let mut experts = hyper.experts(Gating::Softmax, Glu::Silu)?;
    let width = hyper.count("expert_shared_feed_forward_length")?;
    experts.shared = Some(SharedExpert { width, gated: true });
    blueprint(hyper, QkNorm::None, experts.into())
}

pub(super) fn qwen3moe(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let mut experts = hyper.experts(Gating::Softmax, Glu::Silu)?;
    // All of them divide the weights by their sum, and converters don't write it.
    experts.router.normalise = true;
    blueprint(hyper, QkNorm::Heads, experts.into())
}

fn dense(hyper: &Hyperparameters<'_>) -> Result<FeedForward, ModelError> {
    Ok(Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu }.into())
}

fn blueprint(
    hyper: &Hyperparameters<'_>,
    qk_norm: QkNorm,
    feed_forward: FeedForward,
) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let mut attention = hyper.grouped()?;
    attention.qk_norm = qk_norm;
    let rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let layer = LayerSpec::new(attention.into(), feed_forward);
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
