//! The windowed parts of blocks in the tree: where a prefix can be resumed, and which parts are evicted first.
//!
//! A part's rank is the use that it was last added or read at; those that were left behind rank before all others. The
//! invariant: exactly the nodes that have a windowed part are listed, under their rank.

use std::time::Duration;

use super::{NodeId, PrefixTree};
use crate::BLOCK_TOKENS;
use crate::keys::BlockKey;
use crate::pool::{SealedBlock, SealedWindowed};

/// Set in the rank of a windowed part that was not left behind; the other bits are a count of uses.
const IN_USE: u64 = 1 << 63;

impl PrefixTree {
    /// The most tokens of a path and branch after which every windowed part is there that the window reaches.
    pub(super) fn resumable_on(&self, path: &[NodeId], branch: Option<(NodeId, usize)>) -> usize {
        // Blocks in a row with their windowed part.
        let (mut run, mut best) = (0, 0);
        for (before, &node) in path.iter().enumerate() {
            run = if self.block(node).is_whole() { run + 1 } else { 0 };
            let blocks = before + 1;
            if run + self.layout.windowed_from(blocks * BLOCK_TOKENS) >= blocks {
                best = blocks;
            }
        }
        if let Some((_, agreed)) = branch.filter(|&(node, _)| self.block(node).is_whole()) {
            let tokens = path.len() * BLOCK_TOKENS + agreed;
            if run + self.layout.windowed_from(tokens) >= path.len() {
                return tokens.max(best * BLOCK_TOKENS);
            }
        }
        best * BLOCK_TOKENS
    }

    /// Gives a block that is in the tree the windowed part that it lacks; returns the block then.
    pub(crate) fn attach(&mut self, key: &BlockKey, windowed: SealedWindowed) -> Option<SealedBlock> {
        let &id = self.by_key.get(key)?;
        let attached = self.node_mut(id).block.as_mut()?.put_windowed(windowed);
        self.touch_windowed(id);
        attached.then(|| self.block(id).clone())
    }

    /// Ranks a block's windowed part before all others that were not left: the sequence that computed it needs it no more,
    /// and no later one is known to.
    pub fn leave_windowed(&mut self, key: &BlockKey) {
        if let Some(&id) = self.by_key.get(key)
            && self.node(id).block.as_ref().is_some_and(SealedBlock::has_windowed)
        {
            self.uses += 1;
            self.rank_windowed(id, self.uses);
        }
    }

    /// Takes over the windowed part of a block that holds the same tokens as a node's.
    pub(super) fn complete(&mut self, id: NodeId, mut block: SealedBlock) {
        if block.tokens().len() == self.block(id).tokens().len()
            && let Some(windowed) = block.take_windowed()
            && let Some(known) = &mut self.node_mut(id).block
        {
            known.put_windowed(windowed);
        }
        self.touch_windowed(id);
    }

    /// Evicts up to `wanted` windowed parts, lowest rank first, none that a pin at `now` needs or that has other
    /// handles. Returns how many; their slots are back in the pool.
    pub fn evict_windowed(&mut self, wanted: usize, now: Duration) -> usize {
        let pinned = self.pinned_windowed(None, now);
        let mut evicted = 0;
        let mut kept = Vec::new();
        while evicted < wanted
            && let Some((rank, id)) = self.windowed.pop_first()
        {
            let block = self.node_mut(id).block.as_mut().expect("a root has no windowed part");
            if pinned.contains(&id) || !block.evict_windowed() {
                kept.push((rank, id));
                continue;
            }
            self.node_mut(id).windowed_rank = 0;
            evicted += 1;
        }
        self.windowed.extend(kept);
        evicted
    }

    /// Notes that a node's windowed part was added or read, if it has one.
    pub(super) fn touch_windowed(&mut self, id: NodeId) {
        if !self.block(id).has_windowed() {
            return;
        }
        self.uses += 1;
        self.rank_windowed(id, IN_USE | self.uses);
    }

    fn rank_windowed(&mut self, id: NodeId, rank: u64) {
        let old = std::mem::replace(&mut self.node_mut(id).windowed_rank, rank);
        self.windowed.remove(&(old, id));
        self.windowed.insert((rank, id));
    }
}
