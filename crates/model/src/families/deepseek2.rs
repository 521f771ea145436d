//! DeepSeek V2, V3 and R1, and what shares their architecture: multi-head latent attention, and leading dense layers
//! before those with experts.
//!
//! YaRN stretches the context; with it the products of queries and keys are scaled by the square of `1 + 0.1 m ln
//! factor`, where GGUF stores `0.1 m` as `yarn_log_multiplier`, and rotations keep their magnitude. Files from before
//! that key leave the products alone and give the magnitude to the rotations.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::{RopeScaling, RopeStyle, yarn_magnitude};
use foretoken_kernels::router::Gating;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Experts, Gated, Latent, LayerSpec, SharedExpert};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let mut attention = attention(hyper)?;
    let mut rope = hyper.rope(RopeStyle::Interleaved, attention.rope)?;
    if let (RopeScaling::Yarn { factor, .. }, Some(multiplier)) =
        (rope.config.scaling, hyper.optional_float("rope.scaling.yarn_log_multiplier")?)
    {
        rope.config.magnitude = 1.0;
        let magnitude = yarn_magnitude(factor, 10.0 * f64::from(multiplier)) as f32;
        attention.scale *= magnitude * magnitude;
    }
    let leading = hyper.optional_number("leading_dense_block_count")?.unwrap_or(0);
    let dense = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let experts = if leading < config.layers { Some(experts(hyper)?) } else { None };
    let layers = (0..config.layers).map(|layer| {
        let feed_forward = match &experts {
            Some(experts) if layer >= leading => experts.clone().into(),
            _ => dense.into(),
        };
        LayerSpec::new(attention.clone().into(), feed_forward)
    });
    let layers: Vec<LayerSpec> = layers.collect();
    // The head's layer is like the model's last.
    let prediction = layers.last().filter(|_| config.prediction_layers > 0).cloned();
    Ok(Blueprint { prediction, ..Blueprint::new(config, vec![rope], layers) })
}

fn experts(hyper: &Hyperparameters<'_>) -> Result<Experts, ModelError> {
    let mut experts = hyper.experts(Gating::Softmax, Glu::Silu)?;
    if let Some(shared) = hyper.optional_count("expert_shared_count")? {
        experts.shared = Some(SharedExpert { width: shared * experts.width, gated: false });
    }
    Ok(experts)
}

fn attention(hyper: &Hyperparameters<'_>) -> Result<Latent, ModelError> {
    // Files with the joined tensor have the sizes of heads where newer ones have those of latents.
    let size = |newer: &str, older: &str| match hyper.optional_count(newer)? {
        Some(size) => Ok(size),
        None => hyper.count(older),
    };
    let dim_q = size("attention.key_length_mla", "attention.key_length")?;
    let dim_v = size("attention.value_length_mla", "attention.value_length")?;
    let rope = hyper.count("rope.dimension_count")?;
    let Some(nope) = dim_q.checked_sub(rope).filter(|&nope| nope > 0) else {
        let message = format!("{rope} of the {dim_q} numbers of a query head leave none that don't rotate");
        return Err(hyper.bad("rope.dimension_count", message));
    };
    Ok(Latent {
        heads: hyper.count("attention.head_count")?,
        // Zero is none, as in llama.cpp.
        q_rank: hyper.optional_number("attention.q_lora_rank")?.filter(|&rank| rank > 0),
        rank: hyper.count("attention.kv_lora_rank")?,
        nope,
        rope,
        dim_v,
        scale: 1.0 / (dim_q as f32).sqrt(),
    })
}
