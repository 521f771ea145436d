//! The block table of one sequence: shared sealed blocks, then open blocks of its own.
//!
//! The invariant: slots below the committed length are written, sealed blocks are full, and every slot from
//! the committed length on lies in an open block. Holding the table is what keeps its blocks in memory.

use foretoken_cache::{BLOCK_TOKENS, ContextCache, Match, OpenBlock, Place, Scope, SealedBlock};
use foretoken_kernels::kv::{KvLayout, KvView};

/// Where the KV of one sequence lives.
#[derive(Default)]
pub(crate) struct BlockTable {
    sealed: Vec<SealedBlock>,
    open: Vec<OpenBlock>,
}

/// Blocks that hold `tokens` tokens.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

impl BlockTable {
    /// A table that starts with the cached prefix, and the number of tokens in it. A block that matches only
    /// partially is copied, if there is room for the copy.
    pub(crate) fn from_match(cache: &ContextCache, found: Match) -> (BlockTable, usize) {
        let Match { blocks, branch } = found;
        let mut table = BlockTable { sealed: blocks, open: Vec::new() };
        let mut tokens = table.sealed.len() * BLOCK_TOKENS;
        if let Some((block, agreed)) = branch
            && let Some(mut copy) = cache.open()
        {
            copy.copy_from(&block);
            table.open.push(copy);
            tokens += agreed;
        }
        (table, tokens)
    }

    /// Blocks held, shared ones included.
    pub(crate) fn blocks(&self) -> usize {
        self.sealed.len() + self.open.len()
    }

    /// Sealed blocks held; others may hold them too.
    pub(crate) fn sealed(&self) -> usize {
        self.sealed.len()
    }

    /// Allocates blocks for `tokens` tokens in total. False if memory is full; blocks allocated so far are kept.
    pub(crate) fn reserve(&mut self, cache: &ContextCache, tokens: usize) -> bool {
        while self.blocks() < blocks_for(tokens) {
            match cache.open() {
                Some(block) => self.open.push(block),
                None => return false,
            }
        }
        true
    }

    /// Seals the open blocks that are full once `committed` of `tokens` have their KV. With `share`, they become
    /// part of the cache, and an equal block that is cached already replaces ours.
    pub(crate) fn seal_full(
        &mut self,
        cache: &ContextCache,
        scope: &Scope,
        tokens: &[u32],
        committed: usize,
        share: bool,
    ) {
        let full = committed / BLOCK_TOKENS - self.sealed.len();
        for open in self.open.drain(..full) {
            let place = next_place(&self.sealed, scope);
            let block = open.seal(scope, place, &tokens[place.tokens_before()..][..BLOCK_TOKENS]);
            self.sealed.push(if share { cache.insert(block) } else { block });
        }
    }

    /// Inserts the partial last block of a finished sequence into the cache.
    pub(crate) fn share_tail(
        &mut self,
        cache: &ContextCache,
        scope: &Scope,
        tokens: &[u32],
        committed: usize,
    ) {
        let tail = &tokens[self.sealed.len() * BLOCK_TOKENS..committed];
        if !tail.is_empty() && !self.open.is_empty() {
            let block = self.open.swap_remove(0).seal(scope, next_place(&self.sealed, scope), tail);
            cache.insert(block);
        }
    }

    /// Moves the KV of accepted draft tokens into place: row `kept[i]` of the draft tokens after `next`
    /// tokens becomes token `next + i`.
    pub(crate) fn move_slots(&mut self, layout: &KvLayout, next: usize, kept: &[usize]) {
        // Rows are numbered from the root, which is the token before.
        if kept.iter().enumerate().all(|(at, &row)| row == at + 1) {
            return;
        }
        let mut view = self.view(layout);
        for (at, &row) in kept.iter().enumerate() {
            view.copy_slot(next + row - 1, next + at);
        }
    }

    /// The table as the kernels see it.
    pub(crate) fn view(&mut self, layout: &KvLayout) -> KvView<'_> {
        let sealed = self.sealed.iter().map(|block| &**block).collect();
        let open = self.open.iter_mut().map(|block| &mut **block).collect();
        KvView::new(layout, sealed, open)
    }
}

fn next_place(sealed: &[SealedBlock], scope: &Scope) -> Place {
    sealed.last().map_or(scope.root(), |block| {
        scope.next(block.place(), block.key().expect("only full blocks are kept sealed"))
    })
}
