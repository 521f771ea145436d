//! The blocks that follow a place. Used to explain a miss; lookups do not need it.
//!
//! File names do not contain the parent; headers do. They are read on the first query, the most recently used
//! files first and a bounded number each time, and cached in the index. So right after a start
//! on a very large folder a result may be incomplete; a second query completes it.

use std::cmp::Reverse;
use std::time::Duration;

use super::DiskTier;
use crate::BLOCK_TOKENS;
use crate::block_layout::Part;
use crate::keys::{BlockKey, Place, Scope};

/// Headers read per query.
const LEARN_MAX: usize = 8192;
/// Blocks right after one place that are compared.
const SIBLINGS_MAX: usize = 256;

impl DiskTier {
    /// The known blocks right after a place, with their tokens, at most 256. Blocks on the disk. Changes neither
    /// recency nor any counter.
    pub fn after(&self, scope: &Scope, place: Place) -> Vec<(BlockKey, [u32; BLOCK_TOKENS])> {
        self.learn_places();
        let index = self.shared.index();
        let here = index.iter().filter(|(_, entry)| entry.place == Some(place)).map(|(key, _)| *key);
        let keys: Vec<BlockKey> = here.take(SIBLINGS_MAX).collect();
        drop(index);
        let own = scope.at(place.depth);
        let tokens = |key: BlockKey| {
            let header = self.shared.read_header(&key)?;
            let fits = header.place == place
                && header.part == Part::Lasting
                && header.scope == own.id()
                && header.fingerprint == own.fingerprint();
            fits.then_some((key, header.tokens))
        };
        keys.into_iter().filter_map(tokens).collect()
    }

    fn learn_places(&self) {
        let mut unknown: Vec<(Reverse<Duration>, BlockKey)> = {
            let index = self.shared.index();
            let unknown = index.iter().filter(|(_, entry)| entry.place.is_none());
            unknown.map(|(key, entry)| (Reverse(entry.used), *key)).collect()
        };
        if unknown.len() > LEARN_MAX {
            unknown.select_nth_unstable(LEARN_MAX);
            unknown.truncate(LEARN_MAX);
        }
        unknown.iter().for_each(|(_, key)| self.shared.learn_place(key));
    }
}
