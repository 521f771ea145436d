//! A head for multi-token prediction that was trained for a model which came without one.
//!
//! It is a file of its own: a layer like the model's last (its feed-forward network is dense and may be narrower), the
//! projection and norms of [`PredictionHead`](crate::prediction::PredictionHead), and the tokens that it can draft. Its
//! output head is the model's rows of those tokens, since on a small model the whole output head would cost more than
//! the layer. The invariant: it is used with the weights that it was trained for and with no others.

use foretoken_kernels::ops::Glu;

use crate::config::{ModelConfig, ModelError};
use crate::gguf::Gguf;
use crate::layers::{Blueprint, FeedForward, Gated, LayerSpec};

/// Fingerprint of the model's file, in hexadecimal. A file that has it is a trained head.
pub const MODEL_KEY: &str = "foretoken.head.model";
/// Ids of the tokens that the head can draft, ascending.
pub const ROWS_KEY: &str = "foretoken.head.rows";

/// Whether a file is a trained head.
pub fn is_trained(file: &Gguf) -> bool {
    file.metadata().any(|(key, _)| key == MODEL_KEY)
}

/// A fingerprint as in [`MODEL_KEY`].
pub fn fingerprint_text(fingerprint: [u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The layer of a trained head for the model of `blueprint`.
pub(crate) fn spec(file: &Gguf, blueprint: &Blueprint) -> Result<LayerSpec, ModelError> {
    let config = &blueprint.config;
    let arch = file.get_str("general.architecture")?.unwrap_or("(unnamed)");
    if arch != config.arch {
        return Err(other("architecture", &config.arch, arch));
    }
    let name = format!("blk.{}.ffn_down.weight", config.layers);
    let down = file.tensor(&name).ok_or(ModelError::MissingTensor { tensor: name, arch: arch.into() })?;
    let width = down.dims().first().copied().unwrap_or(0);
    let last = blueprint.layers.last().ok_or(ModelError::NoHead)?;
    let glu = match &last.feed_forward {
        FeedForward::Dense(gated) => gated.glu,
        FeedForward::Experts(_) => Glu::Silu,
    };
    Ok(LayerSpec { feed_forward: Gated { width, glu }.into(), ..last.clone() })
}

/// Fails unless the head was trained for the weights in `model`. Reads the whole model file, the first time.
///
/// # Errors
/// [`ModelError::OtherHead`].
pub fn check_model(file: &Gguf, model: &Gguf) -> Result<(), ModelError> {
    let theirs = file.get_str(MODEL_KEY)?.unwrap_or_default();
    let ours = fingerprint_text(model.fingerprint());
    if theirs == ours { Ok(()) } else { Err(other("fingerprint of weights", &ours, theirs)) }
}

/// The tokens that a trained head can draft.
pub(crate) fn rows(file: &Gguf, config: &ModelConfig) -> Result<Vec<u32>, ModelError> {
    let bad = |message: String| ModelError::BadValue { key: ROWS_KEY.into(), message };
    let rows = file.get_u32_array(ROWS_KEY)?;
    let rows =
        rows.ok_or_else(|| ModelError::MissingKey { key: ROWS_KEY.into(), arch: config.arch.clone() })?;
    if rows.is_empty() || !rows.is_sorted_by(|a, b| a < b) {
        return Err(bad("expected at least one token id, in ascending order".into()));
    }
    match rows.last() {
        Some(&last) if last as usize >= config.vocab => {
            Err(bad(format!("token {last} is outside the vocabulary of {}", config.vocab)))
        }
        _ => Ok(rows),
    }
}

fn other(what: &'static str, ours: &str, theirs: &str) -> ModelError {
    ModelError::OtherHead { what, ours: ours.into(), theirs: theirs.into() }
}
