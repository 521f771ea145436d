//! Finds and reads blocks; everything read is checked.

use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::index::Entry;
use super::{DiskTier, Shared, file_bytes};
use crate::faults::Fault;
use crate::format::{HEADER_BYTES, Header, Wanted};
use crate::keys::BlockKey;
use crate::pool::{OpenBlock, SealedBlock};

/// How old a file's modification time may become while its block is in use, before it is updated.
const TOUCH_AFTER: Duration = Duration::from_secs(300);

impl DiskTier {
    /// Whether a block's file exists. Queries the file system for an unknown name:
    /// it may not be listed yet, or another server may have written it. True until the file is removed.
    pub fn contains(&self, key: &BlockKey) -> bool {
        self.knows(key) || (!self.shared.index().is_refused(key) && self.shared.look(key))
    }

    /// Whether a block's file is in the index.
    pub(crate) fn knows(&self, key: &BlockKey) -> bool {
        let index = self.shared.index();
        index.has(key) && !index.is_refused(key)
    }

    /// Reads a block's lasting part into `open` and seals it if it is the expected one. Blocks on the disk.
    ///
    /// # Errors
    /// On a miss, for whatever reason, returns the block with undefined content.
    pub fn read(&self, wanted: &Wanted, mut open: OpenBlock) -> Result<SealedBlock, OpenBlock> {
        if !self.read_part(wanted, &mut open) {
            return Err(open);
        }
        Ok(open.seal(&wanted.scope, wanted.place, &wanted.tokens))
    }

    /// Reads a part and checks that it is the expected one; otherwise its content is undefined. Blocks on the disk.
    pub(crate) fn read_part(&self, wanted: &Wanted, payload: &mut [u8]) -> bool {
        let began = self.shared.clock.elapsed();
        if self.shared.index().is_refused(&wanted.key) || !self.shared.read_checked(wanted, payload) {
            return false;
        }
        let counters = &self.shared.counters;
        counters.read_latency.observe(self.shared.clock.elapsed().saturating_sub(began));
        counters.read.add(1);
        counters.read_bytes.add(file_bytes(payload.len()));
        true
    }
}

impl Shared {
    fn read_checked(&self, wanted: &Wanted, payload: &mut [u8]) -> bool {
        let path = self.path(&wanted.key);
        let known = self.index().has(&wanted.key);
        let mut head = [0; HEADER_BYTES];
        let bytes = match self.fs.read(&path, &mut head, payload) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.read_failed(&wanted.key, &path, &error);
                return false;
            }
        };
        match check(&head, bytes, wanted, payload) {
            Ok(()) => {
                self.used(wanted, &path, bytes, known);
                true
            }
            Err(fault) => {
                self.quarantine(&wanted.key, &path, fault);
                false
            }
        }
    }

    fn read_failed(&self, key: &BlockKey, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.faults.record(Fault::of(error), path, error);
            return;
        }
        if self.index().remove(key).is_some() {
            let folder_gone = self.fs.meta(&self.config.folder).is_err();
            let fault = if folder_gone { Fault::FolderMissing } else { Fault::Vanished };
            self.faults.record(fault, path, error);
        }
    }

    /// Notes the use of a block that was read. `known`: whether it was in the index before that.
    fn used(&self, wanted: &Wanted, path: &Path, bytes: u64, known: bool) {
        let now = self.now();
        let mut index = self.index();
        // Evicted while it was read.
        if known && !index.has(&wanted.key) {
            return;
        }
        let before = index.get(&wanted.key).map_or(Duration::ZERO, |entry| entry.used);
        index.put(wanted.key, Entry { bytes, used: now, place: Some(wanted.place) });
        drop(index);
        if now.saturating_sub(before) > TOUCH_AFTER {
            // On a read-only disk recency does not survive a restart; nothing else depends on it.
            self.fs.touch(path, UNIX_EPOCH + now).ok();
        }
    }

    /// Reads and checks a file's header.
    pub(super) fn read_header(&self, key: &BlockKey) -> Option<Header> {
        let mut head = [0; HEADER_BYTES];
        let bytes = self.fs.read(&self.path(key), &mut head, &mut []).ok()?;
        let header = Header::decode(&head).ok()?;
        (bytes >= HEADER_BYTES as u64 && header.key == *key).then_some(header)
    }
}

fn check(head: &[u8; HEADER_BYTES], bytes: u64, wanted: &Wanted, payload: &[u8]) -> Result<(), Fault> {
    if bytes < HEADER_BYTES as u64 {
        return Err(Fault::Torn);
    }
    let header = Header::decode(head)?;
    header.check(wanted)?;
    if bytes != file_bytes(payload.len()) {
        return Err(Fault::Torn);
    }
    header.check_payload(payload)
}
