//! Checks every file on demand, and clears the folder. Verifying reads all bytes.

use std::io;
use std::path::{Path, PathBuf};

use super::lister::{Name, sort};
use super::{DiskTier, Shared};
use crate::faults::Fault;
use crate::format::{HEADER_BYTES, Header};
use crate::keys::{BlockKey, ScopeId};

/// Maximum size of a block; a header that says more is rejected.
const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

/// The result of checking all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Valid files.
    pub good: u64,
    /// Bytes of the good files.
    pub good_bytes: u64,
    /// Files that were moved to quarantine, and their faults.
    pub bad: Vec<(PathBuf, Fault)>,
    /// Files that could not be read.
    pub unreadable: Vec<(PathBuf, Fault)>,
    /// Files whose names are not of this cache; left unchanged.
    pub foreign: Vec<PathBuf>,
}

impl DiskTier {
    /// Reads and checks every file; moves bad ones to quarantine. Changes nothing else.
    pub fn verify(&self) -> VerifyReport {
        let mut report = VerifyReport::default();
        let mut payload = Vec::new();
        for first in 0..=u8::MAX {
            let folder = self.shared.fan_out(first);
            let mut names = Vec::new();
            // A missing folder has nothing to check.
            self.shared.fs.list(&folder, &mut |name| names.push(name.to_owned())).ok();
            for name in names {
                let path = folder.join(&name);
                match sort(&name, first) {
                    Name::Block(key) => verify_file(&self.shared, &key, path, &mut payload, &mut report),
                    Name::Foreign => report.foreign.push(path),
                    Name::Temporary => {}
                }
            }
        }
        report
    }

    /// Removes every block, or one scope's, those still queued included. Returns how many files were removed.
    pub fn clear(&self, scope: Option<ScopeId>) -> u64 {
        self.flush();
        let mut removed = 0;
        for first in 0..=u8::MAX {
            let folder = self.shared.fan_out(first);
            let mut keys = Vec::new();
            let mut each = |name: &str| {
                if let Name::Block(key) = sort(name, first) {
                    keys.push(key);
                }
            };
            self.shared.fs.list(&folder, &mut each).ok();
            removed += keys.iter().filter(|key| self.shared.clear_file(key, scope)).count() as u64;
        }
        self.shared.counters.cleared.add(removed);
        removed
    }
}

impl Shared {
    fn clear_file(&self, key: &BlockKey, scope: Option<ScopeId>) -> bool {
        if scope.is_some_and(|scope| self.read_header(key).is_none_or(|header| header.scope != scope)) {
            return false;
        }
        let path = self.path(key);
        self.index().remove(key);
        match self.fs.remove(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.faults.record(Fault::of(&error), &path, &error);
                false
            }
        }
    }
}

fn verify_file(
    shared: &Shared,
    key: &BlockKey,
    path: PathBuf,
    payload: &mut Vec<u8>,
    report: &mut VerifyReport,
) {
    match check_file(shared, key, &path, payload) {
        Ok(Ok(bytes)) => {
            report.good += 1;
            report.good_bytes += bytes;
        }
        Ok(Err(fault)) => {
            shared.quarantine(key, &path, fault);
            report.bad.push((path, fault));
        }
        // Evicted since the folder was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            shared.faults.record(Fault::of(&error), &path, &error);
            report.unreadable.push((path, Fault::of(&error)));
        }
    }
}

fn check_file(
    shared: &Shared,
    key: &BlockKey,
    path: &Path,
    payload: &mut Vec<u8>,
) -> io::Result<Result<u64, Fault>> {
    let mut head = [0; HEADER_BYTES];
    let bytes = shared.fs.read(path, &mut head, &mut [])?;
    let payload_bytes = match header_fits(&head, bytes, key) {
        Ok(header) => header.payload_bytes,
        Err(fault) => return Ok(Err(fault)),
    };
    payload.resize(usize::try_from(payload_bytes).unwrap_or(usize::MAX), 0);
    // Read again as a whole, so that header and payload are of the same file even if it was replaced meanwhile.
    let bytes = shared.fs.read(path, &mut head, payload)?;
    let checked = header_fits(&head, bytes, key).and_then(|header| header.check_payload(payload));
    Ok(checked.map(|()| bytes))
}

fn header_fits(head: &[u8; HEADER_BYTES], bytes: u64, key: &BlockKey) -> Result<Header, Fault> {
    if bytes < HEADER_BYTES as u64 {
        return Err(Fault::Torn);
    }
    let header = Header::decode(head)?;
    if header.key != *key {
        return Err(Fault::WrongTokens);
    }
    let whole =
        header.payload_bytes <= PAYLOAD_BYTES_MAX && bytes == HEADER_BYTES as u64 + header.payload_bytes;
    if whole { Ok(header) } else { Err(Fault::Torn) }
}
