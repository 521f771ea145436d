//! Llama 2 and 3, SmolLM2, Mistral, DeepSeek-R1-Distill-Llama: the plain decoder.
//!
//! GGUF stores query and key rows permuted so that rotated pairs are neighbours. Biases are taken where a file has
//! them; Llama 3.1's divisors of the rotary frequencies come with the table.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, LayerSpec};

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let attention = hyper.grouped()?;
    let rope = hyper.rope(RopeStyle::Interleaved, attention.dim_k)?;
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec::new(attention.into(), feed_forward.into());
    let layers = vec![layer; config.layers];
    Ok(Blueprint::new(config, vec![rope], layers))
}
