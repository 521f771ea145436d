//! The head for multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): one more layer, whose
//! output is the next token but one.
//!
//! At a token `t` its input is `P [norm(embedding of t); norm(h)]`, where `h` is the hidden row of the token before: the
//! model's after its last norm, or, where the head continues from its own draft token, its own. Its output, through the output
//! head, predicts the token after `t`. Keys and values are in the slot of `t` beside the model's own.
//!
//! The invariant: what a block holds of the head comes from the model's hidden rows, so it depends on the tokens alone;
//! what comes from draft tokens is in slots that are written again.

use std::sync::Arc;

use foretoken_kernels::kv::{AttnSeq, KvView};
use foretoken_kernels::{MatmulJob, PackedMatrix, matmul, ops};

use crate::config::{ModelConfig, ModelError};
use crate::embedding::MappedEmbedding;
use crate::gguf::Gguf;
use crate::layers::{Layer, LayerSpec, Place};
use crate::step::{Scratch, SeqStep};
use crate::trained_head;
use crate::weights::Loader;

/// Where a model's head for multi-token prediction comes from.
#[derive(Clone, Debug, Default)]
pub enum Prediction {
    /// The model's own file, if that has one.
    #[default]
    Own,
    /// A file of its own; also one of a head that was trained for the model.
    File(Arc<Gguf>),
    /// No head.
    Off,
}

/// The input of the head for one sequence.
pub struct HeadInput<'s, 'k> {
    /// The token.
    pub token: u32,
    /// The hidden row of the token before it.
    pub hidden: &'s [f32],
    /// Its slot: the number of tokens before it.
    pub slot: usize,
    /// The sequence's block table, with room for the slot.
    pub kv: &'s mut KvView<'k>,
}

/// A loaded head. See the [module](self).
pub(crate) struct PredictionHead {
    layer: Layer,
    /// The index of its layer in a block.
    index: usize,
    eps: f32,
    embedding_norm: Vec<f32>,
    hidden_norm: Vec<f32>,
    /// From both to the layer's input.
    projection: PackedMatrix,
    /// The model's where it is `None`, as with the two below.
    pub(crate) embedding: Option<MappedEmbedding>,
    pub(crate) norm: Option<Vec<f32>>,
    pub(crate) output: Option<PackedMatrix>,
    /// The tokens of the output's rows, where they are not the whole vocabulary.
    pub(crate) tokens: Option<Vec<u32>>,
}

/// Buffers of the head's input.
#[derive(Default)]
pub(crate) struct PredictionScratch {
    /// Of each row the embedding, before and then after its norm.
    pub(crate) embedded: Vec<f32>,
    /// Of each row the hidden row before it, likewise.
    pub(crate) hidden: Vec<f32>,
}

/// The tensor that a file with a head has: from the embedding and the hidden row to the layer's input.
fn projection_name(layer: usize) -> String {
    format!("blk.{layer}.nextn.eh_proj.weight")
}

/// Whether a file has the head of a model.
pub(crate) fn has_head(gguf: &Gguf, config: &ModelConfig) -> bool {
    gguf.tensor(&projection_name(config.layers)).is_some()
}

impl PredictionHead {
    /// Takes the tensors of the head from `gguf`, which is the model's own file or one of its own.
    pub(crate) fn load(
        loader: &Loader<'_>,
        gguf: &Arc<Gguf>,
        config: &ModelConfig,
        spec: &LayerSpec,
    ) -> Result<PredictionHead, ModelError> {
        let (layer, width, vocab) = (config.layers, config.width, config.vocab);
        let name = |suffix: &str| format!("blk.{layer}.nextn.{suffix}.weight");
        let table = name("embed_tokens");
        let embedding = match loader.has(&table) {
            true => Some(MappedEmbedding::new(loader, gguf, &table, (vocab, width))?),
            false => None,
        };
        Ok(PredictionHead {
            layer: Layer::load(loader, config, layer, spec)?,
            index: layer,
            eps: config.norm_eps,
            embedding_norm: loader.vector(&name("enorm"), width)?,
            hidden_norm: loader.vector(&name("hnorm"), width)?,
            projection: loader.matrix(&projection_name(layer), width, 2 * width)?,
            embedding,
            norm: loader.optional_vector(&name("shared_head_norm"), width)?,
            output: loader.optional_matrix(&name("shared_head_head"), vocab, width)?,
            tokens: None,
        })
    }

    /// Takes a trained head from a file of its own, and its rows of the model's output head from `model`.
    pub(crate) fn load_trained(
        model: &Loader<'_>,
        loader: &Loader<'_>,
        config: &ModelConfig,
        (spec, output): (&LayerSpec, &str),
    ) -> Result<PredictionHead, ModelError> {
        let file = loader.gguf();
        let tokens = trained_head::rows(file, config)?;
        let head = PredictionHead::load(loader, file, config, spec)?;
        trained_head::check_model(file, model.gguf())?;
        let output = model.gathered_rows(output, config.vocab, &tokens, config.width)?;
        Ok(PredictionHead { output: Some(output), tokens: Some(tokens), ..head })
    }

    pub(crate) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Its own packed weights.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layer.matrices().into_iter().chain([&self.projection]).chain(&self.output)
    }

    /// Stores the KV of rows whose input is in `scratch.prediction` and whose positions in `scratch.positions`.
    pub(crate) fn store(&self, place: Place<'_>, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        self.project(place, scratch);
        self.layer.store(Place { layer: self.index, ..place }, scratch, seqs);
    }

    /// Runs the head over rows as for [`PredictionHead::store`]; `scratch.residual` has its output.
    pub(crate) fn forward(&self, place: Place<'_>, scratch: &mut Scratch, seqs: &mut [AttnSeq<'_, '_>]) {
        self.project(place, scratch);
        self.layer.forward(Place { layer: self.index, ..place }, scratch, seqs);
    }

    /// The layer's input, in `scratch.residual`.
    fn project(&self, place: Place<'_>, scratch: &mut Scratch) {
        let (c, width) = (place.compute, self.hidden_norm.len());
        let Scratch { prediction, residual, activations, positions, .. } = scratch;
        let PredictionScratch { embedded, hidden } = prediction;
        ops::rms_norm_heads(c, embedded, width, 1, width, &self.embedding_norm, self.eps);
        ops::rms_norm_heads(c, hidden, width, 1, width, &self.hidden_norm, self.eps);
        activations.reset(positions.len(), 2 * width);
        activations.fill(c, &|row, out| {
            out[..width].copy_from_slice(&embedded[row * width..][..width]);
            out[width..].copy_from_slice(&hidden[row * width..][..width]);
        });
        residual.resize(positions.len() * width, 0.0);
        let job = MatmulJob { weight: &self.projection, bias: None, out: residual, add: false };
        matmul(c, activations, &mut [job]);
    }
}

/// Where the hidden row before a row of a sequence is.
#[derive(Clone, Copy)]
pub(crate) enum Before {
    /// At a row of the step.
    Row(usize),
    /// Before the step.
    Sequence,
}

/// For the rows of a sequence that the head can take: where the hidden row before each is. They are the last ones, and
/// all but the first where the sequence doesn't know its hidden row; none where a later row needs it too.
pub(crate) fn rows_before(seq: &SeqStep<'_, '_>, first: usize) -> impl Iterator<Item = (usize, Before)> {
    let parent = move |row: usize| match seq.parents {
        None => row.checked_sub(1),
        Some(parents) => usize::try_from(parents[row]).ok(),
    };
    let from = match seq.hidden {
        Some(_) => 0,
        None if (1..seq.tokens.len()).all(|row| parent(row).is_some()) => 1,
        None => seq.tokens.len(),
    };
    let before = move |row| parent(row).map_or(Before::Sequence, |parent| Before::Row(first + parent));
    (from..seq.tokens.len()).map(move |row| (row, before(row)))
}
