use tempfile::TempDir;

use super::database::{SCHEMA, SCHEMA_VERSION};
use super::*;
use crate::clock::SystemClock;

/// Times in these tests are long ago, so nothing is summed up.
fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), StoreConfig::unbounded(), Arc::new(SystemClock::new()))
}

fn row(time_ms: u64, tenant: &str, user: &str) -> LedgerRow {
    LedgerRow { time_ms, tenant: tenant.into(), user: user.into(), price: 5, ..LedgerRow::default() }
}

#[test]
fn the_ledger_sums_by_day_and_tenant() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let day = 86_400_000;
    for (time_ms, tenant, hit) in [(day, "a", 10), (day + 1, "b", 20), (2 * day, "a", 40)] {
        store.record(LedgerRow { time_ms, tenant: tenant.into(), hit, price: 5, ..LedgerRow::default() });
    }
    store.flush();
    let sums = |group_by| -> Vec<(String, u64)> {
        store.usage(None, 0, u64::MAX, group_by).unwrap().into_iter().map(|g| (g.group, g.sum.hit)).collect()
    };
    assert_eq!(sums(GroupBy::Day), [("1970-01-02".into(), 30), ("1970-01-03".into(), 40)]);
    assert_eq!(sums(GroupBy::Tenant), [("a".into(), 50), ("b".into(), 20)]);
    assert_eq!(store.usage(Some("a"), 0, 2 * day, GroupBy::None).unwrap()[0].requests, 1);
    assert_eq!(store.spent("a"), 10);
}

#[test]
fn users_are_told_apart_by_tenant() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for (tenant, user) in [("a", "u"), ("a", ""), ("b", "u"), ("a", "u")] {
        store.record(row(1, tenant, user));
    }
    store.flush();
    let groups = |tenant| -> Vec<(String, u64)> {
        let groups = store.usage(tenant, 0, 2, GroupBy::User).unwrap();
        groups.into_iter().map(|group| (group.group, group.requests)).collect()
    };
    assert_eq!(groups(None), [("a".into(), 1), ("a/u".into(), 2), ("b/u".into(), 1)]);
    assert_eq!(groups(Some("b")), [("b/u".into(), 1)]);
}

#[test]
fn a_reader_sees_the_rows_beside_the_writer_and_after_it() {
    let dir = TempDir::new().unwrap();
    let rows = || {
        let reader = LedgerReader::open(dir.path()).unwrap();
        reader.usage(None, 0, u64::MAX, GroupBy::None).unwrap()[0].requests
    };
    let store = open(&dir);
    store.record(row(1, "a", ""));
    store.flush();
    assert_eq!(rows(), 1);
    store.record(row(2, "a", ""));
    store.flush();
    assert_eq!(rows(), 2);
    drop(store);
    assert_eq!(rows(), 2);
}

#[test]
fn a_folder_that_may_only_be_read_can_be_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("odd?name#100%.db");
    let store = open(&dir);
    store.record(row(1, "a", ""));
    drop(store);
    std::fs::rename(dir.path().join(FILE), &path).unwrap();
    let (db, version) = super::database::connect_unshared(&path).unwrap().unwrap();
    assert_eq!(version, SCHEMA_VERSION);
    assert_eq!(usage::usage(&db, None, 0, 9, GroupBy::None).unwrap()[0].requests, 1);
    // Permissions do not stop the superuser, who may be running this; that no journal was made does show it.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::write(dir.path().join("odd?name#100%.db-wal"), b"a writer is at work").unwrap();
    assert!(super::database::connect_unshared(&path).is_none());
}

#[test]
fn a_reader_makes_no_file_and_says_what_is_missing_or_wrong() {
    let dir = TempDir::new().unwrap();
    let error = LedgerReader::open(dir.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Missing(_)), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::fs::write(dir.path().join(FILE), b"this is no database, whatever its name says").unwrap();
    let error = LedgerReader::open(dir.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Database { .. }), "{error}");
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    let db = Connection::open(dir.path().join(FILE)).unwrap();
    db.pragma_update(None, "user_version", 7).unwrap();
    drop(db);
    let error = LedgerReader::open(dir.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Version { found: 7, .. }), "{error}");
}

/// Opens, writes and reopens a database that had this schema, version and row.
fn goes_on_with(schema: &str, version: i64, row_values: &str) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(FILE);
    let db = Connection::open(&path).unwrap();
    db.execute_batch(schema).unwrap();
    db.execute(&format!("INSERT INTO ledger VALUES ({row_values})"), []).unwrap();
    db.pragma_update(None, "user_version", version).unwrap();
    drop(db);
    for rows in 1..3 {
        let store = open(&dir);
        assert_eq!(store.path(), Some(path.as_path()));
        assert_eq!(store.usage(Some("a"), 0, 10, GroupBy::User).unwrap()[0].requests, rows);
        assert_eq!(store.counters().set_aside.load(Relaxed), 0);
        store.record(row(6, "a", ""));
    }
    assert_eq!(open(&dir).spent("a"), 80);
}

#[test]
fn databases_of_earlier_versions_keep_their_rows_and_take_new_ones() {
    let credit =
        ",\n    credit_earned_us INTEGER NOT NULL DEFAULT 0, credit_spent_us INTEGER NOT NULL DEFAULT 0";
    // The tables that version 4 added come last.
    let third = &SCHEMA[..SCHEMA.find("CREATE TABLE IF NOT EXISTS ledger_sums").unwrap()];
    let second = third.replace(credit, "");
    let first = second
        .replace(",\n    user TEXT NOT NULL DEFAULT ''", "")
        .replace("ledger_by_spending ON ledger (tenant, price)", "ledger_by_tenant ON ledger (tenant)");
    assert!(!first.contains("user") && first.contains("ledger_by_tenant") && !second.contains("credit"));
    let values = "1, 5, 'a', 'm', 1, 2, 3, 0, 0, 0, 0, 70, 8, 9, 0, 0, 0";
    goes_on_with(&first, 1, values);
    goes_on_with(&second, 2, &format!("{values}, ''"));
    goes_on_with(third, 2, &format!("{values}, '', 0, 0"));
    goes_on_with(third, 3, &format!("{values}, '', 0, 0"));
}

#[test]
fn old_rows_are_summed_up_and_what_was_spent_stays_exact() {
    let dir = TempDir::new().unwrap();
    let now = crate::clock::wall_ms(&SystemClock::new());
    let days_ago = |days: u64| now / DAY_MS * DAY_MS - days * DAY_MS;
    let config = StoreConfig { ledger_age_ms_max: 30 * DAY_MS, ..StoreConfig::default() };
    let store = Store::open(dir.path(), config, Arc::new(SystemClock::new()));
    for days in [100, 100, 60, 2] {
        store.record(row(days_ago(days) + 5, "a", "u"));
    }
    store.record(row(days_ago(100), "b", ""));
    store.flush();
    assert_eq!(store.ledger_totals().0, 1, "the recent row");
    assert_eq!((store.spent("a"), store.spent("b")), (20, 5));
    assert_eq!(store.counters().ledger_summed.load(Relaxed), 4);
    let days = store.usage(Some("a"), 0, u64::MAX, GroupBy::Day).unwrap();
    assert_eq!(
        days.iter().map(|day| (day.requests, day.sum.price)).collect::<Vec<_>>(),
        [(2, 10), (1, 5), (1, 5)]
    );
    let since = store.usage(Some("a"), days_ago(60), u64::MAX, GroupBy::None).unwrap();
    assert_eq!(since[0].requests, 2, "whole days are found by time");
    drop(store);
    let reader = LedgerReader::open(dir.path()).unwrap();
    assert_eq!(reader.usage(None, 0, u64::MAX, GroupBy::None).unwrap()[0].sum.price, 25);
}

#[test]
fn the_ledger_stays_within_its_bytes_and_loses_no_spending() {
    let dir = TempDir::new().unwrap();
    let config = StoreConfig { ledger_bytes_max: 20_000, queue: 4096, ..StoreConfig::default() };
    let store = Store::open(dir.path(), config, Arc::new(SystemClock::new()));
    let now = crate::clock::wall_ms(&SystemClock::new());
    for at in 0..2000 {
        store.record(row(now + at, "a", &format!("user {at}")));
        if at % 100 == 99 {
            store.flush();
            let (_, bytes) = store.ledger_totals();
            assert!(bytes <= 20_000, "{bytes} bytes after {at} rows");
        }
    }
    assert_eq!(store.spent("a"), 10_000);
    assert_eq!(store.usage(None, 0, u64::MAX, GroupBy::None).unwrap()[0].requests, 2000);
    assert_eq!(store.counters().ledger_bytes.load(Relaxed), store.ledger_totals().1);
}

#[test]
fn limits_are_read_after_a_restart() {
    let dir = TempDir::new().unwrap();
    open(&dir).record_limits(vec![("blocks".into(), 7)]);
    open(&dir).record_limits(vec![("drafts".into(), 8), ("ledger".into(), u64::MAX)]);
    assert_eq!(open(&dir).limits(), [("drafts".into(), 8), ("ledger".into(), i64::MAX as u64)]);
}

#[test]
fn a_missing_folder_is_created_and_few_damaged_databases_are_kept() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("new/data");
    let open = || Store::open(&folder, StoreConfig::default(), Arc::new(SystemClock::new()));
    open().record(row(1, "a", ""));
    assert_eq!(open().spent("a"), 5);
    for _ in 0..6 {
        std::fs::write(folder.join(FILE), vec![1; 5000]).unwrap();
        assert_eq!(open().counters().set_aside.load(Relaxed), 1);
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let damaged = names
        .iter()
        .filter(|name| name.contains("damaged") && !name.contains("-wal") && !name.contains("-shm"));
    assert_eq!(damaged.count(), 2, "{names:?}");
}

#[test]
fn a_ledger_that_must_be_kept_is_an_error_if_it_cannot_be_opened() {
    let dir = TempDir::new().unwrap();
    let try_open =
        |folder: &Path| Store::try_open(folder, StoreConfig::default(), Arc::new(SystemClock::new()));
    let damaged = vec![1; 5000];
    std::fs::write(dir.path().join(FILE), &damaged).unwrap();
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(FILE), "{error}");
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), damaged, "it is left for repair");
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(try_open(&file.join("data")).is_err(), "no folder can be there");
    assert!(try_open(&dir.path().join("fresh/data")).is_ok(), "a fresh folder is created");
}
