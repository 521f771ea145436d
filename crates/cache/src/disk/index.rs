//! The in-memory index of the folder: names, sizes, times of use, and, as far as headers were
//! read, parents. Only a cache; the file system is authoritative.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::keys::{BlockKey, Place};

/// Maximum number of refused names; beyond that the set is cleared.
const REFUSED_MAX: usize = 4096;

/// One file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entry {
    /// Length of the file; 0 until it was queried.
    pub(super) bytes: u64,
    /// Last use, as time since 1970.
    pub(super) used: Duration,
    /// The block's position; `None` until its header was read.
    pub(super) place: Option<Place>,
}

#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<BlockKey, Entry>,
    /// Number of known children by parent key.
    children: HashMap<BlockKey, u32>,
    /// Bad files that could not be moved or removed.
    refused: HashSet<BlockKey>,
    /// Blocks that are pinned in memory, until a time on the monotonic clock.
    kept: HashMap<BlockKey, Duration>,
    bytes: u64,
    /// Whether every name in the folder was listed once.
    pub(super) listed: bool,
}

impl Index {
    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&BlockKey, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn has_children(&self, key: &BlockKey) -> bool {
        self.children.contains_key(key)
    }

    /// Records that a file exists, if not known.
    pub(super) fn note(&mut self, key: BlockKey) {
        self.entries.entry(key).or_default();
    }

    /// Records a file's size and last use. Keeps a later use and a known position.
    pub(super) fn put(&mut self, key: BlockKey, new: Entry) {
        let entry = self.entries.entry(key).or_default();
        self.bytes = self.bytes - entry.bytes + new.bytes;
        entry.bytes = new.bytes;
        entry.used = entry.used.max(new.used);
        if let Some(place) = new.place {
            self.learn(&key, place);
        }
    }

    /// Records the position of a known file's block, if not known.
    pub(super) fn learn(&mut self, key: &BlockKey, place: Place) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.place.is_none()
        {
            entry.place = Some(place);
            *self.children.entry(place.parent).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &BlockKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        if let Some(place) = entry.place
            && let Some(count) = self.children.get_mut(&place.parent)
        {
            *count -= 1;
            if *count == 0 {
                self.children.remove(&place.parent);
            }
        }
        Some(entry)
    }

    pub(super) fn refuse(&mut self, key: BlockKey) {
        if self.refused.len() == REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.insert(key);
    }

    /// Replaces the set of blocks exempt from reclaiming.
    pub(super) fn keep(&mut self, kept: HashMap<BlockKey, Duration>) {
        self.kept = kept;
    }

    pub(super) fn is_kept(&self, key: &BlockKey, now: Duration) -> bool {
        self.kept.get(key).is_some_and(|&until| now < until)
    }

    /// Last use of the least recently used file, among those that were queried.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.entries.values().filter(|entry| entry.bytes > 0).map(|entry| entry.used).min()
    }

    pub(super) fn is_refused(&self, key: &BlockKey) -> bool {
        self.refused.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> BlockKey {
        BlockKey::from_bytes([n; 32])
    }

    fn entry(bytes: u64, parent: Option<u8>) -> Entry {
        let place = parent.map(|parent| Place { parent: key(parent), depth: 1 });
        Entry { bytes, used: Duration::from_secs(bytes), place }
    }

    #[test]
    fn bytes_are_those_of_the_files_known() {
        let mut index = Index::default();
        index.note(key(1));
        index.put(key(1), entry(10, None));
        index.put(key(2), entry(5, None));
        index.put(key(1), entry(7, None));
        assert_eq!(index.bytes(), 12);
        index.remove(&key(1));
        assert_eq!((index.bytes(), index.len()), (5, 1));
    }

    #[test]
    fn a_parent_has_children_until_the_last_one_goes() {
        let mut index = Index::default();
        index.put(key(2), entry(1, Some(1)));
        index.put(key(3), entry(1, Some(1)));
        index.put(key(3), entry(1, Some(1)));
        index.remove(&key(2));
        assert!(index.has_children(&key(1)));
        index.remove(&key(3));
        assert!(!index.has_children(&key(1)));
    }

    #[test]
    fn an_older_time_does_not_replace_a_newer_use() {
        let mut index = Index::default();
        index.put(key(1), entry(9, None));
        index.put(key(1), entry(3, None));
        assert_eq!(index.get(&key(1)).unwrap().used, Duration::from_secs(9));
    }
}
