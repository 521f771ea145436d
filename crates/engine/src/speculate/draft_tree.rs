//! The draft tree of one sequence: what all drafters proposed for the next step, merged.
//!
//! The root is the sequence's last token, which is computed anyway; nodes are draft tokens. A node knows its sources
//! and its probability, conditional on its parent and in total. The invariant: a node comes after its parent and is no
//! more probable, and siblings have different tokens.

use super::calibrator::{Calibrator, Record};
use super::settings::Source;

/// A node's parent if that is the root.
pub(crate) const ROOT: u32 = u32::MAX;
/// Nodes below this probability are not extended.
pub(crate) const PATH_MIN: f32 = 0.01;

/// A draft token.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) token: u32,
    /// Index of the parent, or [`ROOT`].
    pub(crate) parent: u32,
    /// 1 for what may follow the root.
    pub(crate) depth: usize,
    /// By source: 0, or its calibration bucket plus 1.
    votes: [u8; Source::ALL.len()],
    /// The source with the highest estimate.
    pub(crate) source: Source,
    /// Probability that it is accepted if its parent is.
    given: f32,
    /// Probability that it and all its ancestors are accepted.
    pub(crate) path: f32,
    /// The distribution it was drawn from, if it was drawn: an index into [`DraftTree::drawn_from`].
    pub(crate) drawn: Option<u32>,
    first_child: u32,
    next_sibling: u32,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct DraftTree {
    nodes: Vec<Node>,
    first: Option<u32>,
    distributions: Vec<Vec<(u32, f32)>>,
}

impl DraftTree {
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.distributions.clear();
        self.first = None;
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The probability that everything up to `parent` is accepted.
    pub(crate) fn path(&self, parent: u32) -> f32 {
        self.nodes.get(parent as usize).map_or(1.0, |node| node.path)
    }

    /// The tokens from the root to `parent`.
    pub(crate) fn tokens_to(&self, parent: u32) -> Vec<u32> {
        let up = |node: &&Node| self.nodes.get(node.parent as usize);
        let nodes = std::iter::successors(self.nodes.get(parent as usize), up);
        let mut tokens: Vec<u32> = nodes.map(|node| node.token).collect();
        tokens.reverse();
        tokens
    }

    pub(crate) fn depth(&self, parent: u32) -> usize {
        self.nodes.get(parent as usize).map_or(0, |node| node.depth)
    }

    /// Up to `max` nodes without children that are at least as probable as `min`, the most probable first.
    pub(crate) fn likely_leaves(&self, max: usize, min: f32) -> Vec<u32> {
        let ids = (0..self.nodes.len() as u32).zip(&self.nodes);
        let mut leaves: Vec<_> =
            ids.filter(|(_, node)| node.first_child == ROOT && node.path >= min).collect();
        leaves.sort_by(|(_, a), (_, b)| b.path.total_cmp(&a.path));
        leaves.into_iter().take(max).map(|(id, _)| id).collect()
    }

    /// Adds a draft token, or another source's estimate to an existing one. `prior` is the source's own estimate.
    /// Returns the node.
    pub(crate) fn add(
        &mut self,
        calibrator: &Calibrator,
        parent: u32,
        token: u32,
        (source, bucket, prior): (Source, u8, f32),
    ) -> u32 {
        let depth = self.depth(parent) + 1;
        let given = calibrator.estimate(source, bucket, depth, prior);
        let above = self.path(parent);
        if let Some(known) = self.child(parent, token) {
            let node = &mut self.nodes[known as usize];
            if node.votes[source.index()] == 0 {
                node.votes[source.index()] = bucket + 1;
                if given > node.given {
                    (node.given, node.path, node.source) = (given, above * given, source);
                }
            }
            return known;
        }
        let new = self.nodes.len() as u32;
        let mut votes = [0; Source::ALL.len()];
        votes[source.index()] = bucket + 1;
        let head = match self.nodes.get_mut(parent as usize) {
            Some(parent) => std::mem::replace(&mut parent.first_child, new),
            None => self.first.replace(new).unwrap_or(ROOT),
        };
        self.nodes.push(Node {
            token,
            parent,
            depth,
            votes,
            source,
            given,
            path: above * given,
            drawn: None,
            first_child: ROOT,
            next_sibling: head,
        });
        new
    }

    /// Says that a node was drawn from a distribution, tokens and probabilities that add up to 1.
    pub(crate) fn set_drawn(&mut self, node: u32, distribution: Vec<(u32, f32)>) {
        self.nodes[node as usize].drawn = Some(self.distributions.len() as u32);
        self.distributions.push(distribution);
    }

    pub(crate) fn drawn_from(&self, index: u32) -> &[(u32, f32)] {
        &self.distributions[index as usize]
    }

    /// The nodes after `parent`, the newest first.
    pub(crate) fn children(&self, parent: u32) -> impl Iterator<Item = u32> + '_ {
        let first = match parent {
            ROOT => self.first.unwrap_or(ROOT),
            parent => self.nodes[parent as usize].first_child,
        };
        let step = |&at: &u32| Some(self.nodes[at as usize].next_sibling).filter(|&next| next != ROOT);
        std::iter::successors(Some(first).filter(|&first| first != ROOT), step)
    }

    pub(crate) fn child(&self, parent: u32, token: u32) -> Option<u32> {
        self.children(parent).find(|&child| self.nodes[child as usize].token == token)
    }

    /// Reports to the calibrator which draft tokens were correct, given the tokens that followed the root. Draft tokens
    /// that were not verified count as well: the outcome is known all the same, so that a drafter that does not pay now
    /// can be seen to pay later.
    pub(crate) fn observe(&self, calibrator: &mut Calibrator, record: &mut Record, followed: &[u32]) {
        let mut parent = ROOT;
        for &token in followed {
            let mut next = None;
            for child in self.children(parent) {
                let node = &self.nodes[child as usize];
                let came = node.token == token;
                next = if came { Some(child) } else { next };
                record.judge(node.source, node.given, came);
                for (source, &vote) in Source::ALL.into_iter().zip(&node.votes) {
                    if let Some(bucket) = vote.checked_sub(1) {
                        calibrator.observe(source, bucket, node.depth, came);
                    }
                }
            }
            let Some(next) = next else { return };
            parent = next;
        }
    }
}
