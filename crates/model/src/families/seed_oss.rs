//! Seed-OSS: Llama's layer with biases on queries, keys and values, heads of their own size, and another name for the
//! norm before the feed-forward.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, LayerSpec, NormNames};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let attention = hyper.grouped()?;
    let rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec {
        feed_forward_norms: NormNames::before("post_attention_norm"),
        ..LayerSpec::new(attention.into(), feed_forward.into())
    };
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
