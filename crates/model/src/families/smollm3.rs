//! SmolLM3: Llama's layer, with every fourth one blind to positions.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec};

/// The last of so many layers has no rotary positions.
const PERIOD: usize = 4;

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let attention = hyper.grouped()?;
    let rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = |index| {
        let rope = ((index + 1) % PERIOD != 0).then_some(0);
        LayerSpec::new(Grouped { rope, ..attention.clone() }.into(), feed_forward.into())
    };
    let layers = (0..config.layers).map(layer).collect();
    Ok(Blueprint::new(config, vec![rope], layers))
}
