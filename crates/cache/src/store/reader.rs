//! The ledger of a data folder, read by someone who does not own it.
//!
//! For a command beside a running server, or after it. The invariant: nothing is written, not even a schema;
//! so unlike [`Store`](super::Store), whatever is wrong is an error that says so.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::ledger::usage;
use super::{FILE, GroupBy, SCHEMA_VERSION, UsageGroup, schema_version};

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
    /// SQLite's refusal.
    #[error("cannot read {}: {error}", path.display())]
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
        if !path.exists() {
            return Err(LedgerError::Missing(path));
        }
        match connect(&path) {
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

/// A connection that cannot write, and the schema it found.
pub(super) fn connect(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(Duration::from_secs(5))?;
    // The first read is what opens the file.
    let version = schema_version(&db)?;
    Ok((db, version))
}
