//! Keeps the folder within its budget: what is old and cheap to compute again goes first, leaves before what
//! they hang on.
//!
//! Headers are read of the oldest files only, a few per file that has to go. So where a block stands may be
//! unknown for one that is not among those; then its parent can go before it. That costs a few bytes until the
//! orphan ages out, and never a wrong answer, since a lookup stops at the first block that is absent.

use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::time::Duration;

use super::Shared;
use super::index::Entry;
use crate::BLOCK_TOKENS;
use crate::faults::Fault;
use crate::keys::BlockKey;

/// When over the budget, this share of it is freed beyond the need, so that not every write has to reclaim.
const HEADROOM: u64 = 32;
/// Files looked at for each one that has to go, and at least.
const CANDIDATES_PER_VICTIM: usize = 2;
const CANDIDATES_MIN: usize = 64;

/// A non-negative f64's bits, which order as the number does, then the depth.
type Weight = (u64, u32);

impl Shared {
    /// Removes files until the folder is within its budget. Does nothing if another thread is at it.
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
                // Everything left has something hanging on it that is newer. The budget comes first.
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

    /// The least recently used files that no pin keeps, their headers read, each with its weight.
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

    /// Reads where a file's block stands, if that is not known yet.
    pub(super) fn learn_place(&self, key: &BlockKey) {
        let unknown = self.index().get(key).is_some_and(|entry| entry.place.is_none());
        if unknown && let Some(header) = self.read_header(key) {
            self.index().learn(key, header.place);
        }
    }

    /// Seconds unused, per second of recompute that a byte saves: the higher, the sooner it goes.
    fn weigh(&self, entry: &Entry) -> Weight {
        let unused_s = self.now().saturating_sub(entry.used).as_secs_f64();
        let place = entry.place;
        let saved_s = self.config.cost.seconds(place.map_or(0, |place| place.tokens_before()), BLOCK_TOKENS);
        let weight = unused_s * entry.bytes.max(1) as f64 / saved_s.max(1e-9);
        (weight.to_bits(), place.map_or(0, |place| place.depth))
    }

    fn remove_file(&self, key: &BlockKey) -> Option<Entry> {
        let path = self.path(key);
        match self.fs.remove(&path) {
            Ok(()) => self.counters.evicted.add(1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It stays on disk and is forgotten here, or reclaiming would not end.
            Err(error) => self.faults.record(Fault::of(&error), &path, &error),
        }
        self.index().remove(key)
    }
}
