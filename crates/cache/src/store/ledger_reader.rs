//! Reads the ledger of a data folder that another process may own.
//!
//! For a command run beside a server, or after it. The invariant: no row and no schema is written, so
//! unlike with [`Store`](super::Store), every fault is an error. SQLite may leave an empty
//! journal behind if the folder is writable.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::database::{FILE, SCHEMA_VERSION, connect, connect_unshared};
use super::usage::{GroupBy, UsageGroup, usage};

/// Why a ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// No file.
    #[error("{} does not exist: no server has kept a ledger in this data folder yet", .0.display())]
    Missing(PathBuf),
    /// Another version's file.
    #[error("{} has schema {found}, this program reads {SCHEMA_VERSION}; start this version's server on it once", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The number in it.
        found: i64,
    },
    /// SQLite's error.
    #[error("cannot use {}: {error}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
}

/// An open ledger.
#[derive(Debug)]
pub struct LedgerReader {
    db: Connection,
    path: PathBuf,
}

impl LedgerReader {
    /// Opens the ledger in `dir`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<LedgerReader, LedgerError> {
        let path = dir.join(FILE);
        // A folder without search permission may have a ledger; opening it reports the error.
        if path.try_exists().is_ok_and(|there| !there) {
            return Err(LedgerError::Missing(path));
        }
        match connect(&path).or_else(|error| connect_unshared(&path).unwrap_or(Err(error))) {
            Ok((_, found)) if found != SCHEMA_VERSION => Err(LedgerError::Version { path, found }),
            Ok((db, _)) => Ok(LedgerReader { db, path }),
            Err(error) => Err(LedgerError::Database { path, error }),
        }
    }

    /// As [`Store::usage`](super::Store::usage).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn usage(
        &self,
        tenant: Option<&str>,
        from_ms: u64,
        to_ms: u64,
        group_by: GroupBy,
    ) -> Result<Vec<UsageGroup>, LedgerError> {
        usage(&self.db, tenant, from_ms, to_ms, group_by)
            .map_err(|error| LedgerError::Database { path: self.path.clone(), error })
    }
}
