//! Sums over the ledger's rows, those that were summed up already included.

use rusqlite::{Connection, params};

use super::ledger_row::LedgerRow;
use super::retention::SUMMED;

/// How rows are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// One group of all rows.
    None,
    /// Days in UTC, as `2026-11-24`.
    Day,
    /// The model's name.
    Model,
    /// The tenant.
    Tenant,
    /// Tenant and user, as `tenant/user`; the tenant alone where no user was given.
    User,
}

/// Sums over the rows of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageGroup {
    /// The day, model, tenant or user; empty for one group of all rows.
    pub group: String,
    /// Rows.
    pub requests: u64,
    /// Sums; `time_ms` is the last row's, strings are empty, `replayed` is unused.
    pub sum: LedgerRow,
    /// Rows that were replayed.
    pub replayed: u64,
}

/// Sums over rows; see [`Store::usage`].
pub(super) fn usage(
    db: &Connection,
    tenant: Option<&str>,
    from_ms: u64,
    to_ms: u64,
    group_by: GroupBy,
) -> rusqlite::Result<Vec<UsageGroup>> {
    let group = match group_by {
        GroupBy::None => "''",
        GroupBy::Day => "date(time_ms / 1000, 'unixepoch')",
        GroupBy::Model => "model",
        GroupBy::Tenant => "tenant",
        GroupBy::User => "CASE user WHEN '' THEN tenant ELSE tenant || '/' || user END",
    };
    let sql = format!(
        "SELECT {group} AS g, sum(requests), max(time_ms), sum(hit), sum(miss), sum(output), sum(reasoning), \
         sum(drafted), sum(accepted), sum(replayed), sum(price), sum(saved), sum(saved_ms), sum(queue_ms), \
         sum(prompt_ms), sum(total_ms), sum(credit_earned_us), sum(credit_spent_us) \
         FROM (SELECT time_ms, tenant, user, model, 1 AS requests, {SUMMED} FROM ledger \
         UNION ALL SELECT time_ms, tenant, '' AS user, model, requests, {SUMMED} FROM ledger_sums) \
         WHERE time_ms >= ?1 AND time_ms < ?2 AND (?3 IS NULL OR tenant = ?3) GROUP BY g ORDER BY g"
    );
    let bound = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params![bound(from_ms), bound(to_ms), tenant], |row| {
        let number = |index| row.get::<_, i64>(index).map(|n| n as u64);
        Ok(UsageGroup {
            group: row.get(0)?,
            requests: number(1)?,
            replayed: number(9)?,
            sum: LedgerRow {
                time_ms: number(2)?,
                hit: number(3)?,
                miss: number(4)?,
                output: number(5)?,
                reasoning: number(6)?,
                drafted: number(7)?,
                accepted: number(8)?,
                price: row.get(10)?,
                saved: row.get(11)?,
                saved_ms: number(12)?,
                queue_ms: number(13)?,
                prompt_ms: number(14)?,
                total_ms: number(15)?,
                credit_earned_us: number(16)?,
                credit_spent_us: number(17)?,
                ..LedgerRow::default()
            },
        })
    })?;
    rows.collect()
}
