//! Ministral 3 and Mistral Small 3: Llama's layer, YaRN that leaves magnitudes alone, and queries that grow with the
//! logarithm of their position beyond the original context.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::{RopeScaling, RopeStyle, yarn_magnitude};

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec, Temperature};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let temperature = match hyper.optional_float("attention.temperature_scale")?.filter(|&scale| scale != 0.0)
    {
        Some(scale) => Some(Temperature { scale, interval: hyper.original_ctx()? }),
        None => None,
    };
    let attention = Grouped { temperature, ..hyper.grouped()? };
    let mut rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    if let (RopeScaling::Yarn { factor, .. }, Some(multiplier)) =
        (rope.config.scaling, hyper.optional_float("rope.scaling.yarn_log_multiplier")?)
    {
        rope.config.magnitude = yarn_magnitude(factor, 1.0) / yarn_magnitude(factor, multiplier.into());
    }
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec::new(attention.into(), feed_forward.into());
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
