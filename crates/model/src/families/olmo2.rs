//! OLMo 2 and 3: norms after attention and feed-forward instead of before them, and norms over all query and all key
//! heads of a row together. OLMo 3 adds windows; its windowed layers keep plain rotations where the others have YaRN.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::{RopeConfig, RopeScaling, RopeStyle};

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec, NormNames, QkNorm, RopeSpec};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let global = Grouped { qk_norm: QkNorm::Rows, ..hyper.grouped()? };
    let rope = hyper.rope(RopeStyle::Halves, global.dim_k)?;
    let plain = RopeConfig { scaling: RopeScaling::None, magnitude: 1.0, ..rope.config.clone() };
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = |attention: &Grouped| LayerSpec {
        attention_norms: NormNames::after("post_attention_norm"),
        feed_forward_norms: NormNames::after("post_ffw_norm"),
        ..LayerSpec::new(attention.clone().into(), feed_forward.into())
    };
    let layers = match hyper.window()? {
        None => vec![layer(&global); config.layers],
        window => {
            let local = Grouped { window, rope: Some(1), ..global.clone() };
            let windowed = hyper.windowed_layers(config.layers, 4)?;
            windowed.into_iter().map(|windowed| layer(if windowed { &local } else { &global })).collect()
        }
    };
    Ok(Blueprint::new(config, vec![rope, RopeSpec { config: plain, factors: None }], layers))
}
