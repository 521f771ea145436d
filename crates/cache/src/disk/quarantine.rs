//! Moves bad files to a folder for inspection. It keeps a bounded number; further bad files are removed.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::faults::Fault;
use crate::keys::BlockKey;

pub(super) const QUARANTINE_FOLDER: &str = "quarantine";
/// Files kept in quarantine; blocks are megabytes, and a few are enough for a diagnosis.
const KEPT_MAX: usize = 32;
/// Bytes kept in quarantine, as a fraction of the tier's budget, on top of it.
const BYTES_SHARE: u64 = 32;

/// Maximum bytes in quarantine for a tier with this budget.
pub fn quarantine_bytes_max(budget_bytes: u64) -> u64 {
    (budget_bytes / BYTES_SHARE).max(64 << 20)
}

impl Shared {
    /// Counts a bad file and ensures that it is not read again.
    pub(super) fn quarantine(&self, key: &BlockKey, path: &Path, fault: Fault) {
        self.faults.record(fault, path, &"bad file, moved to quarantine");
        self.counters.quarantined.add(1);
        let mut index = self.index();
        index.remove(key);
        if fault == Fault::OtherVersion {
            // A newer server may share the folder: the file is bad only for this version.
            index.refuse(*key);
            return;
        }
        drop(index);
        if !self.move_away(key, path, fault) && self.fs.remove(path).is_err() {
            self.index().refuse(*key);
        }
    }

    fn move_away(&self, key: &BlockKey, path: &Path, fault: Fault) -> bool {
        let folder = self.config.folder.join(QUARANTINE_FOLDER);
        let mut kept = Vec::new();
        let room = match self.fs.list(&folder, &mut |name| kept.push(folder.join(name))) {
            Ok(()) => {
                let bytes = |path: &Path| self.fs.meta(path).map_or(0, |meta| meta.bytes);
                let held: u64 = kept.iter().map(|path| bytes(path)).sum();
                let max = quarantine_bytes_max(self.config.budget_bytes);
                kept.len() < KEPT_MAX && held.saturating_add(bytes(path)) <= max
            }
            Err(_) => self.fs.create_folders(&folder).is_ok(),
        };
        if !room {
            return false;
        }
        let number = self.quarantine_names.fetch_add(1, Ordering::Relaxed);
        let name = format!("{key}.{fault}.{:016x}.{number}", self.config.instance);
        self.fs.rename(path, &folder.join(name)).is_ok()
    }
}
