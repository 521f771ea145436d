//! Pins with an expiry, and a listing of the tree.
//!
//! A pin is on the last block of a prefix. Leaves are evicted first, so while that block is there, so are those before it,
//! and pins with a common beginning are independent: removing one leaves the other intact.

use std::collections::HashMap;
use std::time::Duration;

use super::{NodeId, PrefixTree};
use crate::BLOCK_TOKENS;
use crate::keys::{BlockKey, Scope, ScopeId};
use crate::stats::AgeSnapshot;

/// A prefix that nothing in the cache continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedPrefix {
    /// The scope that owns it.
    pub scope: ScopeId,
    /// The key of its last block; `None` if that is not full.
    pub key: Option<BlockKey>,
    /// Its length.
    pub tokens: usize,
    /// Time since the last use of its last block.
    pub unused: Duration,
    /// Time until its pin expires.
    pub pinned: Option<Duration>,
}

impl PrefixTree {
    /// Sets the time, on the caller's clock, that entries are dated with from now on.
    pub fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// Pins the cached blocks of a prefix, its unfilled last one included, until `until` on the caller's clock;
    /// returns how many. A later expiry of the same prefix is kept.
    pub fn pin(&mut self, scope: &Scope, tokens: &[u32], until: Duration) -> usize {
        let path = self.path(scope, tokens);
        for (at, &node) in path.iter().enumerate() {
            // The last block, and that of a declared prefix, after which a root of the tenant's own begins.
            if path.get(at + 1).is_none_or(|&next| self.node(next).parent != Some(node)) {
                let longest = self.node(node).pinned_until.map_or(until, |pinned| pinned.max(until));
                self.node_mut(node).pinned_until = Some(longest);
                self.pins.insert(node);
            }
        }
        path.len()
    }

    /// Removes the pin of a prefix, also if its last block was filled up since; returns how many blocks it
    /// covered, 0 if the prefix was not pinned. Pins of longer prefixes stay, and a declared prefix before it stays
    /// pinned until it expires.
    pub fn unpin(&mut self, scope: &Scope, tokens: &[u32]) -> usize {
        let path = self.path(scope, tokens);
        let full = tokens.len() / BLOCK_TOKENS;
        let rest = &tokens[full * BLOCK_TOKENS..];
        let mut tips: Vec<NodeId> = path.last().copied().into_iter().collect();
        if !rest.is_empty()
            && path.len() >= full
            && let Some(parent) = self.goes_on(scope, full, path[..full].last().copied())
        {
            // One of several responses to the prompt has replaced the pinned block.
            let continued = self.node(parent).children.iter().filter(|(tokens, _)| tokens.starts_with(rest));
            tips.extend(continued.map(|(_, &child)| child));
        }
        let mut unpinned = false;
        for tip in tips {
            unpinned |= self.node_mut(tip).pinned_until.take().is_some_and(|until| until > self.now);
            self.pins.remove(&tip);
        }
        if unpinned { path.len() } else { 0 }
    }

    /// How many blocks are pinned at `now`, and how many would be with this prefix added.
    pub fn pinned(&self, with: Option<(&Scope, &[u32])>, now: Duration) -> (usize, usize) {
        let mut held = self.pinned_until(now);
        let before = held.len();
        let path = with.map_or_else(Vec::new, |(scope, tokens)| self.path(scope, tokens));
        held.extend(path.into_iter().map(|node| (node, Duration::MAX)));
        (before, held.len())
    }

    /// As [`pinned`](Self::pinned), counting only blocks under the tenant's own scope.
    pub fn pinned_by(&self, scope: &Scope, tokens: &[u32], now: Duration) -> (usize, usize) {
        let mut held = self.pinned_until(now);
        held.retain(|&node, _| self.block(node).scope().id() == scope.id());
        let before = held.len();
        let own =
            self.path(scope, tokens).into_iter().filter(|&node| self.block(node).scope().id() == scope.id());
        held.extend(own.map(|node| (node, Duration::MAX)));
        (before, held.len())
    }

    /// The full blocks that are pinned at `now`, lowest depth first, and their expiry.
    pub fn pinned_keys(&self, now: Duration) -> Vec<(BlockKey, Duration)> {
        let held = self.pinned_until(now).into_iter();
        let mut blocks: Vec<_> = held.map(|(node, until)| (self.block(node), until)).collect();
        blocks.sort_by_key(|(block, _)| block.place().depth);
        blocks.into_iter().filter_map(|(block, until)| Some((block.key()?, until))).collect()
    }

    /// The prefixes that are in memory, in no order. Takes time linear in the tree.
    pub fn prefixes(&self, now: Duration) -> Vec<CachedPrefix> {
        let held = self.pinned_until(now);
        let leaves = self.leaves.iter().filter_map(|&(_, id)| Some((id, self.node(id).block.as_ref()?)));
        leaves
            .map(|(id, block)| CachedPrefix {
                scope: block.scope().id(),
                key: block.key(),
                tokens: block.place().tokens_before() + block.tokens().len(),
                unused: now.saturating_sub(self.node(id).used),
                pinned: held.get(&id).map(|until| until.saturating_sub(now)),
            })
            .collect()
    }

    /// Age of the block that was added first. Takes time linear in the tree.
    pub fn oldest(&self, now: Duration) -> Option<Duration> {
        let blocks = self.nodes.iter().flatten().filter(|node| node.block.is_some());
        blocks.map(|node| now.saturating_sub(node.added)).max()
    }

    /// Lifetimes and reuse of blocks.
    pub fn ages(&self) -> AgeSnapshot {
        self.ages.snapshot()
    }

    fn path(&self, scope: &Scope, tokens: &[u32]) -> Vec<NodeId> {
        let (mut path, branch) = self.walk(scope, tokens);
        path.extend(branch.map(|(node, _)| node));
        path
    }

    /// All nodes that pins keep at `now`, each until the last of its pins ends.
    fn pinned_until(&self, now: Duration) -> HashMap<NodeId, Duration> {
        let mut held: HashMap<NodeId, Duration> = HashMap::new();
        for &tip in &self.pins {
            let Some(until) = self.node(tip).pinned_until.filter(|&until| now < until) else { continue };
            let mut next = Some(tip);
            while let Some(id) = next.filter(|&id| self.node(id).block.is_some()) {
                if held.get(&id).is_some_and(|&longer| longer >= until) {
                    break;
                }
                held.insert(id, until);
                next = self.node(id).parent;
            }
        }
        held
    }
}
