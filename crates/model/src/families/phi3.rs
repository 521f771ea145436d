//! Phi 3 and Phi 4: queries, keys and values in one tensor, gate and up projection in another, part of each head
//! rotated, a window on every layer where the file has one.
//!
//! Models for a long context have two sets of divisors of the rotary frequencies. Published code switches from the
//! short to the long ones when a text outgrows the original context, so that the same token gets other keys depending
//! on what follows it. Here the file decides, once: a model whose context is longer than its original one uses the long
//! divisors for every text.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::RopeStyle;

use crate::config::ModelError;
use crate::hyperparameters::Hyperparameters;
use crate::layers::{Blueprint, Gated, Grouped, LayerSpec};

const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

pub(super) fn blueprint(hyper: &Hyperparameters<'_>) -> Result<Blueprint, ModelError> {
    let config = hyper.config()?;
    let window = hyper.window()?.filter(|&window| window < config.ctx_train);
    let attention = Grouped { window, ..hyper.grouped()? };
    let mut rope = hyper.rope(RopeStyle::Halves, attention.dim_k)?;
    let mut unused: &[&str] = &[];
    if hyper.has_tensor(LONG) {
        let long = config.ctx_train > hyper.original_ctx()?;
        rope.factors = Some(if long { LONG } else { SHORT });
        unused = if long { &[SHORT] } else { &[LONG] };
        let magnitude = hyper.optional_positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        rope.config.magnitude = f64::from(magnitude);
    }
    let feed_forward = Gated { width: hyper.count("feed_forward_length")?, glu: Glu::Silu };
    let layer = LayerSpec::new(attention.into(), feed_forward.into());
    let layers = vec![layer; config.layers];
    Ok(Blueprint { unused, ..Blueprint::new(config, vec![rope], layers) })
}
