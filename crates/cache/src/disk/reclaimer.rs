//! Keeps the folder within its budget: evicts what is old and cheap to recompute first, leaves before
//! their parents.
//!
//! Headers are read of the oldest files only, a few per evicted file. So a block's position may be
//! unknown for a newer file; then its parent can be evicted before it. That costs a few bytes until the
//! orphan ages out, and never a wrong result, since a lookup stops at the first absent block.

use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::time::Duration;

use super::Shared;
use super::index::Entry;
use crate::BLOCK_TOKENS;
use crate::faults::Fault;
use crate::keys::BlockKey;

/// When over the budget, this fraction of it is freed in addition, so that not every write reclaims.
const HEADROOM: u64 = 32;
/// Candidates examined per evicted file, and at least.
const CANDIDATES_PER_VICTIM: usize = 2;
const CANDIDATES_MIN: usize = 64;

/// A non-negative f64's bits, which sort like the number, then the depth.
type Weight = (u64, u32);

impl Shared {
    /// Evicts files until the folder is within its budget. Does nothing if another thread is doing so.
    pub(super) fn reclaim(&self) {
        let budget = self.config.budget_bytes;
        let (bytes, blocks) = {
            let index = self.index();
            (index.bytes(), index.len())
        };
        if bytes <= budget || blocks == 0 {
            return;
        }
        let Ok(_only_one) = self.reclaiming.try_lock() else { return };
        let goal = budget - budget / HEADROOM;
        let average = (bytes / blocks as u64).max(1);
        let victims = usize::try_from((bytes - goal).div_ceil(average)).unwrap_or(usize::MAX);
        let count = victims.saturating_mul(CANDIDATES_PER_VICTIM).max(CANDIDATES_MIN);
        let mut candidates = self.oldest(count);
        let mut ready: BinaryHeap<(Weight, BlockKey)> = {
            let index = self.index();
            let leaf = |key: &&BlockKey| !index.has_children(key);
            candidates.keys().filter(leaf).map(|key| (candidates[key], *key)).collect()
        };
        while self.index().bytes() > goal {
            let Some((_, key)) = ready.pop() else {
                if candidates.is_empty() {
                    return;
                }
                // Every remaining candidate has a newer child. The budget takes precedence.
                ready.extend(candidates.drain().map(|(key, weight)| (weight, key)));
                continue;
            };
            candidates.remove(&key);
            let parent = self.remove_file(&key).and_then(|entry| entry.place).map(|place| place.parent);
            if let Some(parent) = parent
                && let Some(&weight) = candidates.get(&parent)
                && !self.index().has_children(&parent)
            {
                ready.push((weight, parent));
            }
        }
    }

    /// The least recently used unpinned files, with their headers read, each with its weight.
    fn oldest(&self, count: usize) -> HashMap<BlockKey, Weight> {
        let index = self.index();
        let now = self.clock.elapsed();
        let loose = index.iter().filter(|(key, _)| !index.is_kept(key, now));
        let mut all: Vec<(Duration, BlockKey)> = loose.map(|(key, entry)| (entry.used, *key)).collect();
        drop(index);
        if count < all.len() {
            all.select_nth_unstable(count);
            all.truncate(count);
        }
        all.iter().for_each(|(_, key)| self.learn_place(key));
        let index = self.index();
        let weighed = all.into_iter().filter_map(|(_, key)| Some((key, self.weigh(index.get(&key)?))));
        weighed.collect()
    }

    /// Reads a block's position from its header, if not known yet.
    pub(super) fn learn_place(&self, key: &BlockKey) {
        let unknown = self.index().get(key).is_some_and(|entry| entry.place.is_none());
        if unknown && let Some(header) = self.read_header(key) {
            self.index().learn(key, header.place);
        }
    }

    /// Seconds unused per second of recompute saved per byte: the highest weight is evicted first.
    fn weigh(&self, entry: &Entry) -> Weight {
        let unused_s = self.now().saturating_sub(entry.used).as_secs_f64();
        let place = entry.place;
        let saved_s = self.config.cost.seconds(place.map_or(0, |place| place.tokens_before()), BLOCK_TOKENS);
        let weight = unused_s * entry.bytes.max(1) as f64 / saved_s.max(1e-9);
        (weight.to_bits(), place.map_or(0, |place| place.depth))
    }

    /// First out of the index: a reader that finds the file gone and the name still there would report a fault.
    fn remove_file(&self, key: &BlockKey) -> Option<Entry> {
        let entry = self.index().remove(key);
        let path = self.path(key);
        match self.fs.remove(&path) {
            Ok(()) => self.counters.evicted.add(1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The file stays on disk but leaves the index, or reclaiming would not end.
            Err(error) => self.faults.record(Fault::of(&error), &path, &error),
        }
        entry
    }
}
