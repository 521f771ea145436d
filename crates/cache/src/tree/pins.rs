//! Pins with an expiry, and a listing of the tree.
//!
//! A pin is on the last block of a prefix. Leaves are evicted first, so while that block is there, so are those before it,
//! and pins with a common beginning are independent: removing one leaves the other intact. A pin also keeps the windowed
//! parts that resuming after its prefix reads.

use std::collections::{HashMap, HashSet};
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

    /// The nodes whose windowed parts pins need at `now`, and would with this prefix pinned, too.
    pub(super) fn pinned_windowed(&self, with: Option<(&Scope, &[u32])>, now: Duration) -> HashSet<NodeId> {
        let mut needed = HashSet::new();
        if self.layout.windowed == 0 {
            return needed;
        }
        let pinned = |id: &NodeId| self.node(*id).pinned_until.is_some_and(|until| now < until);
        let tips = self.pins.iter().copied().filter(pinned);
        let added = with.and_then(|(scope, tokens)| self.path(scope, tokens).last().copied());
        for tip in tips.chain(added) {
            let block = self.block(tip);
            let tokens = block.place().tokens_before() + block.tokens().len();
            // The end of the last whole block is one where a sequence may be resumed, too.
            let from = self.layout.windowed_from(tokens / BLOCK_TOKENS * BLOCK_TOKENS);
            let mut next = Some(tip);
            while let Some(id) = next.filter(|&id| self.node(id).block.is_some()) {
                if (self.block(id).place().depth as usize) < from {
                    break;
                }
                needed.insert(id);
                next = self.node(id).parent;
            }
        }
        needed
    }

    /// How many windowed parts are pinned at `now`, and how many would be with this prefix added.
    pub fn windowed_pinned(&self, with: Option<(&Scope, &[u32])>, now: Duration) -> (usize, usize) {
        (self.pinned_windowed(None, now).len(), self.pinned_windowed(with, now).len())
    }

    /// What is pinned at `now` of full blocks, lowest depth first: the keys of both parts, and their expiry.
    pub fn pinned_keys(&self, now: Duration) -> Vec<(BlockKey, Duration)> {
        let windowed = self.pinned_windowed(None, now);
        let held = self.pinned_until(now).into_iter();
        let mut blocks: Vec<_> = held.map(|(node, until)| (node, self.block(node), until)).collect();
        blocks.sort_by_key(|(_, block, _)| block.place().depth);
        let keys = blocks.into_iter().filter_map(|(node, block, until)| {
            let key = block.key()?;
            let windowed = windowed.contains(&node).then(|| (key.windowed(), until));
            Some(std::iter::once((key, until)).chain(windowed))
        });
        keys.flatten().collect()
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
