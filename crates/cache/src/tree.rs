//! The prefix tree over sealed blocks: which prefixes are in memory, and in which order they are evicted.
//!
//! Each tenant scope has its own root (one more after each declared prefix that its prompts begin with, and each
//! prefix has one), so a walk can only meet blocks of its own scope and of a prefix that was declared for all. Children of a
//! block are kept sorted by their token ids; one look at the two neighbours of a query finds the child that
//! shares the most tokens with it, whether it matches whole, ends early (the last, unfilled block of a
//! sequence) or branches off inside. Matching compares tokens; keys only find the parent of a new block.
//!
//! A block in the tree may lack its windowed part. A match ends where resuming is possible: after the last token before
//! which all windowed parts are there that its window reaches. Windowed parts are evicted on their own: first those that
//! the sequence that computed them has left behind, then the least recently added or read. So a long prompt evicts its
//! own middle, not the ends of others.
//!
//! The verbs, and what each changes:
//!
//! | verb | changes | its result is valid |
//! |---|---|---|
//! | [`match_prefix`](PrefixTree::match_prefix) | recency only | as long as the blocks in it are held: holding them is the lock |
//! | [`survey`](PrefixTree::survey), [`closest`](PrefixTree::closest) | nothing | until the next change |
//! | [`insert`](PrefixTree::insert) | adds a block, or a windowed part that one lacks | until it is evicted |
//! | [`leave_windowed`](PrefixTree::leave_windowed) | which windowed part is evicted first | until it is read |
//! | [`pin`](PrefixTree::pin), [`unpin`](PrefixTree::unpin) | when a path may be evicted | until the given time |
//! | [`prefixes`](PrefixTree::prefixes), [`pinned`](PrefixTree::pinned) | nothing | until the next change |
//! | [`set_time`](PrefixTree::set_time) | the time that entries are dated with | until the next time |
//! | [`evict`](PrefixTree::evict) | removes leaves without other handles | permanently |
//! | [`evict_windowed`](PrefixTree::evict_windowed) | removes windowed parts without other handles | permanently |
//! | [`reset`](PrefixTree::reset) | removes everything, or one scope | permanently |
//! | [`check_integrity`](PrefixTree::check_integrity) | nothing | until the next change |
//!
//! The invariant: a block is in the tree only while its parent is, and no block's tokens begin with those of
//! a sibling. Not thread-safe by itself; [`ContextCache`](crate::ContextCache) puts a lock around it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::BLOCK_TOKENS;
use crate::block_layout::BlockLayout;
use crate::keys::{BlockKey, Scope, ScopeId};
use crate::pool::SealedBlock;
use crate::recompute_cost::RecomputeCost;
use crate::stats::Ages;

mod integrity;
mod pins;
mod windowed;

pub use pins::CachedPrefix;

/// The part of a prefix that is in the tree. Holding it keeps its blocks in memory.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Full blocks from the root on, in order. Those that the window does not reach are without their windowed part.
    pub blocks: Vec<SealedBlock>,
    /// The next block if only its beginning agrees, and in how many tokens (1 or more, fewer than
    /// [`BLOCK_TOKENS`]): copy it and overwrite the rest.
    pub branch: Option<(SealedBlock, usize)>,
    /// For each full block of the prefix that is in the tree, whether its windowed part is, too. There are more than in
    /// `blocks` if windowed parts are missing.
    pub whole: Vec<bool>,
}

impl Match {
    /// Tokens that need not be computed.
    pub fn tokens(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS + self.branch.as_ref().map_or(0, |(_, tokens)| *tokens)
    }
}

/// The cached prefix that agrees longest with a prompt, and the tokens that follow it: the reason for a miss.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Closest {
    /// Tokens in which the prompt and the cached prefix agree.
    pub agreed: usize,
    /// The next tokens of the cached prefix, up to the end of that block. Empty if it ends there.
    pub cached: Vec<u32>,
}

/// The result of inserting a block.
#[derive(Debug)]
#[must_use]
pub enum Inserted {
    /// It was added.
    Added,
    /// The tree already has these tokens here, in this block; use it and drop the other copy.
    Known(SealedBlock),
    /// Its parent is not in the tree, so no lookup would find it. It is returned.
    Orphan(SealedBlock),
}

/// Block counts of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeCounts {
    /// All blocks.
    pub blocks: usize,
    /// Those of fewer than [`BLOCK_TOKENS`] tokens.
    pub unfilled: usize,
    /// Blocks without children.
    pub leaves: usize,
    /// Blocks with their windowed part, of a model that has windows.
    pub windowed: usize,
    /// Roots with at least one block: one per scope, and one more after each shared prefix.
    pub scopes: usize,
}

/// A broken invariant: a bug in this crate.
#[derive(Debug, thiserror::Error)]
#[error("the prefix tree is inconsistent: {0}")]
pub struct IntegrityError(String);

type NodeId = u32;
type Children = BTreeMap<Arc<[u32]>, NodeId>;

/// The eviction order: lowest worth first, then least recently used.
///
/// The worth is that of greedy-dual caching (Young 1994; Cao and Irani 1997): recompute seconds saved per byte,
/// on top of the worth of the last entry evicted when this one was last used. So a costly entry outlives cheap
/// ones for a while but not for ever, without a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Rank {
    /// A non-negative f64's bits, which order as the number does.
    worth_bits: u64,
    used: u64,
}

struct Node {
    parent: Option<NodeId>,
    /// `None` only for the root of a scope.
    block: Option<SealedBlock>,
    /// The scope whose root this is, and its key.
    root_of: Option<(ScopeId, BlockKey)>,
    children: Children,
    saved_s_per_byte: f64,
    rank: Rank,
    /// The rank of the windowed part; 0 without one.
    windowed_rank: u64,
    /// Set on the last block of a pinned prefix only: while it is there, so are those before it.
    pinned_until: Option<Duration>,
    added: Duration,
    used: Duration,
}

/// See the [module](self).
pub struct PrefixTree {
    layout: BlockLayout,
    cost: RecomputeCost,
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    /// Full blocks by their key, and roots by theirs.
    by_key: HashMap<BlockKey, NodeId>,
    roots: HashMap<BlockKey, NodeId>,
    leaves: BTreeSet<(Rank, NodeId)>,
    /// Nodes with a windowed part, by its rank.
    windowed: BTreeSet<(u64, NodeId)>,
    unfilled: usize,
    /// The worth of the last block evicted.
    floor: f64,
    uses: u64,
    /// Nodes with a pin, possibly expired.
    pins: BTreeSet<NodeId>,
    /// The time on the caller's clock.
    now: Duration,
    ages: Ages,
}

impl PrefixTree {
    /// An empty tree for blocks of this layout, ranked by `cost`.
    pub fn new(layout: BlockLayout, cost: RecomputeCost) -> Self {
        Self {
            layout,
            cost,
            nodes: Vec::new(),
            vacant: Vec::new(),
            by_key: HashMap::new(),
            roots: HashMap::new(),
            leaves: BTreeSet::new(),
            windowed: BTreeSet::new(),
            unfilled: 0,
            floor: 0.0,
            uses: 0,
            pins: BTreeSet::new(),
            now: Duration::ZERO,
            ages: Ages::default(),
        }
    }

    /// Ranks blocks inserted from now on by a newly measured cost.
    pub fn set_cost(&mut self, cost: RecomputeCost) {
        self.cost = cost;
    }

    /// The longest cached prefix of `tokens` that can be resumed after. Changes recency only.
    pub fn match_prefix(&mut self, scope: &Scope, tokens: &[u32]) -> Match {
        let (mut path, branch) = self.walk(scope, tokens);
        let whole = path.iter().map(|&node| self.block(node).is_whole()).collect();
        let resumable = self.resumable_on(&path, branch);
        path.truncate(resumable / BLOCK_TOKENS);
        let branch = branch.filter(|_| resumable > path.len() * BLOCK_TOKENS);
        // The end of a whole block is one where a sequence may be resumed, too.
        let reads = self.layout.windowed_from(path.len() * BLOCK_TOKENS);
        let tip = branch.map(|(node, _)| node);
        for (at, &node) in path.iter().chain(&tip).enumerate() {
            self.ages.reused(self.now.saturating_sub(self.node(node).used));
            self.touch(node);
            if at >= reads {
                self.touch_windowed(node);
            }
        }
        let handle = |(at, &node): (usize, &NodeId)| {
            let block = self.block(node);
            if at >= reads { block.clone() } else { block.without_windowed() }
        };
        Match {
            blocks: path.iter().enumerate().map(handle).collect(),
            branch: branch.map(|(node, agreed)| (self.block(node).clone(), agreed)),
            whole,
        }
    }

    /// For each full block of a prefix that is in the tree whether it has its windowed part, and how many tokens
    /// [`match_prefix`](Self::match_prefix) would find. Changes nothing.
    pub fn survey(&self, scope: &Scope, tokens: &[u32]) -> (Vec<bool>, usize) {
        let (path, branch) = self.walk(scope, tokens);
        let resumable = self.resumable_on(&path, branch);
        (path.iter().map(|&node| self.block(node).is_whole()).collect(), resumable)
    }

    /// The cached prefix that agrees longest with `tokens`, and the tokens that follow it. Changes nothing.
    pub fn closest(&self, scope: &Scope, tokens: &[u32]) -> Closest {
        let (path, branch) = self.walk(scope, tokens);
        let agreed = path.len() * BLOCK_TOKENS;
        if let Some((node, shared)) = branch {
            return Closest { agreed: agreed + shared, cached: self.block(node).tokens()[shared..].to_vec() };
        }
        // Nothing after the path agrees in even one token: show any one continuation.
        let last = self.goes_on(scope, path.len(), path.last().copied());
        let next = last.and_then(|node| self.node(node).children.keys().next());
        Closest { agreed, cached: next.map_or_else(Vec::new, |tokens| tokens.to_vec()) }
    }

    /// Adds a block after its parent. It replaces an unfilled block that it continues.
    pub fn insert(&mut self, block: SealedBlock) -> Inserted {
        let place = block.place();
        let parent = match self.by_key.get(&place.parent) {
            Some(&parent) => parent,
            None if place == block.scope().own_root() => self.add_root(block.scope()),
            None => return Inserted::Orphan(block),
        };
        let siblings = &self.node(parent).children;
        let after = from(siblings, block.tokens());
        if let Some((tokens, &covering)) = after
            && tokens.starts_with(block.tokens())
        {
            self.touch(covering);
            self.complete(covering, block);
            return Inserted::Known(self.block(covering).clone());
        }
        let before = up_to(siblings, block.tokens());
        let mut pinned_until = None;
        if let Some((tokens, &covered)) = before
            && block.tokens().starts_with(tokens)
        {
            pinned_until = self.node(covered).pinned_until;
            self.remove_leaf(covered);
        }
        self.add_child(parent, block, pinned_until);
        Inserted::Added
    }

    /// Evicts up to `wanted` blocks, lowest rank first, leaves first, none that is pinned at `now` or has other
    /// handles. Returns how many; their slots are back in the pool.
    pub fn evict(&mut self, wanted: usize, now: Duration) -> usize {
        let mut evicted = 0;
        let mut kept = Vec::new();
        while evicted < wanted
            && let Some((rank, node)) = self.leaves.pop_first()
        {
            let pinned = self.node(node).pinned_until.is_some_and(|until| now < until);
            if pinned || !self.take_unheld(node) {
                kept.push((rank, node));
                continue;
            }
            self.floor = self.floor.max(f64::from_bits(rank.worth_bits));
            let (added, used) = (self.node(node).added, self.node(node).used);
            self.ages.evicted(now.saturating_sub(added), now.saturating_sub(used));
            self.unlink(node);
            evicted += 1;
        }
        self.leaves.extend(kept);
        evicted
    }

    /// Removes every block, or one scope's, pinned or not. A block with other handles lives on with them.
    /// Returns how many were removed.
    pub fn reset(&mut self, scope: Option<ScopeId>) -> usize {
        let before = self.counts().blocks;
        let roots: Vec<NodeId> = match scope {
            Some(scope) => {
                self.roots.values().copied().filter(|&root| self.is_root_of(root, scope)).collect()
            }
            None => self.roots.values().copied().collect(),
        };
        for root in roots {
            self.remove_below(root);
        }
        before - self.counts().blocks
    }

    fn is_root_of(&self, root: NodeId, scope: ScopeId) -> bool {
        self.node(root).root_of.is_some_and(|(whose, _)| whose == scope)
    }

    /// Block counts.
    pub fn counts(&self) -> TreeCounts {
        TreeCounts {
            blocks: self.nodes.len() - self.vacant.len() - self.roots.len(),
            unfilled: self.unfilled,
            leaves: self.leaves.len(),
            windowed: self.windowed.len(),
            scopes: self.roots.len(),
        }
    }

    /// Full blocks from the root on, then perhaps a node that agrees in some tokens only.
    fn walk(&self, scope: &Scope, tokens: &[u32]) -> (Vec<NodeId>, Option<(NodeId, usize)>) {
        let mut path = Vec::new();
        let mut rest = tokens;
        loop {
            let Some(at) = self.goes_on(scope, path.len(), path.last().copied()) else { return (path, None) };
            let ahead = &rest[..rest.len().min(BLOCK_TOKENS)];
            let Some((child, agreed)) = self.best_child(at, ahead) else { return (path, None) };
            if agreed < BLOCK_TOKENS {
                return (path, Some((child, agreed)));
            }
            path.push(child);
            rest = &rest[BLOCK_TOKENS..];
        }
    }

    /// The node whose children follow the first `depth` blocks of a prompt, the last of which is `last`: that
    /// one, or the root where the blocks of a scope begin.
    fn goes_on(&self, scope: &Scope, depth: usize, last: Option<NodeId>) -> Option<NodeId> {
        let root = match depth {
            _ if depth == scope.own_root().depth as usize => scope.own_root(),
            0 => scope.root(),
            _ => return last,
        };
        self.roots.get(&root.parent).copied()
    }

    /// The child that shares the most tokens with `ahead` (at least one): among sorted sequences it is a
    /// neighbour of where `ahead` would be inserted.
    fn best_child(&self, node: NodeId, ahead: &[u32]) -> Option<(NodeId, usize)> {
        let children = &self.node(node).children;
        let below = up_to(children, ahead);
        let above = from(children, ahead);
        let agreed = |(tokens, &child): (&Arc<[u32]>, &NodeId)| (child, common_prefix(tokens, ahead));
        [below, above].into_iter().flatten().map(agreed).max_by_key(|&(_, n)| n).filter(|&(_, n)| n > 0)
    }

    fn touch(&mut self, id: NodeId) {
        self.uses += 1;
        let worth = self.floor + self.node(id).saved_s_per_byte;
        let rank = Rank { worth_bits: worth.to_bits(), used: self.uses };
        let now = self.now;
        self.node_mut(id).used = now;
        let old = std::mem::replace(&mut self.node_mut(id).rank, rank);
        if self.leaves.remove(&(old, id)) {
            self.leaves.insert((rank, id));
        }
    }

    fn add_root(&mut self, scope: &Scope) -> NodeId {
        let root = self.add(Node {
            parent: None,
            block: None,
            root_of: Some((scope.id(), scope.own_root().parent)),
            children: BTreeMap::new(),
            saved_s_per_byte: 0.0,
            rank: Rank::default(),
            windowed_rank: 0,
            pinned_until: None,
            added: self.now,
            used: self.now,
        });
        self.by_key.insert(scope.own_root().parent, root);
        self.roots.insert(scope.own_root().parent, root);
        root
    }

    fn add_child(&mut self, parent: NodeId, block: SealedBlock, pinned_until: Option<Duration>) {
        let (tokens, key) = (block.shared_tokens(), block.key());
        let saved_s = self.cost.seconds(block.place().tokens_before(), tokens.len());
        let node = self.add(Node {
            parent: Some(parent),
            saved_s_per_byte: saved_s / block.len().max(1) as f64,
            block: Some(block),
            root_of: None,
            children: BTreeMap::new(),
            rank: Rank::default(),
            windowed_rank: 0,
            pinned_until,
            added: self.now,
            used: self.now,
        });
        if pinned_until.is_some() {
            self.pins.insert(node);
        }
        match key {
            Some(key) => drop(self.by_key.insert(key, node)),
            None => self.unfilled += 1,
        }
        let rank = self.node(parent).rank;
        self.leaves.remove(&(rank, parent));
        self.node_mut(parent).children.insert(tokens, node);
        self.leaves.insert((Rank::default(), node));
        self.touch(node);
        self.touch_windowed(node);
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            self.nodes[id as usize] = Some(node);
            return id;
        }
        self.nodes.push(Some(node));
        NodeId::try_from(self.nodes.len() - 1).expect("blocks are megabytes, so there are fewer than 2^32")
    }

    /// Evicts a leaf's block if there is no other handle, which frees its slot. Otherwise puts it back.
    fn take_unheld(&mut self, id: NodeId) -> bool {
        let block = self.node_mut(id).block.take().expect("a leaf has a block");
        let (tokens, parent) = (block.shared_tokens(), self.node(id).parent);
        match block.into_evictable() {
            Ok(evictable) => {
                match evictable.evict() {
                    Some(key) => drop(self.by_key.remove(&key)),
                    None => self.unfilled -= 1,
                }
                let parent = parent.expect("only a root has no parent");
                self.node_mut(parent).children.remove(&tokens);
                true
            }
            Err(held) => {
                self.node_mut(id).block = Some(held);
                false
            }
        }
    }

    fn remove_leaf(&mut self, id: NodeId) {
        let (rank, parent) = (self.node(id).rank, self.node(id).parent);
        self.leaves.remove(&(rank, id));
        let block = self.node_mut(id).block.take().expect("a leaf has a block");
        match block.key() {
            Some(key) => drop(self.by_key.remove(&key)),
            None => self.unfilled -= 1,
        }
        let parent = parent.expect("only a root has no parent");
        self.node_mut(parent).children.remove(block.tokens());
        self.vacate(id);
    }

    /// Frees a node whose block and place among its siblings were removed already.
    fn unlink(&mut self, id: NodeId) {
        let parent = self.node(id).parent.expect("only a root has no parent");
        self.vacate(id);
        self.settle(parent);
    }

    /// A node that may have lost its last child becomes a leaf; an empty root is removed.
    fn settle(&mut self, id: NodeId) {
        let node = self.node(id);
        if !node.children.is_empty() {
            return;
        }
        let Some((_, key)) = node.root_of else {
            self.leaves.insert((node.rank, id));
            return;
        };
        self.roots.remove(&key);
        self.by_key.remove(&key);
        self.vacate(id);
    }

    fn remove_below(&mut self, root: NodeId) {
        let mut order = vec![root];
        let mut next = 0;
        while let Some(&id) = order.get(next) {
            order.extend(self.node(id).children.values());
            next += 1;
        }
        for &id in order[1..].iter().rev() {
            self.remove_leaf(id);
        }
        self.settle(root);
    }

    fn vacate(&mut self, id: NodeId) {
        let rank = self.node(id).windowed_rank;
        self.windowed.remove(&(rank, id));
        self.nodes[id as usize] = None;
        self.pins.remove(&id);
        self.vacant.push(id);
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id as usize].as_ref().expect("ids are only kept while their node is")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id as usize].as_mut().expect("ids are only kept while their node is")
    }

    fn block(&self, id: NodeId) -> &SealedBlock {
        self.node(id).block.as_ref().expect("only a root has no block")
    }
}

pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The first child at or after the insertion point of `tokens`.
fn from<'a>(children: &'a Children, tokens: &[u32]) -> Option<(&'a Arc<[u32]>, &'a NodeId)> {
    children.range::<[u32], _>((Bound::Included(tokens), Bound::Unbounded)).next()
}

/// The last child at or before the insertion point of `tokens`.
fn up_to<'a>(children: &'a Children, tokens: &[u32]) -> Option<(&'a Arc<[u32]>, &'a NodeId)> {
    children.range::<[u32], _>((Bound::Unbounded, Bound::Included(tokens))).next_back()
}
