//! A loaded model: token ids in, logits out.
//!
//! Owns the weights and nothing that changes from step to step: KV belongs to the caller, buffers to a
//! [`Scratch`]. The invariant is law 1: a row's logits depend on the tokens before it and on the file, not
//! on what else is in the step.

use std::sync::Arc;

use foretoken_kernels::kv::{AttnSeq, KvLayout};
use foretoken_kernels::{Compute, MatmulJob, PackedMatrix, matmul, ops};

use crate::config::{ModelConfig, ModelError};
use crate::embedding::MappedEmbedding;
use crate::families;
use crate::gguf::Gguf;
use crate::layers::{Blueprint, Decoder, ExpertsScratch, Layer, LayerSpec, Place, rope_factors, rope_tables};
use crate::prediction::{Before, HeadInput, Prediction, PredictionHead, has_head, rows_before};
use crate::step::{Logits, Scratch, SeqStep};
use crate::trained_head;
use crate::weights::Loader;

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Source of the rows of the embedding table.
enum Embedding {
    /// The matrix of the output head is the table.
    Tied,
    Mapped(MappedEmbedding),
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The head for multi-token prediction.
    pub prediction: Prediction,
    /// Bytes of experts that are kept in memory, over all layers; others are read from the file whenever a row is sent to
    /// them. At least the experts that one row visits are kept. `None` keeps all.
    pub expert_ram: Option<usize>,
}

/// The packed weights of one model.
pub struct Model {
    compute: Arc<Compute>,
    gguf: Arc<Gguf>,
    /// The file of the head for multi-token prediction, where that is not the model's.
    prediction_gguf: Option<Arc<Gguf>>,
    layout: KvLayout,
    embedding: Embedding,
    decoder: Decoder,
    output_norm: Vec<f32>,
    /// The output head.
    output: PackedMatrix,
    prediction: Option<PredictionHead>,
    blueprint: Blueprint,
    /// Divisors of the frequencies of each rotary table.
    rope_factors: Vec<Option<Vec<f32>>>,
}

/// The hyperparameters of a file's model and the layout of its KV blocks, without loading it.
///
/// # Errors
/// As [`Model::load_with`], except for tensors.
pub fn describe(gguf: &Gguf, prediction: &Prediction) -> Result<(ModelConfig, KvLayout), ModelError> {
    let blueprint = blueprint(gguf, prediction)?;
    let layout = blueprint.kv_layout();
    Ok((blueprint.config, layout))
}

impl Model {
    /// Packs the weights of `gguf` for the kernels of `compute`, its head for multi-token prediction included if it has
    /// one.
    ///
    /// # Errors
    /// An architecture, a metadata value or a tensor that this build cannot use, by name.
    pub fn load(gguf: Arc<Gguf>, compute: Arc<Compute>) -> Result<Model, ModelError> {
        Model::load_with(gguf, LoadOptions::default(), compute)
    }

    /// [`Model::load`] with other options.
    ///
    /// # Errors
    /// As [`Model::load`]; also a head that belongs to another model.
    pub fn load_with(
        gguf: Arc<Gguf>,
        options: LoadOptions,
        compute: Arc<Compute>,
    ) -> Result<Model, ModelError> {
        let LoadOptions { prediction, expert_ram } = options;
        let blueprint = blueprint(&gguf, &prediction)?;
        let config = &blueprint.config;
        let expert_bytes = expert_ram.map(|bytes| bytes / blueprint.mixtures().max(1));
        let loader = Loader::new(&gguf, &compute, &config.arch, expert_bytes);
        blueprint.unused.iter().for_each(|name| loader.skip(name));
        if config.prediction_layers > 0 {
            loader.skip_layers(config.layers);
        }
        let decoder = Decoder::load(&loader, &blueprint)?;
        let output_norm = loader.vector("output_norm.weight", config.width)?;
        let rope_factors = rope_factors(&loader, &blueprint.ropes)?;
        let (embedding, output) = match loader.optional_matrix(OUTPUT, config.vocab, config.width)? {
            Some(output) => {
                let table = MappedEmbedding::new(&loader, &gguf, EMBEDDING, (config.vocab, config.width))?;
                (Embedding::Mapped(table), output)
            }
            None => (Embedding::Tied, loader.matrix(EMBEDDING, config.vocab, config.width)?),
        };
        let prediction_gguf = match prediction {
            Prediction::File(file) => Some(file),
            Prediction::Own | Prediction::Off => None,
        };
        let prediction = match (&blueprint.prediction, &prediction_gguf) {
            (None, _) => None,
            (Some(spec), None) => Some(PredictionHead::load(&loader, &gguf, config, spec)?),
            (Some(spec), Some(file)) => {
                let head = Loader::new(file, &compute, &config.arch, expert_bytes);
                Some(if trained_head::is_trained(file) {
                    let output = if loader.has(OUTPUT) { OUTPUT } else { EMBEDDING };
                    let trained = PredictionHead::load_trained(&loader, &head, config, (spec, output))?;
                    head.finish()?;
                    trained
                } else {
                    // The file may have tensors of the model too, which aren't needed.
                    PredictionHead::load(&head, file, config, spec)?
                })
            }
        };
        loader.finish()?;
        let layout = blueprint.kv_layout();
        Ok(Model {
            compute,
            gguf,
            prediction_gguf,
            layout,
            embedding,
            decoder,
            output_norm,
            output,
            prediction,
            blueprint,
            rope_factors,
        })
    }

    /// Hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.blueprint.config
    }

    /// The execution context of the model's kernels.
    pub fn compute(&self) -> &Arc<Compute> {
        &self.compute
    }

    /// The file that the weights were loaded from.
    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    /// The file of the head for multi-token prediction, where that is not the model's own.
    pub fn prediction_gguf(&self) -> Option<&Arc<Gguf>> {
        self.prediction_gguf.as_ref()
    }

    /// Whether it has a head for multi-token prediction.
    pub fn has_prediction(&self) -> bool {
        self.prediction.is_some()
    }

    /// The tokens whose logits [`Model::predict`] gives, in order; `None` if that is the whole vocabulary, or there is no
    /// head.
    pub fn predicted_tokens(&self) -> Option<&[u32]> {
        self.prediction.as_ref()?.tokens.as_deref()
    }

    /// Layout of the KV of a block.
    pub fn kv_layout(&self) -> KvLayout {
        self.layout.clone()
    }

    /// Bytes of packed weights that a decode step of one row reads: of a mixture only the experts that it is sent to.
    pub fn weight_bytes(&self) -> usize {
        self.shared_weight_bytes() + self.decoder.layers().map(Layer::visited_bytes).sum::<usize>()
    }

    /// Bytes of packed weights that every step reads; of experts it reads those that its rows are sent to
    /// ([`Scratch::experts_read`]).
    pub fn shared_weight_bytes(&self) -> usize {
        let layers = self.decoder.layers();
        layers.flat_map(Layer::matrices).chain([&self.output]).map(PackedMatrix::bytes).sum()
    }

    /// Buffers for [`Model::forward`]; each calling thread needs its own.
    pub fn scratch(&self) -> Scratch {
        let ropes = rope_tables(&self.blueprint.ropes, &self.rope_factors);
        let head = self.prediction.as_ref();
        let layers = || self.decoder.layers().chain(head.map(PredictionHead::layer));
        let matrices = layers().flat_map(Layer::matrices).chain([&self.output]);
        let mut matrices = matrices.chain(head.into_iter().flat_map(PredictionHead::matrices));
        let floats = matrices.any(PackedMatrix::is_float);
        let float_experts = layers().any(Layer::has_float_experts);
        Scratch::new(ropes, floats, ExpertsScratch::new(float_experts))
    }

    /// Runs one step: writes the KV of every row and returns the logits of the requested rows, in order.
    ///
    /// # Panics
    /// If a sequence has no tokens, a token id outside the vocabulary, or too few KV slots; the engine checks all
    /// three at admission.
    pub fn forward<'s>(&self, scratch: &'s mut Scratch, seqs: &mut [SeqStep<'_, '_>]) -> &'s mut Logits {
        self.run(scratch, seqs, self.prediction.is_some())
    }

    /// [`Model::forward`] that gives hidden rows ([`Logits::hidden`]) without a head for multi-token prediction too: what
    /// such a head is trained on.
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_with_hidden<'s>(
        &self,
        scratch: &'s mut Scratch,
        seqs: &mut [SeqStep<'_, '_>],
    ) -> &'s mut Logits {
        self.run(scratch, seqs, true)
    }

    /// `hidden`: whether to keep the hidden rows of all rows.
    fn run<'s>(
        &self,
        scratch: &'s mut Scratch,
        seqs: &mut [SeqStep<'_, '_>],
        hidden: bool,
    ) -> &'s mut Logits {
        scratch.experts.begin_step();
        scratch.positions.clear();
        seqs.iter().for_each(|seq| seq.push_positions(&mut scratch.positions));
        scratch.residual.resize(scratch.positions.len() * self.config().width, 0.0);
        let tokens = seqs.iter().flat_map(|seq| seq.tokens);
        self.embed(tokens, &mut scratch.residual);
        let mut first = 0;
        let mut attn: Vec<AttnSeq<'_, '_>> = Vec::with_capacity(seqs.len());
        let mut wanted = Vec::new();
        for seq in &mut *seqs {
            let rows = first..first + seq.tokens.len();
            wanted.extend(seq.wanted_rows().map(|row| first + row));
            first = rows.end;
            attn.push(AttnSeq { kv: &mut *seq.kv, rows, committed: seq.committed, parents: seq.parents });
        }
        self.decoder.forward(&self.compute, &self.layout, scratch, &mut attn);
        self.finish(scratch, &wanted, hidden);
        if let Some(head) = &self.prediction {
            self.store_for_head(head, scratch, seqs);
        }
        &mut scratch.logits
    }

    /// Runs the head for multi-token prediction on one token of each sequence: logits of
    /// [`Model::predicted_tokens`] and hidden rows, in order.
    ///
    /// # Panics
    /// If the model has no head, or as [`Model::forward`].
    pub fn predict<'s>(&self, scratch: &'s mut Scratch, seqs: &mut [HeadInput<'_, '_>]) -> &'s mut Logits {
        let head = self.prediction.as_ref().expect("a model with a head for multi-token prediction");
        scratch.positions.clear();
        scratch.positions.extend(seqs.iter().map(|seq| seq.slot as u32));
        let Scratch { prediction, .. } = scratch;
        prediction.hidden.clear();
        seqs.iter().for_each(|seq| prediction.hidden.extend_from_slice(seq.hidden));
        self.embed_for_head(head, seqs.iter().map(|seq| &seq.token), scratch);
        let attn = seqs.iter_mut().enumerate().map(|(row, seq)| AttnSeq {
            kv: &mut *seq.kv,
            rows: row..row + 1,
            committed: seq.slot,
            parents: None,
        });
        head.forward(self.place(), scratch, &mut attn.collect::<Vec<_>>());
        let (c, eps, width) = (&*self.compute, self.config().norm_eps, self.config().width);
        let Scratch { logits, residual, activations, .. } = scratch;
        let rows = seqs.len();
        let hidden = logits.reset_hidden(rows, width);
        ops::rms_norm(c, residual, width, head.norm.as_deref().unwrap_or(&self.output_norm), eps, hidden);
        activations.reset(rows, width);
        activations.quantize(c, hidden);
        self.project(head.output.as_ref().unwrap_or(&self.output), scratch, rows);
        &mut scratch.logits
    }

    /// Stores the head's KV of the rows of a step whose hidden rows are in `scratch.logits`.
    fn store_for_head(&self, head: &PredictionHead, scratch: &mut Scratch, seqs: &mut [SeqStep<'_, '_>]) {
        let Scratch { prediction, logits, positions, .. } = scratch;
        prediction.hidden.clear();
        let (mut tokens, mut kept, mut of_seqs) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for seq in &*seqs {
            let start = kept.len();
            for (row, before) in rows_before(seq, first) {
                let hidden = match before {
                    Before::Row(row) => logits.hidden(row),
                    Before::Sequence => seq.hidden.expect("a row that needs it is left out otherwise"),
                };
                prediction.hidden.extend_from_slice(hidden);
                tokens.push(seq.tokens[row]);
                kept.push(positions[first + row]);
            }
            of_seqs.push((seq.tokens.len() - (kept.len() - start), start..kept.len()));
            first += seq.tokens.len();
        }
        *positions = kept;
        if tokens.is_empty() {
            return;
        }
        self.embed_for_head(head, tokens.iter(), scratch);
        let of_seqs = seqs.iter_mut().zip(of_seqs).filter(|(_, (_, rows))| !rows.is_empty());
        let attn = of_seqs.map(|(seq, (left_out, rows))| AttnSeq {
            kv: &mut *seq.kv,
            rows,
            committed: seq.committed + left_out,
            parents: None,
        });
        head.store(self.place(), scratch, &mut attn.collect::<Vec<_>>());
    }

    fn place(&self) -> Place<'_> {
        Place { compute: &self.compute, layout: &self.layout, layer: 0 }
    }

    /// Sets the embeddings of the head's input.
    fn embed_for_head<'t>(
        &self,
        head: &PredictionHead,
        tokens: impl ExactSizeIterator<Item = &'t u32>,
        scratch: &mut Scratch,
    ) {
        let out = &mut scratch.prediction.embedded;
        out.resize(tokens.len() * self.config().width, 0.0);
        match &head.embedding {
            Some(own) => {
                for (row, &token) in out.chunks_exact_mut(self.config().width).zip(tokens) {
                    own.row(token as usize, row);
                }
            }
            None => self.embed(tokens, out),
        }
    }

    fn embed<'t>(&self, tokens: impl Iterator<Item = &'t u32>, out: &mut [f32]) {
        let scale = self.blueprint.embedding_scale;
        for (row, &token) in out.chunks_exact_mut(self.config().width).zip(tokens) {
            self.embed_token(token as usize, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    fn embed_token(&self, token: usize, out: &mut [f32]) {
        assert!(
            token < self.config().vocab,
            "token {token} is outside the vocabulary of {}",
            self.config().vocab
        );
        match &self.embedding {
            Embedding::Tied => self.output.row(token, out),
            Embedding::Mapped(table) => table.row(token, out),
        }
    }

    /// From the residual stream to the logits of the wanted rows and, if `keep_hidden`, the hidden rows of all.
    fn finish(&self, scratch: &mut Scratch, wanted: &[usize], keep_hidden: bool) {
        let (c, width) = (&*self.compute, self.config().width);
        let (eps, norm) = (self.config().norm_eps, &self.output_norm);
        let Scratch { logits, residual, activations, branch: gathered, .. } = scratch;
        gathered.clear();
        let mut gather = |from: &[f32]| {
            wanted.iter().for_each(|&row| gathered.extend_from_slice(&from[row * width..][..width]));
        };
        if keep_hidden {
            let hidden = logits.reset_hidden(residual.len() / width, width);
            ops::rms_norm(c, residual, width, norm, eps, hidden);
            gather(hidden);
            activations.reset(wanted.len(), width);
            activations.quantize(c, gathered);
        } else {
            gather(residual);
            ops::rms_norm_activations(c, gathered, width, norm, eps, activations);
        }
        self.project(&self.output, scratch, wanted.len());
    }

    /// From normed hidden rows in `scratch.activations` to logits.
    fn project(&self, output: &PackedMatrix, scratch: &mut Scratch, rows: usize) {
        let vocab = output.rows();
        let Scratch { logits, activations, .. } = scratch;
        let out = logits.reset(rows, vocab);
        if rows == 0 {
            return;
        }
        let job = MatmulJob { weight: output, bias: None, out: &mut *out, add: false };
        matmul(&self.compute, activations, &mut [job]);
        let Blueprint { logit_scale, logit_softcap, .. } = self.blueprint;
        if logit_scale != 1.0 || logit_softcap.is_some() {
            ops::scale_logits(&self.compute, out, vocab, logit_scale, logit_softcap);
        }
    }
}

/// What a file's model is made of, with the head for multi-token prediction that it is to have.
fn blueprint(gguf: &Gguf, prediction: &Prediction) -> Result<Blueprint, ModelError> {
    let mut blueprint = families::blueprint(gguf)?;
    blueprint.prediction = match prediction {
        Prediction::Own => blueprint.prediction.filter(|_| has_head(gguf, &blueprint.config)),
        Prediction::File(file) if trained_head::is_trained(file) => {
            Some(trained_head::spec(file, &blueprint)?)
        }
        Prediction::File(file) => Some(head_spec(file, &blueprint.config)?),
        Prediction::Off => None,
    };
    Ok(blueprint)
}

/// The layer of the head for multi-token prediction in a file of its own.
fn head_spec(gguf: &Gguf, ours: &ModelConfig) -> Result<LayerSpec, ModelError> {
    let of_file = families::blueprint(gguf)?;
    let theirs = &of_file.config;
    let pairs = [
        ("architecture", ours.arch.clone(), theirs.arch.clone()),
        ("number of layers", ours.layers.to_string(), theirs.layers.to_string()),
        ("width", ours.width.to_string(), theirs.width.to_string()),
        ("vocabulary", ours.vocab.to_string(), theirs.vocab.to_string()),
    ];
    if let Some((what, ours, theirs)) = pairs.into_iter().find(|(_, ours, theirs)| ours != theirs) {
        return Err(ModelError::OtherHead { what, ours, theirs });
    }
    of_file.prediction.filter(|_| has_head(gguf, ours)).ok_or(ModelError::NoHead)
}
