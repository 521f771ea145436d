//! The folder of the drafters' files: which there are, when they were last used, and which are removed first.
//!
//! Used by one thread. The invariant: after [`Folder::evict`] the known files are within the budget.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::TABLE_PREFIX;
use crate::clock::Clock;
use crate::disk::file_system::FileSystem;
use crate::keys::ScopeId;

const TEMPORARY_PREFIX: &str = ".writing-";
/// A temporary file this old belongs to no running writer.
const LEFT_BEHIND: Duration = Duration::from_secs(600);
/// Larger files are none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

struct Entry {
    bytes: u64,
    used: SystemTime,
}

pub(super) struct Folder {
    root: PathBuf,
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    files: HashMap<PathBuf, Entry>,
    bytes: u64,
}

impl Folder {
    pub(super) fn new(root: PathBuf, fs: Arc<dyn FileSystem>, clock: Arc<dyn Clock>) -> Folder {
        Folder { root, fs, clock, files: HashMap::new(), bytes: 0 }
    }

    /// Learns which files there are, of all models. Removes what a killed writer left.
    pub(super) fn list(&mut self) {
        let now = self.clock.wall();
        for path in paths(&*self.fs, &self.root) {
            let Ok(meta) = self.fs.meta(&path) else { continue };
            let temporary =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY_PREFIX));
            if !temporary {
                self.note(path, meta.bytes, meta.modified);
            } else if now.duration_since(meta.modified).is_ok_and(|age| age > LEFT_BEHIND) {
                // Another process may have removed it already.
                self.fs.remove(&path).ok();
            }
        }
    }

    /// `None` if there is no such file.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let bytes = read(&*self.fs, path)?;
        if let Some(bytes) = &bytes {
            let now = self.clock.wall();
            self.note(path.to_owned(), bytes.len() as u64, now);
            // On a read-only disk recency does not survive a restart.
            self.fs.touch(path, now).ok();
        }
        Ok(bytes)
    }

    /// Writes a file, whole or not at all.
    pub(super) fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}-{name}", std::process::id()));
        let written = match self.fs.write(&temporary, &[], bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.fs.create_folders(folder)?;
                self.fs.write(&temporary, &[], bytes)
            }
            // An earlier failure of this process left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.fs.remove(&temporary)?;
                self.fs.write(&temporary, &[], bytes)
            }
            other => other,
        };
        written.and_then(|()| self.fs.rename(&temporary, path)).inspect_err(|_| {
            // This may fail as the write did; the next write of the same file tries again.
            self.fs.remove(&temporary).ok();
        })?;
        self.note(path.to_owned(), bytes.len() as u64, self.clock.wall());
        Ok(())
    }

    /// Removes the least recently used files until the rest is within the budget; returns how many.
    pub(super) fn evict(&mut self, budget_bytes: u64) -> u64 {
        let mut evicted = 0;
        if self.bytes <= budget_bytes {
            return evicted;
        }
        let mut oldest: Vec<(SystemTime, PathBuf)> =
            self.files.iter().map(|(path, entry)| (entry.used, path.clone())).collect();
        oldest.sort_unstable();
        for (_, path) in oldest {
            if self.bytes <= budget_bytes {
                break;
            }
            // A file that cannot be removed leaves the index, or evicting would not end.
            evicted += u64::from(self.fs.remove(&path).is_ok());
            self.forget(&path);
        }
        evicted
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, path: &Path) {
        self.fs.remove(path).ok();
        self.forget(path);
    }

    /// Removes the tables of a scope, or all.
    pub(super) fn clear(&mut self, scope: Option<ScopeId>) {
        for path in clear_draft_files(&*self.fs, &self.root, scope) {
            self.forget(&path);
        }
    }

    /// Files, and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.files.len() as u64, self.bytes)
    }

    fn note(&mut self, path: PathBuf, bytes: u64, used: SystemTime) {
        self.bytes += bytes;
        if let Some(before) = self.files.insert(path, Entry { bytes, used }) {
            self.bytes -= before.bytes;
        }
    }

    fn forget(&mut self, path: &Path) {
        if let Some(entry) = self.files.remove(path) {
            self.bytes -= entry.bytes;
        }
    }
}

/// Removes the successor tables of a scope, or all, of every model below `root`; returns which.
pub fn clear_draft_files(fs: &dyn FileSystem, root: &Path, scope: Option<ScopeId>) -> Vec<PathBuf> {
    let wanted = scope.map(|scope| scope.to_string());
    let of_scope = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let id = name.strip_prefix(TABLE_PREFIX).map(str::to_owned);
        id.is_some_and(|id| wanted.as_ref().is_none_or(|wanted| *wanted == id))
    };
    paths(fs, root).into_iter().filter(of_scope).filter(|path| fs.remove(path).is_ok()).collect()
}

/// Every file in the folders below `root`.
fn paths(fs: &dyn FileSystem, root: &Path) -> Vec<PathBuf> {
    let names = |folder: &Path| {
        let mut names = Vec::new();
        // A missing folder has no files.
        fs.list(folder, &mut |name| names.push(folder.join(name))).ok();
        names
    };
    names(root).iter().flat_map(|folder| names(folder)).collect()
}

/// A whole file; `None` if there is none.
pub(super) fn read(fs: &dyn FileSystem, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let meta = match fs.meta(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if meta.bytes > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is larger than any of the drafters'",
        ));
    }
    let mut bytes = vec![0; usize::try_from(meta.bytes).unwrap_or_default()];
    fs.read(path, &mut bytes, &mut [])?;
    Ok(Some(bytes))
}
