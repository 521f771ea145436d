//! ERNIE 4.5 (dense): Llama's layer, its pairs of rotated elements neighbours from the start.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, LayerSpec};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    hyper.refuse_rope_sections()?;
    let config = hyper.config()?;
    let attention = hyper.grouped()?;
    let rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec::new(attention.into(), feed_forward.into());
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
