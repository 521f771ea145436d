//! Hunyuan (dense): Llama's layer with norms on query and key heads after they have rotated. The converter puts the
//! stretch of the context into the base of the rotations.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec, QkNorm};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let attention = Grouped { qk_norm: QkNorm::RotatedHeads, ..hyper.grouped()? };
    let rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec::new(attention.into(), feed_forward.into());
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
