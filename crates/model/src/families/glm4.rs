//! GLM 4 (dense): norms around attention and feed-forward, half of each head rotated, biases on queries, keys and
//! values, gate and up projection in one tensor.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, LayerSpec, NormNames};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    hyper.refuse_rope_sections()?;
    let config = hyper.config()?;
    let attention = hyper.grouped()?;
    let rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec {
        attention_norms: NormNames::around("attn_norm", "post_attention_norm"),
        feed_forward_norms: NormNames::around("ffn_norm", "post_ffw_norm"),
        ..LayerSpec::new(attention.into(), feed_forward.into())
    };
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
