use tempfile::TempDir;

use super::database::{SCHEMA, SCHEMA_VERSION};
use super::*;
use crate::clock::SystemClock;

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), StoreConfig::default(), Arc::new(SystemClock::new()))
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
    let second = SCHEMA.replace(credit, "");
    let first = second
        .replace(",\n    user TEXT NOT NULL DEFAULT ''", "")
        .replace("ledger_by_spending ON ledger (tenant, price)", "ledger_by_tenant ON ledger (tenant)");
    assert!(!first.contains("user") && first.contains("ledger_by_tenant") && !second.contains("credit"));
    let values = "1, 5, 'a', 'm', 1, 2, 3, 0, 0, 0, 0, 70, 8, 9, 0, 0, 0";
    goes_on_with(&first, 1, values);
    goes_on_with(&second, 2, &format!("{values}, ''"));
    goes_on_with(SCHEMA, 2, &format!("{values}, '', 0, 0"));
}
