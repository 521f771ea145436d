//! Granite 3 and dense Granite 4: Llama's layer with a multiplier in every place that can have one.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let grouped = hyper.grouped()?;
    let attention = Grouped {
        scale: hyper.optional_positive("attention.scale")?.unwrap_or(grouped.scale),
        // Granite 4 has models without positions and says so with this key.
        rope: hyper.optional_flag("rope.scaling.finetuned")?.unwrap_or(true).then_some(0),
        ..grouped
    };
    let rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec {
        residual_scale: hyper.optional_positive("residual_scale")?.unwrap_or(1.0),
        ..LayerSpec::new(attention.into(), feed_forward.into())
    };
    let layers = vec![layer; config.layers];
    Ok(Blueprint {
        embedding_scale: hyper.optional_positive("embedding_scale")?.unwrap_or(1.0),
        logit_scale: 1.0 / hyper.optional_positive("logit_scale")?.unwrap_or(1.0),
        ..Blueprint::new(config, vec![rope], layers)
    })
}
