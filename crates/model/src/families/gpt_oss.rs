//! gpt-oss: every second layer sees a window, each query head has a sink, and the experts' gates are clamped.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::{RopeScaling, RopeStyle};
use foretoken_kernels::router::Gating;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, LayerSpec, NormNames};

/// The gate's constants, which no file states.
const GLU: Glu = Glu::Clamped { alpha: 1.702, limit: 7.0 };

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let mut attention = hyper.grouped()?;
    attention.sinks = true;
    let window = hyper.count("attention.sliding_window")?;
    let mut rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    // The published models don't round the ramp of their YaRN, and no key says so.
    if let RopeScaling::Yarn { truncate, .. } = &mut rope.config.scaling {
        *truncate = false;
    }
    let experts = hyper.experts(Gating::SoftmaxOfChosen, GLU)?;
    let layers = (0..config.layers)
        .map(|layer| {
            let mut attention = attention.clone();
            attention.window = (layer % 2 == 0).then_some(window);
            let mut layer = LayerSpec::new(attention.into(), experts.clone().into());
            layer.feed_forward_norms = NormNames::before("post_attention_norm");
            layer
        })
        .collect();
    Ok(Blueprint::new(config, vec![rope], layers))
}
