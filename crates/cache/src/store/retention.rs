//! The ledger's retention: old rows are summed up per day, tenant and model, so that what was spent stays exact while
//! the ledger stays bounded.
//!
//! The invariant: the sums over `ledger` and `ledger_sums` together never change by it, for a tenant and whole days in
//! UTC. Users of a tenant are not told apart any more in what was summed up.

use rusqlite::{Connection, OptionalExtension, params};

use super::config::DAY_MS;
use super::ledger_row::LedgerRow;

/// The columns that are summed.
pub(super) const SUMMED: &str = "hit, miss, output, reasoning, drafted, accepted, replayed, price, saved, saved_ms, \
     queue_ms, prompt_ms, total_ms, credit_earned_us, credit_spent_us";
/// Estimated bytes of a row beside its strings, indices included.
const ROW_BYTES: u64 = 128;
/// Over the byte budget, this fraction of the rows is summed up at a time.
const FRACTION: u64 = 8;
/// Maximum rows of daily sums; beyond it the oldest half of them becomes one row per tenant and model.
const SUMS_MAX: u64 = 100_000;

/// Estimated bytes of a row.
pub(super) fn row_bytes(row: &LedgerRow) -> u64 {
    ROW_BYTES + (row.tenant.len() + row.user.len() + row.model.len()) as u64
}

/// Rows, and their estimated bytes. Takes time linear in the ledger.
pub(super) fn totals(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT count(*), coalesce(sum(length(tenant) + length(user) + length(model)), 0) FROM ledger";
    let (rows, strings): (i64, i64) = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (rows, strings) = (rows.unsigned_abs(), strings.unsigned_abs());
    Ok((rows, rows * ROW_BYTES + strings))
}

/// Sums up what is older than `before_ms`; returns how many rows.
pub(super) fn sum_up_old(db: &mut Connection, before_ms: u64) -> rusqlite::Result<u64> {
    let before = i64::try_from(before_ms).unwrap_or(i64::MAX);
    let any = "SELECT 1 FROM ledger WHERE time_ms < ?1 LIMIT 1";
    let any: Option<i64> = db.prepare_cached(any)?.query_row([before], |row| row.get(0)).optional()?;
    if any.is_some() { sum_up(db, before, SUMS_MAX) } else { Ok(0) }
}

/// Sums up the oldest part of the rows; returns how many.
pub(super) fn sum_up_oldest(db: &mut Connection) -> rusqlite::Result<u64> {
    let (rows, _) = totals(db)?;
    let last = rows.div_ceil(FRACTION).max(1) - 1;
    let sql = "SELECT time_ms FROM ledger ORDER BY time_ms LIMIT 1 OFFSET ?1";
    let time: Option<i64> = db.query_row(sql, [last.cast_signed()], |row| row.get(0)).optional()?;
    time.map_or(Ok(0), |time| sum_up(db, time.saturating_add(1), SUMS_MAX))
}

fn sum_up(db: &mut Connection, before_ms: i64, sums_max: u64) -> rusqlite::Result<u64> {
    let day = format!("max(time_ms, 0) / {DAY_MS} * {DAY_MS}");
    let transaction = db.transaction()?;
    let sql = add(&day, "count(*)", "ledger", "time_ms < ?1");
    transaction.execute(&sql, [before_ms])?;
    let rows = transaction.execute("DELETE FROM ledger WHERE time_ms < ?1", [before_ms])?;
    let sums: i64 = transaction.query_row("SELECT count(*) FROM ledger_sums", [], |row| row.get(0))?;
    if sums.unsigned_abs() > sums_max {
        let middle = "SELECT time_ms FROM ledger_sums ORDER BY time_ms LIMIT 1 OFFSET ?1";
        let until: i64 = transaction.query_row(middle, [sums / 2], |row| row.get(0))?;
        transaction
            .execute(&add("0", "sum(requests)", "ledger_sums", "time_ms > 0 AND time_ms <= ?1"), [until])?;
        let sql = "DELETE FROM ledger_sums WHERE time_ms > 0 AND time_ms <= ?1";
        transaction.execute(sql, params![until])?;
    }
    transaction.commit()?;
    Ok(rows as u64)
}

/// Adds the rows of a table to the sums at `time`.
fn add(time: &str, requests: &str, table: &str, condition: &str) -> String {
    let columns: Vec<&str> = SUMMED.split(", ").collect();
    let sums: Vec<String> = columns.iter().map(|column| format!("sum({column})")).collect();
    let added: Vec<String> = columns
        .iter()
        .chain(&["requests"])
        .map(|column| format!("{column} = {column} + excluded.{column}"))
        .collect();
    format!(
        "INSERT INTO ledger_sums (time_ms, tenant, model, requests, {SUMMED}) \
         SELECT {time} AS day, tenant, model, {requests}, {} FROM {table} WHERE {condition} \
         GROUP BY day, tenant, model \
         ON CONFLICT (time_ms, tenant, model) DO UPDATE SET {}",
        sums.join(", "),
        added.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database::open_memory;

    #[test]
    fn daily_sums_are_bounded_and_keep_what_was_spent() {
        let (_, mut db) = open_memory();
        let sql = "INSERT INTO ledger (time_ms, tenant, model, hit, miss, output, reasoning, drafted, accepted, replayed, \
                   price, saved, saved_ms, queue_ms, prompt_ms, total_ms) \
                   VALUES (?1, ?2, 'm', 1, 2, 3, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0)";
        for day in 1..=100u64 {
            for tenant in ["a", "b"] {
                db.execute(sql, params![(day * DAY_MS).cast_signed(), tenant]).unwrap();
                db.execute(sql, params![(day * DAY_MS + 1).cast_signed(), tenant]).unwrap();
            }
        }
        for until in (1..=101).map(|day| (day * DAY_MS).cast_signed()) {
            sum_up(&mut db, until, 50).unwrap();
            let (sums, requests, price): (i64, i64, i64) = db
                .query_row(
                    "SELECT count(*), coalesce(sum(requests), 0), coalesce(sum(price), 0) FROM ledger_sums",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                )
                .unwrap();
            let (rows, _) = totals(&db).unwrap();
            assert!(sums <= 50, "{sums} sums");
            assert_eq!((requests + rows.cast_signed(), price + 5 * rows.cast_signed()), (400, 2000));
        }
    }
}
