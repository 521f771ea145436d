//! The dense decoder that Llama, Qwen 2 and Qwen 3 share: grouped-query attention with rotary positions,
//! then a gated feed-forward network, each behind an RMS norm and added to the residual stream.
//!
//! The families differ in optional parts (biases, norms on query and key heads), so a layer's code depends on the
//! weights present, not on the architecture's name.

use foretoken_kernels::attention::attention;
use foretoken_kernels::kv::{AttnSeq, KvLayout, store_kv};
use foretoken_kernels::{Compute, MatmulJob, PackedMatrix, matmul, ops};

use super::Decoder;
use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;

/// A matrix with its optional bias.
struct Linear {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn load(loader: &Loader<'_>, name: &str, rows: usize, cols: usize) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: loader.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: loader.optional_vector(&format!("{name}.bias"), rows)?,
        })
    }

    /// `out = weight · x + bias`, or `out += …` with `add`.
    fn job<'a>(&'a self, out: &'a mut [f32], add: bool) -> MatmulJob<'a> {
        MatmulJob { weight: &self.weight, bias: self.bias.as_deref(), out, add }
    }
}

struct Layer {
    attn_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    /// RMS norms of each query and key head (Qwen 3).
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    attn_out: Linear,
    ffn_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Dense {
    config: ModelConfig,
    layout: KvLayout,
    layers: Vec<Layer>,
}

pub(super) fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Decoder>, ModelError> {
    load_layers(loader, config, false)
}

pub(super) fn load_with_qk_norm(
    loader: &Loader<'_>,
    config: &ModelConfig,
) -> Result<Box<dyn Decoder>, ModelError> {
    load_layers(loader, config, true)
}

fn load_layers(
    loader: &Loader<'_>,
    config: &ModelConfig,
    qk_norm: bool,
) -> Result<Box<dyn Decoder>, ModelError> {
    let layers = (0..config.layers)
        .map(|index| Layer::load(loader, config, index, qk_norm))
        .collect::<Result<_, _>>()?;
    let layout = KvLayout {
        layers: config.layers,
        draft_layers: 0,
        hidden: 0,
        kv_heads: config.kv_heads,
        head_dim_k: config.head_dim_k,
        head_dim_v: config.head_dim_v,
    };
    Ok(Box::new(Dense { config: config.clone(), layout, layers }))
}

impl Layer {
    fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        index: usize,
        qk_norm: bool,
    ) -> Result<Layer, ModelError> {
        let name = |suffix: &str| format!("blk.{index}.{suffix}");
        let linear = |suffix: &str, rows, cols| Linear::load(loader, &name(suffix), rows, cols);
        let (width, ffn) = (config.width, config.ffn_width);
        let qk_norm = match qk_norm {
            false => None,
            true => Some((
                loader.vector(&name("attn_q_norm.weight"), config.head_dim_k)?,
                loader.vector(&name("attn_k_norm.weight"), config.head_dim_k)?,
            )),
        };
        Ok(Layer {
            attn_norm: loader.vector(&name("attn_norm.weight"), width)?,
            q: linear("attn_q", config.heads * config.head_dim_k, width)?,
            k: linear("attn_k", config.kv_heads * config.head_dim_k, width)?,
            v: linear("attn_v", config.kv_heads * config.head_dim_v, width)?,
            qk_norm,
            attn_out: linear("attn_output", width, config.heads * config.head_dim_v)?,
            ffn_norm: loader.vector(&name("ffn_norm.weight"), width)?,
            gate: linear("ffn_gate", ffn, width)?,
            up: linear("ffn_up", ffn, width)?,
            down: linear("ffn_down", width, ffn)?,
        })
    }

    fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.attn_out, &self.gate, &self.up, &self.down]
    }
}

impl Dense {
    /// `residual += attn_out(attention(norm(residual)))`.
    fn attend(&self, compute: &Compute, index: usize, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        let (config, layer) = (&self.config, &self.layers[index]);
        let s = scratch;
        ops::rms_norm_activations(
            compute,
            &s.residual,
            config.width,
            &layer.attn_norm,
            config.norm_eps,
            &mut s.activations,
        );
        let mut jobs =
            [layer.q.job(&mut s.q, false), layer.k.job(&mut s.k, false), layer.v.job(&mut s.v, false)];
        matmul(compute, &s.activations, &mut jobs);
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim_k);
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            ops::rms_norm_heads(compute, &mut s.q, heads * dim, heads, dim, q_norm, config.norm_eps);
            ops::rms_norm_heads(compute, &mut s.k, kv_heads * dim, kv_heads, dim, k_norm, config.norm_eps);
        }
        s.rope.apply(compute, &mut s.q, heads * dim, heads, dim, &s.positions);
        s.rope.apply(compute, &mut s.k, kv_heads * dim, kv_heads, dim, &s.positions);
        store_kv(compute, &self.layout, index, seqs, &s.k, &s.v);
        let scale = 1.0 / (dim as f32).sqrt();
        attention(compute, &self.layout, index, seqs, &s.q, heads, scale, &mut s.attention);
        s.activations.reset(s.positions.len(), heads * config.head_dim_v);
        s.activations.quantize(compute, &s.attention);
        matmul(compute, &s.activations, &mut [layer.attn_out.job(&mut s.residual, true)]);
    }

    /// `residual += down(silu(gate(norm(residual))) * up(norm(residual)))`.
    fn feed_forward(&self, compute: &Compute, index: usize, s: &mut Scratch) {
        let (config, layer) = (&self.config, &self.layers[index]);
        ops::rms_norm_activations(
            compute,
            &s.residual,
            config.width,
            &layer.ffn_norm,
            config.norm_eps,
            &mut s.activations,
        );
        let mut jobs = [layer.gate.job(&mut s.gate, false), layer.up.job(&mut s.up, false)];
        matmul(compute, &s.activations, &mut jobs);
        ops::silu_mul_activations(compute, &s.gate, &s.up, config.ffn_width, &mut s.activations);
        matmul(compute, &s.activations, &mut [layer.down.job(&mut s.residual, true)]);
    }
}

impl Decoder for Dense {
    fn kv_layout(&self) -> KvLayout {
        self.layout.clone()
    }

    fn forward(&self, compute: &Compute, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        let (config, rows) = (&self.config, scratch.positions.len());
        scratch.q.resize(rows * config.heads * config.head_dim_k, 0.0);
        scratch.k.resize(rows * config.kv_heads * config.head_dim_k, 0.0);
        scratch.v.resize(rows * config.kv_heads * config.head_dim_v, 0.0);
        scratch.attention.resize(rows * config.heads * config.head_dim_v, 0.0);
        scratch.gate.resize(rows * config.ffn_width, 0.0);
        scratch.up.resize(rows * config.ffn_width, 0.0);
        for index in 0..self.layers.len() {
            self.attend(compute, index, scratch, seqs);
            self.feed_forward(compute, index, scratch);
        }
    }

    fn matrices(&self) -> Vec<&PackedMatrix> {
        self.layers.iter().flat_map(|layer| layer.linears()).map(|linear| &linear.weight).collect()
    }
}
