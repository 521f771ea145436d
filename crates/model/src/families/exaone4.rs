//! EXAONE 4: norms after attention and feed-forward, and on query and key heads. The 32B model has three windowed
//! layers to one that sees everything, and only the windowed ones rotate.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec, NormNames, QkNorm};

/// Layers and window of the 32B model, whose first files don't have the window.
const LAYERS_32B: usize = 64;
const WINDOW_32B: usize = 4_096;

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let window = hyper.window()?.or((config.layers == LAYERS_32B).then_some(WINDOW_32B));
    let windowed = match window {
        Some(_) => hyper.windowed_layers(config.layers, 4)?,
        None => vec![false; config.layers],
    };
    let attention = Grouped { qk_norm: QkNorm::Heads, ..hyper.grouped()? };
    let rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = |windowed: bool| {
        let attention = Grouped {
            window: window.filter(|_| windowed),
            rope: (windowed || window.is_none()).then_some(0),
            ..attention.clone()
        };
        LayerSpec {
            attention_norms: NormNames::after("post_attention_norm"),
            feed_forward_norms: NormNames::after("post_ffw_norm"),
            ..LayerSpec::new(attention.into(), feed_forward.into())
        }
    };
    let layers = windowed.into_iter().map(layer).collect();
    Ok(Blueprint::new(config, vec![rope], layers))
}
