//! A loaded model: token ids in, logits out.
//!
//! Owns the weights and nothing that changes from step to step: KV belongs to the caller, buffers to a
//! [`Scratch`]. The invariant is law 1: a row's logits depend on the tokens before it and on the file, not
//! on what else is in the step.

use std::sync::Arc;

use foretoken_kernels::kv::{AttnSeq, KvLayout};
use foretoken_kernels::{Compute, MatmulJob, PackedMatrix, matmul, ops, quant};

use crate::config::{ModelConfig, ModelError};
use crate::families;
use crate::gguf::Gguf;
use crate::layers::{Blueprint, Decoder, rope_factors, rope_tables};
use crate::step::{Logits, Scratch, SeqStep};
use crate::weights::Loader;

const EMBEDDING: &str = "token_embd.weight";

/// Source of the rows of the embedding table.
enum Embedding {
    /// The matrix of the output head is the table.
    Tied,
    /// The table stays in the mapped file; only rows of tokens in use are read.
    Mapped,
}

/// The packed weights of one model.
pub struct Model {
    compute: Arc<Compute>,
    gguf: Arc<Gguf>,
    embedding: Embedding,
    decoder: Decoder,
    output_norm: Vec<f32>,
    head: PackedMatrix,
    blueprint: Blueprint,
    /// Divisors of the frequencies of each rotary table.
    rope_factors: Vec<Option<Vec<f32>>>,
}

/// The hyperparameters of a file's model and the layout of its KV blocks, without loading it.
///
/// # Errors
/// An architecture or a metadata value that this build cannot use, by name.
pub fn describe(gguf: &Gguf) -> Result<(ModelConfig, KvLayout), ModelError> {
    let blueprint = families::blueprint(gguf)?;
    let layout = blueprint.kv_layout();
    Ok((blueprint.config, layout))
}

impl Model {
    /// Packs the weights of `gguf` for the kernels of `compute`.
    ///
    /// # Errors
    /// An architecture, a metadata value or a tensor that this build cannot use, by name.
    pub fn load(gguf: Arc<Gguf>, compute: Arc<Compute>) -> Result<Model, ModelError> {
        let blueprint = families::blueprint(&gguf)?;
        let config = &blueprint.config;
        let loader = Loader::new(&gguf, &compute, &config.arch);
        blueprint.unused.iter().for_each(|name| loader.skip(name));
        if config.prediction_layers > 0 {
            loader.skip_layers(config.layers);
        }
        let decoder = Decoder::load(&loader, &blueprint)?;
        let output_norm = loader.vector("output_norm.weight", config.width)?;
        let rope_factors = rope_factors(&loader, &blueprint.ropes)?;
        let (embedding, head) = match loader.optional_matrix("output.weight", config.vocab, config.width)? {
            Some(head) => {
                loader.check(EMBEDDING, &[config.width, config.vocab])?;
                (Embedding::Mapped, head)
            }
            None => (Embedding::Tied, loader.matrix(EMBEDDING, config.vocab, config.width)?),
        };
        loader.finish()?;
        Ok(Model { compute, gguf, embedding, decoder, output_norm, head, blueprint, rope_factors })
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

    /// Layout of the KV of a block.
    pub fn kv_layout(&self) -> KvLayout {
        self.decoder.kv_layout().clone()
    }

    /// Bytes of packed weights that a decode step of one row reads: of a mixture only the experts that it is sent to.
    pub fn weight_bytes(&self) -> usize {
        self.matrices().map(PackedMatrix::bytes).sum::<usize>() - self.decoder.idle_bytes()
    }

    /// Buffers for [`Model::forward`]; each calling thread needs its own.
    pub fn scratch(&self) -> Scratch {
        let ropes = rope_tables(&self.blueprint.ropes, &self.rope_factors);
        let floats = self.matrices().any(PackedMatrix::is_float);
        Scratch::new(ropes, floats, self.decoder.experts_scratch())
    }

    /// Runs one step: writes the KV of every row and returns the logits of the requested rows, in order.
    ///
    /// # Panics
    /// If a sequence has no tokens, a token id outside the vocabulary, or too few KV slots; the engine checks all
    /// three at admission.
    pub fn forward<'s>(&self, scratch: &'s mut Scratch, seqs: &mut [SeqStep<'_, '_>]) -> &'s mut Logits {
        scratch.positions.clear();
        seqs.iter().for_each(|seq| seq.push_positions(&mut scratch.positions));
        self.embed(scratch, seqs);
        let mut first = 0;
        let mut attn: Vec<AttnSeq<'_, '_>> = Vec::with_capacity(seqs.len());
        let mut wanted = Vec::new();
        for seq in seqs {
            let rows = first..first + seq.tokens.len();
            wanted.extend(seq.wanted_rows().map(|row| first + row));
            first = rows.end;
            attn.push(AttnSeq { kv: &mut *seq.kv, rows, committed: seq.committed, parents: seq.parents });
        }
        self.decoder.forward(&self.compute, scratch, &mut attn);
        self.head(scratch, &wanted);
        &mut scratch.logits
    }

    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.decoder.matrices().into_iter().chain([&self.head])
    }

    fn embed(&self, scratch: &mut Scratch, seqs: &[SeqStep<'_, '_>]) {
        let width = self.config().width;
        scratch.residual.resize(scratch.positions.len() * width, 0.0);
        let tokens = seqs.iter().flat_map(|seq| seq.tokens);
        let scale = self.blueprint.embedding_scale;
        for (row, &token) in scratch.residual.chunks_exact_mut(width).zip(tokens) {
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
        match self.embedding {
            Embedding::Tied => self.head.row(token, out),
            Embedding::Mapped => {
                let info = self.gguf.tensor(EMBEDDING).expect("found when the model was loaded");
                let bytes = self.gguf.bytes(info);
                let row_bytes = bytes.len() / self.config().vocab;
                quant::dequantize(info.ty, &bytes[token * row_bytes..][..row_bytes], out);
            }
        }
    }

    fn head(&self, scratch: &mut Scratch, wanted: &[usize]) {
        let (width, vocab) = (self.config().width, self.config().vocab);
        let Scratch { logits, residual, activations, .. } = scratch;
        logits.hidden.clear();
        wanted.iter().for_each(|&row| logits.hidden.extend(&residual[row * width..][..width]));
        if wanted.is_empty() {
            logits.reset(0, vocab);
            return;
        }
        let (eps, norm) = (self.config().norm_eps, &self.output_norm);
        ops::rms_norm_activations(&self.compute, &logits.hidden, width, norm, eps, activations);
        let out = logits.reset(wanted.len(), vocab);
        let job = MatmulJob { weight: &self.head, bias: None, out: &mut *out, add: false };
        matmul(&self.compute, activations, &mut [job]);
        let Blueprint { logit_scale, logit_softcap, .. } = self.blueprint;
        if logit_scale != 1.0 || logit_softcap.is_some() {
            ops::scale_logits(&self.compute, out, vocab, logit_scale, logit_softcap);
        }
    }
}
