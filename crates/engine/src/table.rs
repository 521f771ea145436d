//! The block table of one sequence.
//!
//! The invariant: slots below the committed length are written, and the table has a block for every one.

use foretoken_cache::{BLOCK_TOKENS, BlockPool, OpenBlock};
use foretoken_kernels::kv::{KvLayout, KvView};

/// Where the KV of one sequence lives.
#[derive(Default)]
pub(crate) struct BlockTable {
    open: Vec<OpenBlock>,
}

/// Blocks that hold `tokens` tokens.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

impl BlockTable {
    /// Blocks held.
    pub(crate) fn blocks(&self) -> usize {
        self.open.len()
    }

    /// Makes room for `tokens` tokens in all. False if the pool is empty; what was got is kept.
    pub(crate) fn reserve(&mut self, pool: &BlockPool, tokens: usize) -> bool {
        while self.blocks() < blocks_for(tokens) {
            match pool.open() {
                Some(block) => self.open.push(block),
                None => return false,
            }
        }
        true
    }

    /// The table as the kernels see it.
    pub(crate) fn view(&mut self, layout: &KvLayout) -> KvView<'_> {
        let open = self.open.iter_mut().map(|block| &mut **block).collect();
        KvView::new(layout, Vec::new(), open)
    }

    /// Gives every block back.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}
