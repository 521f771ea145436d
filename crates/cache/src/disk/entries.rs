//! Lists the folder file by file, and keeps pinned blocks from being reclaimed.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::lister::{Name, sort};
use super::{DiskTier, file_bytes};
use crate::block_layout::Part;
use crate::keys::{BlockKey, Fingerprint, Place, ScopeId};

/// A file whose header is valid. Its payload was not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// The part's key.
    pub key: BlockKey,
    /// Which part of the block it is.
    pub part: Part,
    /// The scope that owns it.
    pub scope: ScopeId,
    /// The model that computed it.
    pub fingerprint: Fingerprint,
    /// Its position in the prefix.
    pub place: Place,
    /// Length of the file.
    pub bytes: u64,
    /// Time since its last use.
    pub unused: Duration,
}

impl DiskTier {
    /// Calls `each` with every file whose header is valid; reads headers only. Changes nothing.
    pub fn entries(&self, mut each: impl FnMut(DiskEntry)) {
        let shared = &self.shared;
        for first in 0..=u8::MAX {
            let mut keys = Vec::new();
            let mut note = |name: &str| {
                if let Name::Block(key) = sort(name, first) {
                    keys.push(key);
                }
            };
            // A missing folder has no files.
            shared.fs.list(&shared.fan_out(first), &mut note).ok();
            for key in keys {
                let Ok(meta) = shared.fs.meta(&shared.path(&key)) else { continue };
                let Some(header) = shared.read_header(&key) else { continue };
                let used = meta.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                each(DiskEntry {
                    key,
                    part: header.part,
                    scope: header.scope,
                    fingerprint: header.fingerprint,
                    place: header.place,
                    bytes: meta.bytes,
                    unused: shared.now().saturating_sub(used),
                });
            }
        }
    }

    /// Replaces the set of blocks that are exempt from reclaiming, each until a time on the monotonic clock: the
    /// first ones that fit into half of the budget, so that reclaiming always finds a candidate.
    pub(crate) fn keep(&self, pinned: &[(BlockKey, Duration)]) {
        let mut room = self.shared.config.budget_bytes / 2;
        let mut index = self.shared.index();
        let bytes_each = index.bytes() / (index.len() as u64).max(1);
        let mut kept = HashMap::new();
        for &(key, until) in pinned {
            let known = index.get(&key).map_or(0, |entry| entry.bytes);
            let bytes = if known > 0 { known } else { bytes_each.max(file_bytes(0)) };
            let Some(left) = room.checked_sub(bytes) else { break };
            room = left;
            kept.insert(key, until);
        }
        index.keep(kept);
    }
}
