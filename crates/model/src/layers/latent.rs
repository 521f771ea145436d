//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): all heads share one latent vector per
//! position, from which keys and values would be projected.
//!
//! It runs in the absorbed form for every step, prefill too: queries are projected into the latent space instead of
//! keys out of it, and values out of it once per row. So a block holds the latent and the rotary part of the key only,
//! and a row's bits don't depend on how it was computed.

use foretoken_kernels::attention::{Scoring, attention};
use foretoken_kernels::kv::{AttnSeq, LayerKv, store_latent};
use foretoken_kernels::rope::HeadRows;
use foretoken_kernels::{ExpertJob, PackedMatrix, matmul, matmul_experts, ops};

use super::branch::Branch;
use super::linear::Linear;
use super::{Attention, Place};
use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;

/// What a family says of a layer's attention.
#[derive(Clone)]
pub(crate) struct Latent {
    pub(crate) heads: usize,
    /// Numbers of the latent that queries come from; `None`: they come from the row itself.
    pub(crate) q_rank: Option<usize>,
    /// Numbers of the latent that keys and values come from.
    pub(crate) rank: usize,
    /// Numbers of a query and a key that don't rotate.
    pub(crate) nope: usize,
    /// Numbers of a query and of the shared part of all keys that do.
    pub(crate) rope: usize,
    /// Numbers of a value.
    pub(crate) dim_v: usize,
    /// Factor of the products of queries and keys.
    pub(crate) scale: f32,
}

impl From<Latent> for Attention {
    fn from(latent: Latent) -> Attention {
        Attention::Latent(latent)
    }
}

impl Latent {
    pub(super) fn kv(&self) -> LayerKv {
        LayerKv::Latent { rank: self.rank, rope: self.rope }
    }
}

pub(super) struct LatentLayer {
    spec: Latent,
    eps: f32,
    /// To the latent of queries, and its norm.
    q_a: Option<(Linear, Vec<f32>)>,
    /// To the queries.
    q: Linear,
    /// To the latent of keys and values, and the rotary part of the key.
    kv_a: Linear,
    kv_norm: Vec<f32>,
    /// For each head, queries into the latent space: `[rank][nope]`.
    k_b: Vec<PackedMatrix>,
    /// For each head, latents to values: `[dim_v][rank]`.
    v_b: Vec<PackedMatrix>,
    out: Linear,
    /// All heads, as [`matmul_experts`] counts them.
    all_heads: Vec<u32>,
}

/// Buffers of a step.
#[derive(Default)]
pub(crate) struct LatentScratch {
    q_latent: Vec<f32>,
    kv: Vec<f32>,
    /// `[head][row][…]`.
    by_head: Vec<f32>,
    /// `[row][head][rank + rope]`.
    q: Vec<f32>,
}

impl LatentLayer {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: usize,
        spec: &Latent,
    ) -> Result<LatentLayer, ModelError> {
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let Latent { heads, rank, nope, rope, dim_v, .. } = *spec;
        let (width, dim_q) = (config.width, nope + rope);
        let (q_a, q) = match spec.q_rank {
            Some(q_rank) => {
                let q_a = Linear::load(loader, &name("attn_q_a"), q_rank, width)?;
                let norm = loader.vector(&name("attn_q_a_norm.weight"), q_rank)?;
                let q = Linear::load(loader, &name("attn_q_b"), heads * dim_q, q_rank)?;
                (Some((q_a, norm)), q)
            }
            None => (None, Linear::load(loader, &name("attn_q"), heads * dim_q, width)?),
        };
        let (k_b, v_b) = if loader.has(&name("attn_kv_b.weight")) {
            loader.key_and_value_matrices(&name("attn_kv_b.weight"), heads, [nope, dim_v], rank)?
        } else {
            (
                loader.matrices(&name("attn_k_b.weight"), heads, rank, nope)?,
                loader.matrices(&name("attn_v_b.weight"), heads, dim_v, rank)?,
            )
        };
        Ok(LatentLayer {
            spec: spec.clone(),
            eps: config.norm_eps,
            q_a,
            q,
            kv_a: Linear::load(loader, &name("attn_kv_a_mqa"), rank + rope, width)?,
            kv_norm: loader.vector(&name("attn_kv_a_norm.weight"), rank)?,
            k_b,
            v_b,
            out: Linear::load(loader, &name("attn_output"), width, heads * dim_v)?,
            all_heads: (0..heads as u32).collect(),
        })
    }

    pub(super) fn forward(
        &self,
        place: Place<'_>,
        branch: &Branch,
        s: &mut Scratch,
        seqs: &mut [AttnSeq<'_, '_>],
    ) {
        let Place { compute: c, layout, layer } = place;
        let Latent { heads, rank, rope, dim_v, scale, .. } = self.spec;
        let (rows, width) = (s.positions.len(), rank + rope);
        branch.enter(c, &s.residual, &mut s.activations);
        s.latent.kv.resize(rows * width, 0.0);
        self.project_queries_and_latent(place, s);
        self.store_projected(place, s, seqs);

        self.absorb_keys(place, s);
        let rotary = HeadRows { stride: heads * width, heads, head_dim: width, skip: rank };
        s.ropes[0].apply(c, &mut s.latent.q, rotary, &s.positions);
        s.attention.resize(rows * heads * rank, 0.0);
        let scoring = Scoring::scaled(scale);
        attention(c, layout, layer, seqs, &s.latent.q, heads, scoring, &mut s.attention);

        self.expand_values(place, s);
        s.activations.reset(rows, heads * dim_v);
        s.activations.quantize(c, &s.v);
        branch.leave_through(c, &self.out, &s.activations, &mut s.branch, &mut s.residual);
    }

    /// The KV part of [`LatentLayer::forward`].
    pub(super) fn store(
        &self,
        place: Place<'_>,
        branch: &Branch,
        s: &mut Scratch,
        seqs: &mut [AttnSeq<'_, '_>],
    ) {
        branch.enter(place.compute, &s.residual, &mut s.activations);
        s.latent.kv.resize(s.positions.len() * self.kv_a.weight.rows(), 0.0);
        matmul(place.compute, &s.activations, &mut [self.kv_a.job(&mut s.latent.kv, false)]);
        self.store_projected(place, s, seqs);
    }

    /// Norms and rotates `s.latent.kv`, and stores it.
    fn store_projected(&self, place: Place<'_>, s: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        let (Place { compute: c, layout, layer }, &Latent { rank, rope, .. }) = (place, &self.spec);
        let width = rank + rope;
        ops::rms_norm_heads(c, &mut s.latent.kv, width, 1, rank, &self.kv_norm, self.eps);
        let rotary = HeadRows { stride: width, heads: 1, head_dim: width, skip: rank };
        s.ropes[0].apply(c, &mut s.latent.kv, rotary, &s.positions);
        store_latent(c, layout, layer, seqs, &s.latent.kv);
    }

    /// `s.q` and `s.latent.kv`, before anything rotates.
    fn project_queries_and_latent(&self, place: Place<'_>, s: &mut Scratch) {
        let c = place.compute;
        s.q.resize(s.positions.len() * self.q.weight.rows(), 0.0);
        let Some((q_a, norm)) = &self.q_a else {
            let mut jobs = [self.q.job(&mut s.q, false), self.kv_a.job(&mut s.latent.kv, false)];
            return matmul(c, &s.activations, &mut jobs);
        };
        let q_rank = norm.len();
        s.latent.q_latent.resize(s.positions.len() * q_rank, 0.0);
        let mut jobs = [q_a.job(&mut s.latent.q_latent, false), self.kv_a.job(&mut s.latent.kv, false)];
        matmul(c, &s.activations, &mut jobs);
        ops::rms_norm_activations(c, &s.latent.q_latent, q_rank, norm, self.eps, &mut s.activations);
        matmul(c, &s.activations, &mut [self.q.job(&mut s.q, false)]);
    }

    /// `s.latent.q`: the part of each query that does not rotate in the latent space, then the part that does.
    fn absorb_keys(&self, place: Place<'_>, s: &mut Scratch) {
        let Latent { heads, rank, nope, rope, .. } = self.spec;
        let (rows, q) = (s.positions.len(), &s.q);
        let query = |head: usize, row: usize| &q[(row * heads + head) * (nope + rope)..][..nope + rope];
        s.head_activations.reset_segments(std::iter::repeat_n(rows, heads), nope);
        s.head_activations.fill(place.compute, &|at, out| {
            out.copy_from_slice(&query(at / rows, at % rows)[..nope]);
        });
        s.latent.by_head.resize(heads * rows * rank, 0.0);
        let job = ExpertJob { weights: &self.k_b, bias: None, out: &mut s.latent.by_head };
        matmul_experts(place.compute, &s.head_activations, &self.all_heads, &mut [job]);
        s.latent.q.resize(rows * heads * (rank + rope), 0.0);
        for (at, out) in s.latent.q.chunks_exact_mut(rank + rope).enumerate() {
            let (row, head) = (at / heads, at % heads);
            out[..rank].copy_from_slice(&s.latent.by_head[(head * rows + row) * rank..][..rank]);
            out[rank..].copy_from_slice(&query(head, row)[nope..]);
        }
    }

    /// `s.v`: the values of each head, from the weighted sums of latents in `s.attention`.
    fn expand_values(&self, place: Place<'_>, s: &mut Scratch) {
        let Latent { heads, rank, dim_v, .. } = self.spec;
        let (rows, sums) = (s.positions.len(), &s.attention);
        s.head_activations.reset_segments(std::iter::repeat_n(rows, heads), rank);
        s.head_activations.fill(place.compute, &|at, out| {
            let (head, row) = (at / rows, at % rows);
            out.copy_from_slice(&sums[(row * heads + head) * rank..][..rank]);
        });
        s.latent.by_head.resize(heads * rows * dim_v, 0.0);
        let job = ExpertJob { weights: &self.v_b, bias: None, out: &mut s.latent.by_head };
        matmul_experts(place.compute, &s.head_activations, &self.all_heads, &mut [job]);
        s.v.resize(rows * heads * dim_v, 0.0);
        for (at, out) in s.v.chunks_exact_mut(dim_v).enumerate() {
            let (row, head) = (at / heads, at % heads);
            out.copy_from_slice(&s.latent.by_head[(head * rows + row) * dim_v..][..dim_v]);
        }
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let linears = [&self.q, &self.kv_a, &self.out].into_iter();
        let linears = linears.chain(self.q_a.as_ref().map(|(linear, _)| linear));
        linears.map(|linear| &linear.weight).chain(&self.k_b).chain(&self.v_b)
    }
}
