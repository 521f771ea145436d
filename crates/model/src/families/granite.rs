//! Granite 3 and dense Granite 4: Llama's layer with a multiplier in every place that can have one. The mixtures have
//! experts in it, which a shared one accompanies where the file has its width.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;
use foretoken_kernels::router::Gating;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Experts, FeedForward, Gated, Grouped, LayerSpec, SharedExpert};

pub(super) fn granite(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    blueprint(hyper, feed_forward.into())
}

pub(super) fn granitemoe(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let shared = hyper.optional_number("expert_shared_feed_forward_length")?.filter(|&width| width > 0);
    let experts = Experts {
        router: hyper.router(Gating::SoftmaxOfChosen)?,
        width: hyper.count("feed_forward_length")?,
        glu: Glu::Silu,
        shared: shared.map(|width| SharedExpert { width, gated: false }),
    };
    blueprint(hyper, experts.into())
}

fn blueprint(hyper: &Hyperparameters<'_>, feed_forward: FeedForward) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let grouped = hyper.grouped()?;
    let attention = Grouped {
        scale: hyper.optional_positive("attention.scale")?.unwrap_or(grouped.scale),
        // Granite 4 has models without positions and says so with this key.
        rope: hyper.optional_flag("rope.scaling.finetuned")?.unwrap_or(true).then_some(0),
        ..grouped
    };
    let rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    let layer = LayerSpec {
        residual_scale: hyper.optional_positive("residual_scale")?.unwrap_or(1.0),
        ..LayerSpec::new(attention.into(), feed_forward)
    };
    let layers = vec![layer; config.layers];
    Ok(Blueprint {
        embedding_scale: hyper.optional_positive("embedding_scale")?.unwrap_or(1.0),
        logit_scale: 1.0 / hyper.optional_positive("logit_scale")?.unwrap_or(1.0),
        ..Blueprint::new(config, vec![rope], layers)
    })
}
