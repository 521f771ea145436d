//! The parts that decoders are made of, and what a family says of them.
//!
//! A decoder layer is an attention and a feed-forward network, each a [`Branch`] of the residual stream with norms
//! before or after it. A family describes its layers with a [`Blueprint`], from hyperparameters alone; the parts then
//! take their tensors by the names that all families share and know how to run. The invariant: a row's output depends
//! on the row and on what it attends to, not on the other rows of the step.

mod branch;
mod expert_weights;
mod experts;
mod feed_forward;
mod grouped;
mod latent;
mod linear;

use foretoken_kernels::kv::{AttnSeq, KvLayout, LayerKv};
use foretoken_kernels::rope::{RopeConfig, RopeTable};
use foretoken_kernels::{Compute, PackedMatrix};

pub(crate) use branch::NormNames;
pub use experts::ExpertsRead;
pub(crate) use experts::{Experts, ExpertsScratch, SharedExpert};
pub(crate) use feed_forward::Gated;
pub(crate) use grouped::{Grouped, QkNorm, Temperature};
pub(crate) use latent::{Latent, LatentScratch};

use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;
use branch::Branch;
use experts::ExpertsLayer;
use feed_forward::GatedLayer;
use grouped::GroupedLayer;
use latent::LatentLayer;

/// What a family says of a model, from its hyperparameters.
pub(crate) struct Blueprint {
    pub(crate) config: ModelConfig,
    /// Rotary tables, to which attentions refer by index.
    pub(crate) ropes: Vec<RopeSpec>,
    pub(crate) layers: Vec<LayerSpec>,
    /// The layer of the head for multi-token prediction, if there is one.
    pub(crate) prediction: Option<LayerSpec>,
    /// Factor of the embedded tokens.
    pub(crate) embedding_scale: f32,
    /// Factor of the logits.
    pub(crate) logit_scale: f32,
    /// Largest magnitude of a logit `x`, which becomes `cap * tanh(x / cap)`.
    pub(crate) logit_softcap: Option<f32>,
    /// Tensors that the architecture has and that this model's description makes superfluous.
    pub(crate) unused: &'static [&'static str],
}

/// One rotary table.
#[derive(Clone)]
pub(crate) struct RopeSpec {
    pub(crate) config: RopeConfig,
    /// The tensor of divisors of its frequencies, if the file has it.
    pub(crate) factors: Option<&'static str>,
}

/// One layer.
#[derive(Clone)]
pub(crate) struct LayerSpec {
    pub(crate) attention: Attention,
    pub(crate) attention_norms: NormNames,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_norms: NormNames,
    /// Factor of what attention and feed-forward add to the residual stream.
    pub(crate) residual_scale: f32,
}

/// How rows look at what came before them.
#[derive(Clone)]
pub(crate) enum Attention {
    Grouped(Grouped),
    Latent(Latent),
}

/// What happens to each row by itself.
#[derive(Clone)]
pub(crate) enum FeedForward {
    Dense(Gated),
    Experts(Experts),
}

impl LayerSpec {
    /// Norms before attention and feed-forward: Llama's layer, and most others'.
    pub(crate) fn new(attention: Attention, feed_forward: FeedForward) -> LayerSpec {
        LayerSpec {
            attention,
            attention_norms: NormNames::before("attn_norm"),
            feed_forward,
            feed_forward_norms: NormNames::before("ffn_norm"),
            residual_scale: 1.0,
        }
    }

    /// What the layer keeps of a token.
    fn kv(&self) -> LayerKv {
        match &self.attention {
            Attention::Grouped(grouped) => grouped.kv(),
            Attention::Latent(latent) => latent.kv(),
        }
    }
}

impl Blueprint {
    /// A model of these layers and nothing unusual around them.
    pub(crate) fn new(config: ModelConfig, ropes: Vec<RopeSpec>, layers: Vec<LayerSpec>) -> Blueprint {
        Blueprint {
            config,
            ropes,
            layers,
            prediction: None,
            embedding_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            unused: &[],
        }
    }

    /// Layers with experts.
    pub(crate) fn mixtures(&self) -> usize {
        let layers = self.layers.iter().chain(&self.prediction);
        layers.filter(|layer| matches!(layer.feed_forward, FeedForward::Experts(_))).count()
    }

    /// The layout of the model's KV blocks.
    pub(crate) fn kv_layout(&self) -> KvLayout {
        let layers = self.layers.iter().chain(&self.prediction).map(LayerSpec::kv).collect();
        match self.prediction {
            Some(_) => KvLayout::new(layers, 1, self.config.width),
            None => KvLayout::new(layers, 0, 0),
        }
    }
}

/// The layers of a loaded model.
pub(crate) struct Decoder {
    layers: Vec<Layer>,
}

/// A loaded layer.
pub(crate) struct Layer {
    attention_branch: Branch,
    attention: AttentionLayer,
    feed_forward_branch: Branch,
    feed_forward: FeedForwardLayer,
}

enum AttentionLayer {
    Grouped(GroupedLayer),
    Latent(LatentLayer),
}

#[allow(clippy::large_enum_variant, reason = "one per layer, which stays where it was loaded")]
enum FeedForwardLayer {
    Dense(GatedLayer),
    Experts(ExpertsLayer),
}

/// Where a layer's forward pass runs.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) layout: &'a KvLayout,
    pub(crate) layer: usize,
}

impl Decoder {
    /// Takes the tensors of all layers.
    pub(crate) fn load(loader: &Loader<'_>, blueprint: &Blueprint) -> Result<Decoder, ModelError> {
        let layers = blueprint
            .layers
            .iter()
            .enumerate()
            .map(|(index, spec)| Layer::load(loader, &blueprint.config, index, spec))
            .collect::<Result<_, _>>()?;
        Ok(Decoder { layers })
    }

    /// Runs all layers over `scratch.residual`, reading and writing the KV of `seqs`.
    pub(crate) fn forward(
        &self,
        compute: &Compute,
        layout: &KvLayout,
        scratch: &mut Scratch,
        seqs: &mut [AttnSeq<'_, '_>],
    ) {
        for (index, layer) in self.layers.iter().enumerate() {
            layer.forward(Place { compute, layout, layer: index }, scratch, seqs);
        }
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter()
    }
}

impl Layer {
    /// Runs the layer over `scratch.residual`, reading and writing the KV of `seqs`.
    pub(crate) fn forward(&self, place: Place<'_>, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        let (attention_branch, branch) = (&self.attention_branch, &self.feed_forward_branch);
        match &self.attention {
            AttentionLayer::Grouped(grouped) => grouped.forward(place, attention_branch, scratch, seqs),
            AttentionLayer::Latent(latent) => latent.forward(place, attention_branch, scratch, seqs),
        }
        match &self.feed_forward {
            FeedForwardLayer::Dense(gated) => gated.forward(place, branch, scratch),
            FeedForwardLayer::Experts(experts) => experts.forward(place, branch, scratch),
        }
    }

    /// Stores the KV that [`Layer::forward`] would store, and computes nothing else; `scratch.residual` stays as it is.
    pub(crate) fn store(&self, place: Place<'_>, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        match &self.attention {
            AttentionLayer::Grouped(grouped) => grouped.store(place, &self.attention_branch, scratch, seqs),
            AttentionLayer::Latent(latent) => latent.store(place, &self.attention_branch, scratch, seqs),
        }
    }

    fn mixture(&self) -> Option<&ExpertsLayer> {
        match &self.feed_forward {
            FeedForwardLayer::Dense(_) => None,
            FeedForwardLayer::Experts(experts) => Some(experts),
        }
    }

    /// Whether its experts' weights are float.
    pub(crate) fn has_float_experts(&self) -> bool {
        self.mixture().is_some_and(ExpertsLayer::is_float)
    }

    /// Bytes of the experts that one row is sent to.
    pub(crate) fn visited_bytes(&self) -> usize {
        self.mixture().map_or(0, ExpertsLayer::visited_bytes)
    }

    /// Its packed weights, except for experts.
    pub(crate) fn matrices(&self) -> Vec<&PackedMatrix> {
        let mut all: Vec<&PackedMatrix> = match &self.attention {
            AttentionLayer::Grouped(grouped) => grouped.matrices().collect(),
            AttentionLayer::Latent(latent) => latent.matrices().collect(),
        };
        match &self.feed_forward {
            FeedForwardLayer::Dense(gated) => all.extend(gated.matrices()),
            FeedForwardLayer::Experts(experts) => all.extend(experts.matrices()),
        }
        all
    }

    /// Takes the tensors of the layer with this index in the file.
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        index: usize,
        spec: &LayerSpec,
    ) -> Result<Layer, ModelError> {
        let branch = |names| Branch::load(loader, config, index, names, spec.residual_scale);
        Ok(Layer {
            attention_branch: branch(spec.attention_norms)?,
            attention: match &spec.attention {
                Attention::Grouped(spec) => {
                    AttentionLayer::Grouped(GroupedLayer::load(loader, config, index, spec)?)
                }
                Attention::Latent(spec) => {
                    AttentionLayer::Latent(LatentLayer::load(loader, config, index, spec)?)
                }
            },
            feed_forward_branch: branch(spec.feed_forward_norms)?,
            feed_forward: match &spec.feed_forward {
                FeedForward::Dense(spec) => {
                    FeedForwardLayer::Dense(GatedLayer::load(loader, config, index, *spec)?)
                }
                FeedForward::Experts(spec) => {
                    FeedForwardLayer::Experts(ExpertsLayer::load(loader, config, index, spec)?)
                }
            },
        })
    }
}

/// Loads the divisors of a table's frequencies.
pub(crate) fn rope_factors(
    loader: &Loader<'_>,
    ropes: &[RopeSpec],
) -> Result<Vec<Option<Vec<f32>>>, ModelError> {
    let factors = |rope: &RopeSpec| match rope.factors {
        Some(name) => loader.optional_vector(name, rope.config.dim / 2),
        None => Ok(None),
    };
    ropes.iter().map(factors).collect()
}

/// Empty tables, for a [`Scratch`].
pub(crate) fn rope_tables(ropes: &[RopeSpec], factors: &[Option<Vec<f32>>]) -> Vec<RopeTable> {
    ropes
        .iter()
        .zip(factors)
        .map(|(rope, factors)| RopeTable::new(rope.config.clone(), factors.as_deref()))
        .collect()
}
