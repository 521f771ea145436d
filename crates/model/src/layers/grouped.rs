//! Grouped-query attention: query heads in groups that share a head of keys and values.

use foretoken_kernels::attention::{Scoring, attention};
use foretoken_kernels::kv::{AttnSeq, LayerKv, store_kv};
use foretoken_kernels::rope::{HeadRows, RopeTable};
use foretoken_kernels::{Compute, PackedMatrix, matmul, ops};

use super::branch::Branch;
use super::linear::Linear;
use super::{Attention, Place};
use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;

/// RMS norms of queries and keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QkNorm {
    None,
    /// Of each head, before it rotates.
    Heads,
    /// Of each head, after it has rotated.
    RotatedHeads,
    /// Of the heads of a row together.
    Rows,
}

/// Queries grow with the logarithm of their position: by `1 + scale * ln(1 + floor(position / interval))`.
#[derive(Clone, Copy)]
pub(crate) struct Temperature {
    pub(crate) scale: f32,
    pub(crate) interval: usize,
}

/// What a family says of a layer's attention.
#[derive(Clone)]
pub(crate) struct Grouped {
    pub(crate) heads: usize,
    /// Divides `heads`.
    pub(crate) kv_heads: usize,
    pub(crate) dim_k: usize,
    pub(crate) dim_v: usize,
    pub(crate) qk_norm: QkNorm,
    /// Which of the model's rotary tables; `None`: positions don't show in keys.
    pub(crate) rope: Option<usize>,
    /// Number of last positions that a row sees, its own included; `None`: all of them.
    pub(crate) window: Option<usize>,
    /// See [`Scoring`].
    pub(crate) softcap: Option<f32>,
    /// Whether each query head has a learned score without a value. See [`Scoring`].
    pub(crate) sinks: bool,
    /// Factor of the products of queries and keys.
    pub(crate) scale: f32,
    pub(crate) temperature: Option<Temperature>,
}

impl From<Grouped> for Attention {
    fn from(grouped: Grouped) -> Attention {
        Attention::Grouped(grouped)
    }
}

impl Grouped {
    pub(super) fn kv(&self) -> LayerKv {
        let Grouped { kv_heads, dim_k, dim_v, window, .. } = *self;
        LayerKv::Heads { kv_heads, dim_k, dim_v, window }
    }
}

pub(super) struct GroupedLayer {
    spec: Grouped,
    eps: f32,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Weights of [`QkNorm`].
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    sinks: Option<Vec<f32>>,
    out: Linear,
}

impl GroupedLayer {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: usize,
        spec: &Grouped,
    ) -> Result<GroupedLayer, ModelError> {
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let (q, k) = (spec.heads * spec.dim_k, spec.kv_heads * spec.dim_k);
        let (v, width) = (spec.kv_heads * spec.dim_v, config.width);
        let [q, k, v] = if loader.has(&name("attn_qkv.weight")) {
            let part = |rows| Linear::load_rows(loader, &name("attn_qkv"), q + k + v, rows, width);
            [part(0..q)?, part(q..q + k)?, part(q + k..q + k + v)?]
        } else {
            let linear = |suffix, rows| Linear::load(loader, &name(suffix), rows, width);
            [linear("attn_q", q)?, linear("attn_k", k)?, linear("attn_v", v)?]
        };
        let (q_norm, k_norm) = match spec.qk_norm {
            QkNorm::None => (0, 0),
            QkNorm::Heads | QkNorm::RotatedHeads => (spec.dim_k, spec.dim_k),
            QkNorm::Rows => (spec.heads * spec.dim_k, spec.kv_heads * spec.dim_k),
        };
        let norm = |suffix, len| if len == 0 { Ok(Vec::new()) } else { loader.vector(&name(suffix), len) };
        Ok(GroupedLayer {
            spec: spec.clone(),
            eps: config.norm_eps,
            q,
            k,
            v,
            q_norm: norm("attn_q_norm.weight", q_norm)?,
            k_norm: norm("attn_k_norm.weight", k_norm)?,
            sinks: match spec.sinks {
                true => Some(loader.vector(&name("attn_sinks.weight"), spec.heads)?),
                false => None,
            },
            out: Linear::load(loader, &name("attn_output"), width, spec.heads * spec.dim_v)?,
        })
    }

    pub(super) fn forward(
        &self,
        place: Place<'_>,
        branch: &Branch,
        s: &mut Scratch,
        seqs: &mut [AttnSeq<'_, '_>],
    ) {
        let (Place { compute: c, layout, layer }, spec) = (place, &self.spec);
        let Grouped { heads, kv_heads, dim_k, dim_v, .. } = *spec;
        let rows = s.positions.len();
        branch.enter(c, &s.residual, &mut s.activations);
        s.q.resize(rows * heads * dim_k, 0.0);
        s.k.resize(rows * kv_heads * dim_k, 0.0);
        s.v.resize(rows * kv_heads * dim_v, 0.0);
        let mut jobs =
            [self.q.job(&mut s.q, false), self.k.job(&mut s.k, false), self.v.job(&mut s.v, false)];
        matmul(c, &s.activations, &mut jobs);
        self.norm_and_rotate(c, &mut s.ropes, &mut s.q, (heads, &self.q_norm), &s.positions);
        self.norm_and_rotate(c, &mut s.ropes, &mut s.k, (kv_heads, &self.k_norm), &s.positions);
        if let Some(temperature) = spec.temperature {
            temperature.apply(&mut s.q, &s.positions);
        }
        store_kv(c, layout, layer, seqs, &s.k, &s.v);
        s.attention.resize(rows * heads * dim_v, 0.0);
        let scoring = Scoring { scale: spec.scale, softcap: spec.softcap, sinks: self.sinks.as_deref() };
        attention(c, layout, layer, seqs, &s.q, heads, scoring, &mut s.attention);
        s.activations.reset(rows, heads * dim_v);
        s.activations.quantize(c, &s.attention);
        branch.leave_through(c, &self.out, &s.activations, &mut s.branch, &mut s.residual);
    }

    /// The KV part of [`GroupedLayer::forward`].
    pub(super) fn store(
        &self,
        place: Place<'_>,
        branch: &Branch,
        s: &mut Scratch,
        seqs: &mut [AttnSeq<'_, '_>],
    ) {
        let (Place { compute: c, layout, layer }, rows) = (place, s.positions.len());
        let Grouped { kv_heads, dim_k, dim_v, .. } = self.spec;
        branch.enter(c, &s.residual, &mut s.activations);
        s.k.resize(rows * kv_heads * dim_k, 0.0);
        s.v.resize(rows * kv_heads * dim_v, 0.0);
        matmul(c, &s.activations, &mut [self.k.job(&mut s.k, false), self.v.job(&mut s.v, false)]);
        self.norm_and_rotate(c, &mut s.ropes, &mut s.k, (kv_heads, &self.k_norm), &s.positions);
        store_kv(c, layout, layer, seqs, &s.k, &s.v);
    }

    /// Norms and rotates queries or keys, in the order that [`QkNorm`] says.
    fn norm_and_rotate(
        &self,
        c: &Compute,
        ropes: &mut [RopeTable],
        x: &mut [f32],
        (heads, weight): (usize, &[f32]),
        positions: &[u32],
    ) {
        let Grouped { dim_k, qk_norm, rope, .. } = self.spec;
        let norm = |x: &mut [f32]| {
            let (heads, dim) = if qk_norm == QkNorm::Rows { (1, heads * dim_k) } else { (heads, dim_k) };
            ops::rms_norm_heads(c, x, heads * dim, heads, dim, weight, self.eps);
        };
        if matches!(qk_norm, QkNorm::Heads | QkNorm::Rows) {
            norm(x);
        }
        if let Some(rope) = rope {
            ropes[rope].apply(c, x, HeadRows::packed(heads, dim_k), positions);
        }
        if qk_norm == QkNorm::RotatedHeads {
            norm(x);
        }
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        [&self.q, &self.k, &self.v, &self.out].into_iter().map(|linear| &linear.weight)
    }
}

impl Temperature {
    /// Scales the rows of `q`. The logarithm is the `libm` crate's, so it is the same on every machine.
    fn apply(self, q: &mut [f32], positions: &[u32]) {
        let width = q.len() / positions.len().max(1);
        for (row, &position) in q.chunks_exact_mut(width.max(1)).zip(positions) {
            let intervals = position as usize / self.interval;
            let factor = 1.0 + f64::from(self.scale) * libm::log(1.0 + intervals as f64);
            row.iter_mut().for_each(|x| *x *= factor as f32);
        }
    }
}
