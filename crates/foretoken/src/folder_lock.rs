//! The lock of a data folder: many processes may use it at a time, one may rewrite it alone.
//!
//! A process that runs an engine holds the lock shared until it exits; a command that deletes or moves cached
//! files takes it exclusively, so that no engine has in memory what is gone from the disk. An advisory lock
//! (`flock`), released by the kernel however a process ends. A file system without locks costs the protection,
//! not the service.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

const FILE: &str = "in-use.lock";

/// Locks held until the process exits.
static SHARED: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());

/// Holds the folder's lock, shared, until this process exits. `server` is the address to name to a command that
/// wants the folder for itself.
pub(crate) fn share(dir: &Path, server: Option<SocketAddr>) {
    let mut held = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if held.iter().any(|(path, _)| path == dir) {
        return;
    }
    let lock = || -> std::io::Result<File> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir)?;
        let mut file = open(dir)?;
        if file.try_lock().is_ok() {
            // Nobody else is here: an address in the file is one of a server that ended.
            file.set_len(0)?;
        }
        file.lock_shared()?;
        if let Some(address) = server {
            file.set_len(0)?;
            write!(file, "http://{address}")?;
        }
        Ok(file)
    };
    match lock() {
        Ok(file) => held.push((dir.to_owned(), file)),
        Err(error) => tracing::debug!(dir = %dir.display(), %error, "the data folder cannot be locked"),
    }
}

/// Takes the folder's lock alone, until dropped.
///
/// # Errors
/// Another process uses the folder; the message names its address, and `command` as what to do there.
pub(crate) fn exclusive(dir: &Path, command: &str) -> Result<Option<File>> {
    let path = dir.join(FILE);
    if !dir.is_dir() {
        return Ok(None);
    }
    let file = open(dir).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let address = fs::read_to_string(&path).unwrap_or_default();
            let dir = dir.display();
            match address.trim() {
                "" => bail!("another foretoken command is using {dir}; run {command} when it has ended"),
                url => bail!(
                    "a running server uses {dir} and would keep what it has in memory; \
                     run {command} --server {url}, or stop the server first"
                ),
            }
        }
        Err(TryLockError::Error(error)) => {
            tracing::debug!(dir = %dir.display(), %error, "the data folder cannot be locked");
            Ok(None)
        }
    }
}

fn open(dir: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_not_given_away_and_the_server_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let alone = exclusive(dir.path(), "foretoken cache clear").unwrap();
        assert!(alone.is_some());
        drop(alone);
        share(dir.path(), Some(SocketAddr::from(([127, 0, 0, 1], 8080))));
        share(dir.path(), None);
        let error = exclusive(dir.path(), "foretoken cache clear").unwrap_err().to_string();
        assert!(error.contains("foretoken cache clear --server http://127.0.0.1:8080"), "{error}");
    }

    #[test]
    fn a_folder_that_does_not_exist_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(exclusive(&missing, "foretoken cache clear").unwrap().is_none());
        assert!(!missing.exists());
    }
}
