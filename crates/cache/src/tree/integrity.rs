//! The tree's invariants, checked by walking it.

use std::sync::Arc;

use super::{IntegrityError, NodeId, PrefixTree};

impl PrefixTree {
    /// Checks every invariant by walking the tree. Changes nothing; takes time linear in the tree.
    ///
    /// # Errors
    /// Names the first violation, which means a bug in this crate.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let mut seen = Seen::default();
        for (key, &root) in &self.roots {
            ensure(self.node(root).block.is_none(), || format!("root {key} has a block"))?;
            ensure(!self.node(root).children.is_empty(), || format!("root {key} is empty"))?;
            self.check_below(root, &mut seen)?;
        }
        let live = self.nodes.iter().flatten().count();
        ensure(live == seen.nodes + self.roots.len(), || format!("{live} nodes, {} reachable", seen.nodes))?;
        ensure(self.nodes.len() - live == self.vacant.len(), || "vacant list and nodes differ".into())?;
        ensure(self.leaves.len() == seen.leaves, || format!("{} leaves listed", self.leaves.len()))?;
        let pinned =
            |id: &NodeId| self.nodes[*id as usize].as_ref().is_some_and(|n| n.pinned_until.is_some());
        ensure(self.pins.iter().all(pinned), || "a pin is on no block".into())?;
        let windowed = self.windowed.len();
        ensure(windowed == seen.windowed, || format!("{windowed} windowed parts listed"))?;
        ensure(self.unfilled == seen.unfilled, || format!("{} unfilled counted", self.unfilled))?;
        let keys = seen.nodes - seen.unfilled + self.roots.len();
        ensure(self.by_key.len() == keys, || format!("{} keys for {keys} nodes", self.by_key.len()))
    }

    fn check_below(&self, root: NodeId, seen: &mut Seen) -> Result<(), IntegrityError> {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            let mut last: Option<&Arc<[u32]>> = None;
            for (tokens, &child) in &self.node(id).children {
                let clash = last.is_some_and(|last| tokens.starts_with(last));
                ensure(!clash, || format!("node {child} begins with a sibling"))?;
                last = Some(tokens);
                self.check_child(id, tokens, child, seen)?;
                stack.push(child);
            }
        }
        Ok(())
    }

    fn check_child(
        &self,
        parent: NodeId,
        at: &[u32],
        id: NodeId,
        seen: &mut Seen,
    ) -> Result<(), IntegrityError> {
        let node = self.nodes[id as usize].as_ref();
        let node = node.ok_or_else(|| IntegrityError(format!("node {id} is linked and vacant")))?;
        let block = node.block.as_ref().ok_or_else(|| IntegrityError(format!("node {id} has no block")))?;
        ensure(node.parent == Some(parent), || format!("node {id} has another parent"))?;
        ensure(block.tokens() == at, || format!("node {id} holds other tokens"))?;
        let above = self.by_key.get(&block.place().parent) == Some(&parent);
        ensure(above, || format!("the key above node {id} is another's"))?;
        let leaf = node.children.is_empty();
        ensure(leaf == self.leaves.contains(&(node.rank, id)), || format!("node {id} misfiled as leaf"))?;
        let full = block.key().is_some();
        ensure(full || leaf, || format!("node {id} goes on after an unfilled block"))?;
        let keyed = block.key().is_none_or(|key| self.by_key.get(&key) == Some(&id));
        ensure(keyed, || format!("the key of node {id} is another's"))?;
        let windowed = block.has_windowed();
        let listed = self.windowed.contains(&(node.windowed_rank, id));
        ensure(windowed == listed, || format!("the windowed part of node {id} is misfiled"))?;
        seen.nodes += 1;
        seen.windowed += usize::from(windowed);
        seen.leaves += usize::from(leaf);
        seen.unfilled += usize::from(!full);
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    nodes: usize,
    leaves: usize,
    unfilled: usize,
    windowed: usize,
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), IntegrityError> {
    if holds { Ok(()) } else { Err(IntegrityError(what())) }
}
