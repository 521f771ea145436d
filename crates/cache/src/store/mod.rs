//! The database: finished responses as token ids, and the ledger.
//!
//! One SQLite file in WAL mode. Reads use one connection, writes another that belongs to one
//! thread behind a bounded queue, so that no request waits for a write. The invariant is law 3: whatever is
//! wrong with the file, a read is a miss and a write is dropped, each counted under a name, and the server
//! starts. A file that SQLite finds damaged is renamed whole, never repaired, and replaced by an empty one.

mod config;
mod counters;
mod database;
mod ledger;
mod ledger_reader;
mod ledger_row;
mod response;
mod responses;
mod retention;
mod usage;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

pub use config::{DAY_MS, StoreConfig};
pub use counters::StoreCounters;
pub use ledger_reader::{LedgerError, LedgerReader};
pub use ledger_row::{LedgerRow, NanoDollars};
pub use response::{Alternatives, Response, ResponseKey, StoredScore};
pub use usage::{GroupBy, UsageGroup};

use crate::clock::{Clock, wall_ms};
use database::{FILE, is_damage, open_file, open_memory, set_aside};
use writer::{Write, Writer};

/// The open database. Dropping it writes what is queued.
pub struct Store {
    reader: Mutex<Connection>,
    writer: Writer,
    counters: Arc<StoreCounters>,
    clock: Arc<dyn Clock>,
    path: Option<PathBuf>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the database in `dir`. Never fails: if no file can be opened, it works in memory and
    /// is lost at the end; see [`Store::path`].
    pub fn open(dir: &Path, config: StoreConfig, clock: Arc<dyn Clock>) -> Store {
        let counters = Arc::new(StoreCounters::default());
        let path = dir.join(FILE);
        let opened = open_file(&path).or_else(|error| {
            if path.exists() && is_damage(&error) {
                counters.fault(
                    &counters.set_aside,
                    &format!("{} is damaged and set aside", path.display()),
                    &error,
                );
                set_aside(&path, wall_ms(&*clock))?;
            }
            open_file(&path)
        });
        let (path, reader, writer) = match opened {
            Ok((reader, writer)) => (Some(path), reader, writer),
            Err(error) => {
                let what = format!(
                    "{} cannot be used, responses and ledger are kept in memory only",
                    path.display()
                );
                counters.fault(&counters.write_errors, &what, &error);
                let (reader, writer) = open_memory();
                (None, reader, writer)
            }
        };
        Store::start(path, reader, writer, config, counters, clock)
    }

    /// Opens or creates the database in `dir`, for a server whose ledger must be kept.
    ///
    /// # Errors
    /// The file cannot be used; a damaged one stays where it is.
    pub fn try_open(dir: &Path, config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Store, LedgerError> {
        let path = dir.join(FILE);
        match open_file(&path) {
            Ok((reader, writer)) => {
                Ok(Store::start(Some(path), reader, writer, config, Arc::default(), clock))
            }
            Err(error) => Err(LedgerError::Database { path, error }),
        }
    }

    /// An in-memory database that is lost when dropped.
    pub fn in_memory(config: StoreConfig, clock: Arc<dyn Clock>) -> Store {
        let (reader, writer) = open_memory();
        Store::start(None, reader, writer, config, Arc::default(), clock)
    }

    fn start(
        path: Option<PathBuf>,
        reader: Connection,
        writer: Connection,
        config: StoreConfig,
        counters: Arc<StoreCounters>,
        clock: Arc<dyn Clock>,
    ) -> Store {
        let writer = Writer::start(writer, config, Arc::clone(&counters), Arc::clone(&clock));
        Store { reader: Mutex::new(reader), writer, counters, clock, path }
    }

    /// The file, or `None` if the database is in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Counters since the store was opened.
    pub fn counters(&self) -> &StoreCounters {
        &self.counters
    }

    /// Blocks until everything queued so far is written.
    pub fn flush(&self) {
        self.writer.flush();
    }

    fn now_ms(&self) -> u64 {
        wall_ms(&*self.clock)
    }

    fn send(&self, write: Write) {
        if !self.writer.try_send(write) {
            self.counters.dropped_queue_full.fetch_add(1, Relaxed);
        }
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held cannot leave a statement half done: SQLite rolls it back.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads; a failure is a miss.
    fn read<T: Default>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> T {
        self.read_from(&self.reader(), read)
    }

    fn read_from<T: Default>(
        &self,
        db: &Connection,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> T {
        read(db).unwrap_or_else(|error| {
            self.counters.fault(&self.counters.read_errors, "cannot read the database", &error);
            T::default()
        })
    }
}

#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod response_tests;
