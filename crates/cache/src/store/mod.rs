//! The database: finished answers as token ids, and the ledger.
//!
//! One SQLite file in WAL mode. Reads go through one connection, writes through another that belongs to one
//! thread behind a bounded queue, so that no request ever waits for a disk. The invariant is law 3: whatever is
//! wrong with the file, a read is a miss and a write is dropped, each counted under a name, and the server
//! starts. A file that SQLite finds damaged is set aside whole, never repaired, and an empty one takes its place.

mod ledger;
mod reader;
mod responses;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use rusqlite::{Connection, OpenFlags};

pub use ledger::{GroupBy, LedgerRow, NanoDollars, UsageGroup};
pub use reader::{LedgerError, LedgerReader};
pub use responses::{Alternatives, Response, ResponseKey, StoredScore};

use crate::clock::Clock;
use writer::{Write, Writer};

const FILE: &str = "foretoken.db";
/// Written into the file; another number means another program's or version's tables.
const SCHEMA_VERSION: i64 = 3;
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS responses (
    key BLOB PRIMARY KEY, scope BLOB NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used_ms);
CREATE INDEX IF NOT EXISTS responses_by_scope ON responses (scope, created_ms);
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL,
    hit INTEGER NOT NULL, miss INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    drafted INTEGER NOT NULL, accepted INTEGER NOT NULL, replayed INTEGER NOT NULL,
    price INTEGER NOT NULL, saved INTEGER NOT NULL, saved_ms INTEGER NOT NULL,
    queue_ms INTEGER NOT NULL, prompt_ms INTEGER NOT NULL, total_ms INTEGER NOT NULL,
    user TEXT NOT NULL DEFAULT '',
    credit_earned_us INTEGER NOT NULL DEFAULT 0, credit_spent_us INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS ledger_by_time ON ledger (time_ms);
CREATE INDEX IF NOT EXISTS ledger_by_spending ON ledger (tenant, price);
";
/// From version 1, which knew no users.
const SCHEMA_FROM_1: &str = "
ALTER TABLE ledger ADD COLUMN user TEXT NOT NULL DEFAULT '';
DROP INDEX IF EXISTS ledger_by_tenant;
";
/// From versions 1 and 2, which knew no credit.
const SCHEMA_FROM_2: &str = "
ALTER TABLE ledger ADD COLUMN credit_earned_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger ADD COLUMN credit_spent_us INTEGER NOT NULL DEFAULT 0;
";
/// A larger file is not read through at start-up; its rows' checksums still are checked one by one.
const QUICK_CHECK_BYTES_MAX: u64 = 64 << 20;

/// Bounds of the database.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes of stored answers; beyond it the least recently used go.
    pub responses_bytes_max: u64,
    /// Age at which an answer goes, in milliseconds.
    pub responses_age_ms_max: u64,
    /// Writes that may wait.
    pub queue: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { responses_bytes_max: 256 << 20, responses_age_ms_max: 30 * 86_400_000, queue: 1024 }
    }
}

/// Milliseconds since 1970; a clock before that reads as 0.
fn wall_ms(clock: &dyn Clock) -> u64 {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What happened, counted since the store was opened.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Lookups of an answer.
    pub queries: AtomicU64,
    /// Lookups that found one.
    pub hits: AtomicU64,
    /// Answers written.
    pub stored: AtomicU64,
    /// Writes dropped because the queue was full.
    pub dropped_queue_full: AtomicU64,
    /// Writes that the disk or the database refused.
    pub write_errors: AtomicU64,
    /// Reads that the disk or the database refused.
    pub read_errors: AtomicU64,
    /// Rows whose checksum did not match; each was a miss and is gone.
    pub damaged_rows: AtomicU64,
    /// Database files set aside as damaged.
    pub set_aside: AtomicU64,
    /// Answers evicted because of the byte budget.
    pub evicted_bytes: AtomicU64,
    /// Answers evicted because of their age.
    pub evicted_age: AtomicU64,
    complained: AtomicBool,
}

impl StoreCounters {
    /// Counts a fault, and logs the first one only: a full disk would otherwise fill the log too.
    fn fault(&self, counter: &AtomicU64, what: &str, error: &dyn std::fmt::Display) {
        counter.fetch_add(1, Relaxed);
        if !self.complained.swap(true, Relaxed) {
            tracing::warn!("{what}: {error}; further faults of the database are only counted");
        }
    }
}

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
    /// Opens or creates the database in `dir`. Never fails: if the disk allows no file, it works in memory and
    /// forgets at the end; [`Store::path`] tells.
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
                let what = format!("{} cannot be used, answers are kept in memory only", path.display());
                counters.fault(&counters.write_errors, &what, &error);
                let (reader, writer) = open_memory();
                (None, reader, writer)
            }
        };
        Store::start(path, reader, writer, config, counters, clock)
    }

    /// A database that is gone with the value.
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

    /// The file, or `None` if the disk allowed none.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Counters since the store was opened.
    pub fn counters(&self) -> &StoreCounters {
        &self.counters
    }

    /// Waits until everything queued so far is written.
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

    /// A read that failed is a miss.
    fn read<T: Default>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> T {
        read(&self.reader()).unwrap_or_else(|error| {
            self.counters.fault(&self.counters.read_errors, "cannot read the database", &error);
            T::default()
        })
    }
}

/// Opens both connections to a file and checks that the file is ours and whole.
fn open_file(path: &Path) -> rusqlite::Result<(Connection, Connection)> {
    let mut writer = Connection::open(path)?;
    writer.busy_timeout(std::time::Duration::from_secs(5))?;
    writer.pragma_update(None, "journal_mode", "WAL")?;
    writer.pragma_update(None, "synchronous", "NORMAL")?;
    let version = schema_version(&writer)?;
    if !(0..=SCHEMA_VERSION).contains(&version) {
        return Err(damage(&format!("schema version {version}, expected {SCHEMA_VERSION}")));
    }
    if std::fs::metadata(path).map_or(0, |file| file.len()) <= QUICK_CHECK_BYTES_MAX {
        let verdict: String = writer.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(damage(&verdict));
        }
    }
    // In one transaction, so that of two processes that find an old file one changes it.
    let change = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version = schema_version(&change)?;
    if version == 1 {
        change.execute_batch(SCHEMA_FROM_1)?;
    }
    // For a time, files of version 2 were made with the columns already.
    if matches!(version, 1 | 2) && !has_credit(&change)? {
        change.execute_batch(SCHEMA_FROM_2)?;
    }
    change.execute_batch(SCHEMA)?;
    change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    change.commit()?;
    let reader = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    reader.busy_timeout(std::time::Duration::from_millis(100))?;
    Ok((reader, writer))
}

fn schema_version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn has_credit(db: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM pragma_table_info('ledger') WHERE name = 'credit_earned_us'";
    db.query_row(sql, [], |row| row.get(0))
}

/// Two connections to one database that lives as long as they do.
fn open_memory() -> (Connection, Connection) {
    use std::hash::{BuildHasher, RandomState};
    let name = RandomState::new().hash_one(0);
    let uri = format!("file:foretoken-{name:x}?mode=memory&cache=shared");
    let open = || Connection::open(&uri).expect("an in-memory database needs nothing but memory");
    let writer = open();
    writer.execute_batch(SCHEMA).expect("the schema is valid SQL");
    (open(), writer)
}

fn damage(what: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(what.to_string()))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        // An extended code such as "no such column" comes from another program's tables under our name.
        rusqlite::Error::SqliteFailure(code, _) => {
            matches!(code.code, DatabaseCorrupt | NotADatabase | rusqlite::ErrorCode::Unknown)
        }
        _ => true,
    }
}

/// Renames a database and its journals so that an empty one can take its place and nothing is lost.
fn set_aside(path: &Path, now_ms: u64) -> rusqlite::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let name = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        let from = name(suffix);
        if from.exists() {
            let to = name(&format!(".damaged-{now_ms}{suffix}"));
            std::fs::rename(&from, to).map_err(|error| {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
                rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod tests;
