//! One sequence on the model without a scheduler, for `perplexity` and `bench model`.
//!
//! Invariant: the first `len` slots of the block table hold the KV of the tokens fed so far.

use anyhow::{Context, Result};
use foretoken_cache::{BLOCK_TOKENS, BlockLayout, BlockPool, OpenBlock};
use foretoken_kernels::kv::KvView;
use foretoken_model::step::{Logits, Scratch, SeqStep, WantLogits};
use foretoken_model::{ExpertsRead, Model};

/// A model, one block table and the buffers of its forward pass.
pub(crate) struct Sequence<'m> {
    model: &'m Model,
    scratch: Scratch,
    blocks: Vec<OpenBlock>,
    len: usize,
}

impl<'m> Sequence<'m> {
    /// Allocates blocks for `ctx` tokens.
    pub(crate) fn new(model: &'m Model, ctx: usize) -> Result<Self> {
        let capacity = ctx.div_ceil(BLOCK_TOKENS);
        let pool = BlockPool::new(BlockLayout::whole(model.kv_layout().block_bytes()), capacity);
        let blocks = (0..capacity).map(|_| pool.open()).collect::<Option<Vec<_>>>();
        let blocks = blocks.context("the pool has as many blocks as were asked for")?;
        Ok(Self { model, scratch: model.scratch(), blocks, len: 0 })
    }

    /// What the last forward pass read of mixtures of experts.
    pub(crate) fn experts_read(&self) -> ExpertsRead {
        self.scratch.experts_read()
    }

    /// Drops all tokens from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Runs one forward pass over `tokens`.
    pub(crate) fn feed(&mut self, tokens: &[u32], logits: WantLogits) -> &Logits {
        let layout = self.model.kv_layout();
        let open = self.blocks.iter_mut().map(|block| &mut **block).collect();
        let mut kv = KvView::new(&layout, Vec::new(), open);
        let step = SeqStep { tokens, parents: None, committed: self.len, hidden: None, kv: &mut kv, logits };
        self.len += tokens.len();
        self.model.forward(&mut self.scratch, &mut [step])
    }
}
