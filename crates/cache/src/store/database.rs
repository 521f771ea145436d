//! The database file: its schema, opening it with or without the right to write, and setting a damaged one aside.
//!
//! Knows no rows. The invariant: a file is never repaired; it is opened whole, or an error says why not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::disk::file_system::{FileSystem, RealFileSystem};

pub(super) const FILE: &str = "foretoken.db";
/// Stored as `user_version`; another number means another program's or version's tables.
pub(super) const SCHEMA_VERSION: i64 = 4;
pub(super) const SCHEMA: &str = "
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
CREATE TABLE IF NOT EXISTS ledger_sums (
    time_ms INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
    hit INTEGER NOT NULL, miss INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    drafted INTEGER NOT NULL, accepted INTEGER NOT NULL, replayed INTEGER NOT NULL,
    price INTEGER NOT NULL, saved INTEGER NOT NULL, saved_ms INTEGER NOT NULL,
    queue_ms INTEGER NOT NULL, prompt_ms INTEGER NOT NULL, total_ms INTEGER NOT NULL,
    credit_earned_us INTEGER NOT NULL, credit_spent_us INTEGER NOT NULL,
    PRIMARY KEY (time_ms, tenant, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limits (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
";
/// From version 1, which had no users.
const SCHEMA_FROM_1: &str = "
ALTER TABLE ledger ADD COLUMN user TEXT NOT NULL DEFAULT '';
DROP INDEX IF EXISTS ledger_by_tenant;
";
/// From versions 1 and 2, which had no credit.
const SCHEMA_FROM_2: &str = "
ALTER TABLE ledger ADD COLUMN credit_earned_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger ADD COLUMN credit_spent_us INTEGER NOT NULL DEFAULT 0;
";
/// A larger file is not checked as a whole at start-up; its rows' checksums still are, one by one.
const QUICK_CHECK_BYTES_MAX: u64 = 64 << 20;
/// The write-ahead log is cut to this size after a checkpoint.
const JOURNAL_BYTES_MAX: i64 = 16 << 20;
/// Damaged databases that are kept.
const SET_ASIDE_MAX: usize = 2;
const SET_ASIDE: &str = ".damaged-";

/// Opens the reading and the writing connection and checks the file's version and integrity.
pub(super) fn open_file(path: &Path) -> rusqlite::Result<(Connection, Connection)> {
    create_private(path);
    let mut writer = Connection::open(path)?;
    writer.busy_timeout(Duration::from_secs(5))?;
    writer.pragma_update(None, "journal_mode", "WAL")?;
    writer.pragma_update(None, "synchronous", "NORMAL")?;
    writer.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_MAX)?;
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
    // In one transaction, so that only one of two processes migrates an old file.
    let change = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version = schema_version(&change)?;
    if version == 1 {
        change.execute_batch(SCHEMA_FROM_1)?;
    }
    // Some files of version 2 were created with the columns already.
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
    reader.busy_timeout(Duration::from_millis(100))?;
    Ok((reader, writer))
}

pub(super) fn schema_version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn has_credit(db: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM pragma_table_info('ledger') WHERE name = 'credit_earned_us'";
    db.query_row(sql, [], |row| row.get(0))
}

/// Creates the folder with mode 0700 and an empty file with mode 0600, which SQLite also gives to its journals.
fn create_private(path: &Path) {
    if let Some(folder) = path.parent() {
        // Opening the database reports what is wrong.
        RealFileSystem.create_folders(folder).ok();
    }
    RealFileSystem.write(path, &[], &[]).ok();
}

/// Two connections to one in-memory database that lives as long as they do.
pub(super) fn open_memory() -> (Connection, Connection) {
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

pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        // An extended code such as "no such column" means another program's tables under this name.
        rusqlite::Error::SqliteFailure(code, _) => {
            matches!(code.code, DatabaseCorrupt | NotADatabase | rusqlite::ErrorCode::Unknown)
        }
        _ => true,
    }
}

/// Renames a database and its journals, so that an empty one can replace it and nothing is lost.
pub(super) fn set_aside(path: &Path, now_ms: u64) -> rusqlite::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let name = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        let from = name(suffix);
        if from.exists() {
            let to = name(&format!("{SET_ASIDE}{now_ms}{suffix}"));
            std::fs::rename(&from, to).map_err(|error| {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
                rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
            })?;
        }
    }
    remove_set_aside(path);
    Ok(())
}

/// Keeps the latest damaged databases and removes the others.
fn remove_set_aside(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!("{}{SET_ASIDE}", name.to_string_lossy());
    let mut times = BTreeMap::<u64, Vec<PathBuf>>::new();
    // A file that cannot be listed or removed is tried again when the next one is set aside.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix) else { continue };
        let digits = rest.split('-').next().unwrap_or_default();
        if let Ok(time) = digits.parse() {
            times.entry(time).or_default().push(entry.path());
        }
    }
    let surplus = times.len().saturating_sub(SET_ASIDE_MAX);
    times.into_values().take(surplus).flatten().for_each(|path| {
        std::fs::remove_file(path).ok();
    });
}

/// A read-only connection, and the schema version it found.
pub(super) fn connect(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(Duration::from_secs(5))?;
    // SQLite opens the file at the first read.
    let version = schema_version(&db)?;
    Ok((db, version))
}

/// For a read-only folder or file, where SQLite cannot create the memory that it shares with
/// writers. Without a journal there is no writer; where there is one, this is not attempted.
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
