//! The block table of one sequence: shared sealed blocks, then open blocks of its own.
//!
//! The invariant: slots below the committed length are written, sealed blocks are full, and every slot from
//! the committed length on lies in an open block. Holding the table is what keeps its blocks in memory. Sealed blocks that
//! no window reaches any more are held without their windowed part.

use foretoken_cache::{BLOCK_TOKENS, ContextCache, Match, OpenBlock, Place, Scope, SealedBlock};
use foretoken_kernels::kv::{KvLayout, KvView, OpenParts, SealedParts};

/// Where the KV of one sequence lives.
#[derive(Default)]
pub(crate) struct BlockTable {
    sealed: Vec<SealedBlock>,
    open: Vec<OpenBlock>,
    /// Sealed blocks, from the first on, that are without their windowed part.
    without_windowed: usize,
    /// Sealed blocks, from the first on, that were cached when the sequence started.
    matched: usize,
}

/// Blocks that hold `tokens` tokens.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

impl BlockTable {
    /// A table that starts with the cached prefix, and the number of tokens in it. A block that matches only
    /// partially is copied, if there is room for the copy; without it the table may begin earlier still, since its window
    /// reaches further back.
    pub(crate) fn from_match(cache: &ContextCache, found: Match) -> (BlockTable, usize) {
        let Match { blocks, branch, .. } = found;
        let mut table = BlockTable { matched: blocks.len(), sealed: blocks, ..BlockTable::default() };
        let mut tokens = table.sealed.len() * BLOCK_TOKENS;
        if let Some((block, agreed)) = branch
            && let Some(mut copy) = cache.open()
        {
            copy.copy_from(&block);
            table.open.push(copy);
            tokens += agreed;
            return (table, tokens);
        }
        let whole = |from: usize, table: &BlockTable| table.sealed[from..].iter().all(SealedBlock::is_whole);
        while !whole(cache.layout().windowed_from(tokens).min(table.sealed.len()), &table) {
            table.sealed.pop();
            tokens -= BLOCK_TOKENS;
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

    /// Gives up the windowed parts that nothing after `committed` tokens reads, nor after the last whole blocks before.
    /// Those that this sequence computed are the first that the cache evicts, except before `points`, numbers of blocks
    /// after which later sequences may resume.
    pub(crate) fn drop_windowed(&mut self, cache: &ContextCache, committed: usize, points: &[usize]) {
        let from = self.without_windowed;
        let keep = windowed_at(cache, committed / BLOCK_TOKENS).min(self.sealed.len());
        if keep <= from {
            return;
        }
        self.sealed[from..keep].iter_mut().for_each(SealedBlock::drop_windowed);
        self.without_windowed = keep;
        let resumes = |block: &usize| points.iter().any(|&at| (windowed_at(cache, at)..at).contains(block));
        let left = (from.max(self.matched)..keep).filter(|block| !resumes(block));
        cache.leave_windowed(left.map(|block| &self.sealed[block]));
    }

    /// Writes to the lower tiers what resuming after the first `blocks` sealed blocks reads of windowed parts, and if it is
    /// there, what resuming after one block less reads: the next prompt may differ in the last tokens before.
    pub(crate) fn write_windowed(&self, cache: &ContextCache, blocks: usize) {
        let needed = cache.layout().windowed_from(blocks * BLOCK_TOKENS);
        let Some(sealed) = self.sealed.get(..blocks) else { return };
        let whole = sealed.iter().rposition(|block| !block.is_whole()).map_or(0, |last| last + 1);
        if whole <= needed {
            cache.write_windowed(&sealed[windowed_at(cache, blocks).max(whole)..]);
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
        let sealed =
            self.sealed.iter().map(|block| SealedParts { lasting: block, windowed: block.windowed() });
        let open = self.open.iter_mut().map(|block| {
            let (lasting, windowed) = block.parts_mut();
            OpenParts { lasting, windowed }
        });
        KvView::of_parts(layout, sealed.collect(), open.collect())
    }
}

/// The first block whose windowed part resuming after `blocks` blocks reads, or after one block less.
fn windowed_at(cache: &ContextCache, blocks: usize) -> usize {
    cache.layout().windowed_from(blocks.saturating_sub(1) * BLOCK_TOKENS)
}

fn next_place(sealed: &[SealedBlock], scope: &Scope) -> Place {
    sealed.last().map_or(scope.root(), |block| {
        scope.next(block.place(), block.key().expect("only full blocks are kept sealed"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foretoken_cache::{BlockLayout, CacheConfig, Fingerprint, RecomputeCost, ServerSecret, SystemClock};

    use super::*;

    #[test]
    fn without_room_for_a_copy_a_table_begins_where_its_window_finds_every_part() {
        let layout = BlockLayout { lasting: 64, windowed: 64, window: 100 };
        let config = CacheConfig { layout, ram: 4.into(), advise: |_| {}, cost: RecomputeCost::default() };
        let cache = ContextCache::new(config, None, None, Arc::new(SystemClock::new())).expect("a thread");
        let scope = ServerSecret::new([1; 32]).scope("t", Fingerprint::of(&[]));
        let tokens: Vec<u32> = (0..192).collect();
        let mut blocks: Vec<SealedBlock> = Vec::new();
        for tokens in tokens.chunks(BLOCK_TOKENS) {
            let open = cache.open().expect("a slot");
            blocks.push(open.seal(&scope, next_place(&blocks, &scope), tokens));
        }
        let from_match = |first: &SealedBlock| {
            // What a match of 170 tokens is: its window begins in the second block.
            let (blocks, branch) = (vec![first.clone(), blocks[1].clone()], Some((blocks[2].clone(), 42)));
            let (table, tokens) = BlockTable::from_match(&cache, Match { blocks, branch, whole: Vec::new() });
            (table.sealed(), tokens)
        };
        let lasting = blocks[0].without_windowed();
        assert_eq!(from_match(&lasting), (2, 170));
        let last_slot = cache.open().expect("a slot");
        // Resuming after 128 tokens would read the first block's windowed part.
        assert_eq!(from_match(&lasting), (0, 0));
        assert_eq!(from_match(&blocks[0]), (2, 128));
        drop(last_slot);
    }
}
