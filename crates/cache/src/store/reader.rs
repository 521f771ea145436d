//! The ledger of a data folder, read by someone who does not own it.
//!
//! For a command beside a running server, or after it. The invariant: no row and no schema is written, so
//! unlike with [`Store`](super::Store), whatever is wrong is an error that says so. SQLite may leave an empty
//! journal behind where the folder allows it.

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
        // A folder that may not be looked into is not one without a ledger; opening says what it is.
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

/// For a folder or file that may only be read: SQLite then cannot make the memory that it shares with
/// writers. Without a journal there is no writer; where there is one, this is not tried.
pub(super) fn connect_unshared(path: &Path) -> Option<rusqlite::Result<(Connection, i64)>> {
    let journal = PathBuf::from(format!("{}-wal", path.display()));
    if std::fs::metadata(journal).is_ok_and(|file| file.len() > 0) {
        return None;
    }
    let escaped = path.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let open = || {
        let db = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?;
        let version = schema_version(&db)?;
        Ok((db, version))
    };
    Some(open())
}
