//! What is in the folder, file by file, and what of it is kept because it is pinned.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::lister::{Name, sort};
use super::{DiskTier, file_bytes};
use crate::keys::{BlockKey, Fingerprint, Place, ScopeId};

/// A file whose header is good. Its payload was not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// The block's name.
    pub key: BlockKey,
    /// Whose it is.
    pub scope: ScopeId,
    /// The model that made it.
    pub fingerprint: Fingerprint,
    /// Where it stands.
    pub place: Place,
    /// Length of the file.
    pub bytes: u64,
    /// How long it has not been used.
    pub unused: Duration,
}

impl DiskTier {
    /// Calls `each` with every file whose header is good; reads headers only. Changes nothing.
    pub fn entries(&self, mut each: impl FnMut(DiskEntry)) {
        let shared = &self.shared;
        for first in 0..=u8::MAX {
            let mut keys = Vec::new();
            let mut note = |name: &str| {
                if let Name::Block(key) = sort(name, first) {
                    keys.push(key);
                }
            };
            // A folder that is not there has no files.
            shared.fs.list(&shared.fan_out(first), &mut note).ok();
            for key in keys {
                let Ok(meta) = shared.fs.meta(&shared.path(&key)) else { continue };
                let Some(header) = shared.read_header(&key) else { continue };
                let used = meta.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                each(DiskEntry {
                    key,
                    scope: header.scope,
                    fingerprint: header.fingerprint,
                    place: header.place,
                    bytes: meta.bytes,
                    unused: shared.now().saturating_sub(used),
                });
            }
        }
    }

    /// From now on only these blocks are kept whatever the budget says, each until a time of the steady clock: the
    /// first ones that fit into half of it, so that reclaiming always finds something.
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
