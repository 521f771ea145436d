//! The model that a head is trained for: its hidden rows and, in f32, rows of its embedding and of its output.
//!
//! Not for gradients: the trunk does not change. The invariant: hidden rows are those that the engine computes, bit for bit,
//! since they come from the same forward pass.

use std::sync::Arc;

use foretoken_cache::{BLOCK_TOKENS, BlockLayout, BlockPool, OpenBlock};
use foretoken_kernels::kv::KvView;
use foretoken_kernels::quant;
use foretoken_model::Model;
use foretoken_model::step::{Scratch, SeqStep, WantLogits};

use crate::error::TrainError;

/// Tokens per forward pass. Results don't depend on it.
const STEP_TOKENS: usize = 512;
/// Tokens per forward pass with all logits; bounds their memory.
const LOGIT_TOKENS: usize = 64;

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// See the [module](self).
pub struct Trunk {
    model: Arc<Model>,
    scratch: Scratch,
    blocks: Vec<OpenBlock>,
}

impl Trunk {
    /// With room for sequences of `tokens_max` tokens.
    ///
    /// # Errors
    /// Not enough memory for the KV of such a sequence.
    pub fn new(model: Arc<Model>, tokens_max: usize) -> Result<Trunk, TrainError> {
        let capacity = tokens_max.div_ceil(BLOCK_TOKENS);
        let pool = BlockPool::new(BlockLayout::whole(model.kv_layout().block_bytes()), capacity);
        let blocks = (0..capacity).map(|_| pool.open()).collect::<Option<Vec<_>>>();
        let no_memory =
            || TrainError::TooLittle(format!("not enough memory for the KV of {tokens_max} tokens"));
        let blocks = blocks.ok_or_else(no_memory)?;
        Ok(Trunk { scratch: model.scratch(), model, blocks })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The longest sequence that [`Trunk::hidden`] takes, in tokens.
    pub fn tokens_max(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS
    }

    /// The hidden rows of a sequence, `[tokens][width]`, after the last norm.
    ///
    /// # Panics
    /// If the sequence is longer than there is room for.
    pub fn hidden(&mut self, tokens: &[u32]) -> Vec<f32> {
        let mut rows = Vec::with_capacity(tokens.len() * self.model.config().width);
        for (step, chunk) in tokens.chunks(STEP_TOKENS).enumerate() {
            let logits = self.step(chunk, step * STEP_TOKENS, WantLogits::None);
            (0..chunk.len()).for_each(|row| rows.extend_from_slice(logits.hidden(row)));
        }
        rows
    }

    /// The hidden rows of a sequence, and `read` with the logits of each of its rows.
    ///
    /// # Panics
    /// As [`Trunk::hidden`].
    pub fn hidden_and_logits(&mut self, tokens: &[u32], mut read: impl FnMut(usize, &[f32])) -> Vec<f32> {
        let mut rows = Vec::with_capacity(tokens.len() * self.model.config().width);
        for (step, chunk) in tokens.chunks(LOGIT_TOKENS).enumerate() {
            let logits = self.step(chunk, step * LOGIT_TOKENS, WantLogits::All);
            for row in 0..chunk.len() {
                rows.extend_from_slice(logits.hidden(row));
                read(step * LOGIT_TOKENS + row, logits.row(row));
            }
        }
        rows
    }

    fn step(
        &mut self,
        tokens: &[u32],
        committed: usize,
        logits: WantLogits,
    ) -> &foretoken_model::step::Logits {
        let layout = self.model.kv_layout();
        let open = self.blocks.iter_mut().map(|block| &mut **block).collect();
        let mut kv = KvView::new(&layout, Vec::new(), open);
        let step = SeqStep { tokens, parents: None, committed, hidden: None, kv: &mut kv, logits };
        self.model.forward_with_hidden(&mut self.scratch, &mut [step])
    }

    /// The embeddings of some tokens, `[tokens][width]`.
    pub fn embeddings(&self, tokens: &[u32]) -> Vec<f32> {
        self.rows(EMBEDDING, tokens)
    }

    /// Rows of the output, `[rows][width]`.
    pub fn output_rows(&self, rows: &[u32]) -> Vec<f32> {
        let own = self.model.gguf().tensor(OUTPUT).is_some();
        self.rows(if own { OUTPUT } else { EMBEDDING }, rows)
    }

    fn rows(&self, tensor: &str, rows: &[u32]) -> Vec<f32> {
        let (gguf, width) = (self.model.gguf(), self.model.config().width);
        let info = gguf.tensor(tensor).expect("checked when the model was loaded");
        let (bytes, row_bytes) = (gguf.bytes(info), info.byte_len() / info.rows());
        let mut out = vec![0f32; rows.len() * width];
        for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
            quant::dequantize(info.ty, &bytes[row as usize * row_bytes..][..row_bytes], out);
        }
        out
    }

    /// A tensor of the model in f32, or `None` where it has none of that name and size.
    pub fn tensor(&self, name: &str, elements: usize) -> Option<Vec<f32>> {
        let gguf = self.model.gguf();
        let info = gguf.tensor(name).filter(|info| info.elements() == elements)?;
        let mut out = vec![0f32; elements];
        quant::dequantize(info.ty, gguf.bytes(info), &mut out);
        Some(out)
    }
}
