//! Gemma: embeddings scaled by the square root of the width, and GELU in the gate.
//!
//! Gemma 2 adds norms after attention and feed-forward, a sliding window on every other layer, and soft caps on scores
//! and logits. Gemma 3 drops the caps, has five windowed layers to one that sees everything, norms on query and key
//! heads, and a second base for the rotations of windowed layers, which a longer context does not stretch. GGUF stores
//! the weights of its norms with the 1 added that the papers add.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::{RopeConfig, RopeScaling, RopeStyle};

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec, NormNames, QkNorm, RopeSpec};

/// Layers of the 27B models, whose scores are over the square root of another number than the head size.
const LAYERS_27B: [usize; 2] = [46, 62];
/// Gemma 2's window, where a file does not say.
const GEMMA2_WINDOW: usize = 4_096;

pub(super) fn gemma(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let attention = hyper.grouped()?;
    let rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let layer = LayerSpec::new(attention.into(), feed_forward(hyper)?.into());
    let layers = vec![layer; hyper.config()?.layers];
    scaled(hyper, vec![rope], layers)
}

pub(super) fn gemma2(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let global = Grouped {
        softcap: hyper.optional_positive("attn_logit_softcapping")?,
        scale: scale(hyper)?,
        ..hyper.grouped()?
    };
    let window = hyper.window()?.unwrap_or(GEMMA2_WINDOW);
    let local = Grouped { window: Some(window), ..global.clone() };
    let rope = hyper.rope(RopeStyle::Halves, global.dim_k)?;
    scaled(hyper, vec![rope], alternating(hyper, 2, &local, &global)?)
}

pub(super) fn gemma3(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let global = Grouped { qk_norm: QkNorm::Heads, scale: scale(hyper)?, ..hyper.grouped()? };
    let rope = hyper.rope(RopeStyle::Halves, global.dim_k)?;
    let base = hyper.optional_positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local_rope = RopeSpec {
        config: RopeConfig { base, scaling: RopeScaling::None, magnitude: 1.0, ..rope.config.clone() },
        factors: None,
    };
    let local = match hyper.window()? {
        Some(window) => Grouped { window: Some(window), rope: Some(1), ..global.clone() },
        None => global.clone(),
    };
    scaled(hyper, vec![rope, local_rope], alternating(hyper, 6, &local, &global)?)
}

fn feed_forward(hyper: &Hyperparameters<'_>) -> Result<Gated, ModelError> {
    Ok(Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Gelu })
}

/// Factor of the products of queries and keys. Files don't have it.
fn scale(hyper: &Hyperparameters<'_>) -> Result<f32, ModelError> {
    let (config, attention) = (hyper.config()?, hyper.grouped()?);
    let over = match LAYERS_27B.contains(&config.layers) {
        true => config.width / attention.heads,
        false => attention.dim_k,
    };
    Ok(1.0 / (over as f32).sqrt())
}

/// Layers with norms on both sides, the last of each `period` without a window.
fn alternating(
    hyper: &Hyperparameters<'_>,
    period: usize,
    local: &Grouped,
    global: &Grouped,
) -> Result<Vec<LayerSpec>, ModelError> {
    let feed_forward = feed_forward(hyper)?;
    let windowed = hyper.windowed_layers(hyper.config()?.layers, period)?;
    let layer = |windowed| LayerSpec {
        attention_norms: NormNames::around("attn_norm", "post_attention_norm"),
        feed_forward_norms: NormNames::around("ffn_norm", "post_ffw_norm"),
        ..LayerSpec::new(if windowed { local } else { global }.clone().into(), feed_forward.into())
    };
    Ok(windowed.into_iter().map(layer).collect())
}

fn scaled(
    hyper: &Hyperparameters<'_>,
    ropes: Vec<RopeSpec>,
    layers: Vec<LayerSpec>,
) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    Ok(Blueprint {
        embedding_scale: (config.width as f32).sqrt(),
        logit_softcap: hyper.optional_positive("final_logit_softcapping")?,
        ..Blueprint::new(config, ropes, layers)
    })
}
