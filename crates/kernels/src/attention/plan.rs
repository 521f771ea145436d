//! Visibility of positions, and the partition of a step's work into items.
//!
//! Visibility is a property of a row alone. The partition (by sequence, KV head, run of rows, and span
//! of positions) decides only which thread computes what: items are whole spans, and spans are merged in order.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use super::SPAN;
use crate::kv::{AttnSeq, BLOCK_TOKENS, KvView};

/// Query rows of an item: enough to share each block's keys and values, few enough to stay in cache.
const ITEM_ROWS: usize = 96;
/// Minimum query rows of an item that is split to balance the threads.
const ITEM_ROWS_MIN: usize = 12;
/// An item is split by span if its cost exceeds a thread's share divided by this.
const SHARE_PARTS: usize = 4;

/// The positions of a layer that a row sees at most.
#[derive(Clone, Copy)]
pub(super) struct Visibility {
    /// Number of last positions; `None`: all of them.
    pub(super) window: Option<usize>,
    /// The first position that later ones see.
    pub(super) from: usize,
}

/// One sequence's rows and the positions visible to each.
pub(super) struct SeqPlan<'p> {
    pub(super) kv: &'p KvView<'p>,
    pub(super) rows: Range<usize>,
    committed: usize,
    visibility: Visibility,
    tree: Option<Tree>,
}

/// The paths of a draft tree's rows, concatenated.
struct Tree {
    /// For each row, the rows on the path from the root to it, itself last.
    paths: Vec<u32>,
    /// Each row's range in `paths`, and the length of the path's prefix whose rows equal their depth.
    of_row: Vec<(Range<usize>, usize)>,
}

impl<'p> SeqPlan<'p> {
    pub(super) fn new(seq: &'p AttnSeq<'_, '_>, visibility: Visibility) -> Self {
        let slots = seq.committed + seq.rows.len();
        assert!(slots <= seq.kv.capacity(), "{slots} slots in a KV table of {}", seq.kv.capacity());
        let tree = seq.parents.map(|parents| {
            assert_eq!(parents.len(), seq.rows.len(), "a draft tree has one parent per row");
            Tree::new(parents)
        });
        Self { kv: seq.kv, rows: seq.rows.clone(), committed: seq.committed, visibility, tree }
    }

    /// Slots filled once this step's rows are stored.
    pub(super) fn slots(&self) -> usize {
        self.committed + self.rows.len()
    }

    /// Whether every position of a block precedes every row: the block was filled before this step.
    pub(super) fn filled_before(&self, block: usize) -> bool {
        (block + 1) * BLOCK_TOKENS <= self.committed
    }

    /// Whether rows may not see some of the positions before them.
    pub(super) fn hides_some(&self) -> bool {
        self.visibility.window.is_some() || self.visibility.from > 0
    }

    /// The first position that a row sees.
    pub(super) fn first(&self, row: usize) -> usize {
        let (end, Visibility { window, from }) = (self.visible(row), self.visibility);
        window.map_or(0, |window| end.saturating_sub(window)).max(from.min(end - 1))
    }

    /// The position after a row's own: with [`SeqPlan::first`], the range of positions visible to it.
    pub(super) fn visible(&self, row: usize) -> usize {
        let own = self.tree.as_ref().map_or(row + 1, |tree| tree.of_row[row].0.len());
        self.committed + own
    }

    /// Length of the prefix of positions that equal their slots.
    pub(super) fn in_place(&self, row: usize) -> usize {
        let own = self.tree.as_ref().map_or(row + 1, |tree| tree.of_row[row].1);
        self.committed + own
    }

    /// The slot of a position that is visible to a row.
    pub(super) fn slot(&self, row: usize, position: usize) -> usize {
        match (&self.tree, position.checked_sub(self.committed)) {
            (Some(tree), Some(depth)) => {
                let path = &tree.paths[tree.of_row[row].0.clone()];
                self.committed + path[depth] as usize
            }
            _ => position,
        }
    }

    /// The positions that are visible to any of some rows.
    fn visible_to_any(&self, rows: Range<usize>) -> Range<usize> {
        let start = rows.clone().map(|row| self.first(row)).min().unwrap_or(0);
        start..rows.map(|row| self.visible(row)).max().unwrap_or(0)
    }
}

impl Tree {
    fn new(parents: &[i32]) -> Self {
        let mut tree = Self { paths: Vec::new(), of_row: Vec::with_capacity(parents.len()) };
        for (row, &parent) in parents.iter().enumerate() {
            let start = tree.paths.len();
            if let Ok(parent) = usize::try_from(parent) {
                assert!(parent < row, "row {row} of a draft tree precedes its parent {parent}");
                tree.paths.extend_from_within(tree.of_row[parent].0.clone());
            }
            tree.paths.push(row as u32);
            let path = &tree.paths[start..];
            let in_place = path.iter().enumerate().take_while(|&(depth, &row)| depth == row as usize).count();
            tree.of_row.push((start..tree.paths.len(), in_place));
        }
        tree
    }
}

/// Work for one thread: all query heads of one KV head, for some rows of a sequence, over some spans.
pub(super) struct Item {
    pub(super) seq: usize,
    pub(super) head: usize,
    pub(super) rows: Range<usize>,
    pub(super) spans: Range<usize>,
    /// The group of an item that is one of several spans.
    pub(super) group: Option<usize>,
}

/// Items that are spans of the same rows. The last to finish merges them.
pub(super) struct Group {
    pub(super) pending: AtomicUsize,
    pub(super) spans: Range<usize>,
    /// Offset of the first span's partial state, and length of each span's, in floats.
    pub(super) partials: usize,
    pub(super) partial_len: usize,
}

/// Rows of an item: halved while there are few items and their number is not a multiple of the threads.
fn rows_per_item(seqs: &[SeqPlan<'_>], kv_heads: usize, group_heads: usize, threads: usize) -> usize {
    let longest = seqs.iter().map(|seq| seq.rows.len()).max().unwrap_or(0).max(1);
    let mut parts = longest.div_ceil((ITEM_ROWS / group_heads).max(1));
    let items = |run| kv_heads * seqs.iter().map(|seq| seq.rows.len().div_ceil(run)).sum::<usize>();
    let uneven = |items: usize| items < threads * SHARE_PARTS && !items.is_multiple_of(threads);
    loop {
        let (run, halved) = (longest.div_ceil(parts), longest.div_ceil(2 * parts));
        if run == 1 || halved * group_heads < ITEM_ROWS_MIN || !uneven(items(run)) {
            return run;
        }
        parts *= 2;
    }
}

/// All items of one call.
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) groups: Vec<Group>,
    /// Floats that the partial states of all groups take.
    pub(super) partials_len: usize,
    /// Visible positions, summed over query heads and rows.
    pub(super) positions: usize,
}

impl Plan {
    /// `partial_len` maps a number of (row, query head) pairs to the floats of their partial state.
    pub(super) fn new(
        seqs: &[SeqPlan<'_>],
        kv_heads: usize,
        group_heads: usize,
        threads: usize,
        partial_len: impl Fn(usize) -> usize,
    ) -> Self {
        let run = rows_per_item(seqs, kv_heads, group_heads, threads);
        // Largest items first: the last rows have the most visible positions.
        let runs = || {
            seqs.iter().enumerate().flat_map(move |(index, seq)| {
                let count = seq.rows.len().div_ceil(run);
                (0..count).rev().map(move |i| {
                    let rows = i * run..((i + 1) * run).min(seq.rows.len());
                    let visible = seq.visible_to_any(rows.clone());
                    (index, rows, visible)
                })
            })
        };
        let cost_of = |rows: &Range<usize>, visible: &Range<usize>| rows.len() * group_heads * visible.len();
        let positions = kv_heads * runs().map(|(_, rows, visible)| cost_of(&rows, &visible)).sum::<usize>();
        let mut plan = Self { items: Vec::new(), groups: Vec::new(), partials_len: 0, positions };
        for (seq, rows, visible) in runs() {
            let spans = visible.start / SPAN..visible.end.div_ceil(SPAN);
            let split = spans.len() > 1
                && threads > 1
                && cost_of(&rows, &visible) * threads * SHARE_PARTS > positions;
            for head in 0..kv_heads {
                let item = Item { seq, head, rows: rows.clone(), spans: spans.clone(), group: None };
                if split {
                    plan.push_group(item, partial_len(rows.len() * group_heads));
                } else {
                    plan.items.push(item);
                }
            }
        }
        plan
    }

    /// Splits an item into its spans.
    fn push_group(&mut self, item: Item, partial_len: usize) {
        let Item { seq, head, rows, spans, .. } = item;
        let group = Some(self.groups.len());
        for span in spans.clone() {
            self.items.push(Item { seq, head, rows: rows.clone(), spans: span..span + 1, group });
        }
        let (pending, partials) = (AtomicUsize::new(spans.len()), self.partials_len);
        self.partials_len += spans.len() * partial_len;
        self.groups.push(Group { pending, spans, partials, partial_len });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: &[usize], kv_heads: usize, group_heads: usize, threads: usize) -> usize {
        let heads = crate::kv::LayerKv::Heads { kv_heads, dim_k: 16, dim_v: 16, window: None };
        let layout = crate::kv::KvLayout::uniform(1, heads);
        let kv = KvView::new(&layout, Vec::new(), Vec::new());
        let visibility = Visibility { window: None, from: 0 };
        let seq =
            |&count: &usize| SeqPlan { kv: &kv, rows: 0..count, committed: 100, visibility, tree: None };
        rows_per_item(&rows.iter().map(seq).collect::<Vec<_>>(), kv_heads, group_heads, threads)
    }

    #[test]
    fn few_items_are_split_until_threads_have_equal_shares() {
        assert_eq!(run(&[16], 3, 3, 2), 8, "three heads of all rows would keep one of two threads waiting");
        assert_eq!(run(&[16], 4, 3, 2), 16, "four heads are two for each");
        assert_eq!(run(&[16], 1, 9, 4), 4, "one head is split twice");
        assert_eq!(run(&[1], 3, 3, 2), 1, "a single row cannot be split");
        assert_eq!(run(&[7], 3, 3, 2), 4, "rounded up to two parts");
        assert_eq!(run(&[5], 3, 1, 2), 5, "parts keep enough query rows to share a block");
        assert_eq!(run(&[1; 8], 3, 3, 2), 1, "many sequences make enough items");
        assert_eq!(run(&[512], 3, 3, 2), 32, "and so does a long prompt");
    }
}
