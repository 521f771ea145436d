//! The ledger: one row per request, in whole numbers, and sums over it.

use std::path::Path;

use rusqlite::{Connection, params};

use super::Store;
use super::reader::{LedgerError, connect};
use super::writer::Write;

/// A billionth of a US dollar. Prices per million tokens in thousandths of a dollar stay exact.
pub type NanoDollars = i64;

/// What one request used, cost and saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerRow {
    /// When it ended, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whose request it was.
    pub tenant: String,
    /// For whom the tenant asked; empty if it said nothing.
    pub user: String,
    /// The model's name.
    pub model: String,
    /// Prompt tokens from a cache.
    pub hit: u64,
    /// Prompt tokens computed.
    pub miss: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Of those, tokens of reasoning.
    pub reasoning: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Of those, tokens kept.
    pub accepted: u64,
    /// Whether the answer came from the response store.
    pub replayed: bool,
    /// The price by the price list.
    pub price: NanoDollars,
    /// What the hits saved by the price list.
    pub saved: NanoDollars,
    /// Milliseconds of prefill that the hits saved, by measured speed.
    pub saved_ms: u64,
    /// Microseconds of compute that hits saved and that were credited to the tenant's speculation.
    pub credit_earned_us: u64,
    /// Microseconds of compute spent on speculation past break-even.
    pub credit_spent_us: u64,
    /// Milliseconds in the queue.
    pub queue_ms: u64,
    /// Milliseconds to the first token.
    pub prompt_ms: u64,
    /// Milliseconds in all.
    pub total_ms: u64,
}

/// What rows are summed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// All rows together.
    None,
    /// Days in UTC, as `2026-11-24`.
    Day,
    /// The model's name.
    Model,
    /// The tenant.
    Tenant,
    /// The tenant with its user, as `tenant/user`; the tenant alone where it named no user.
    User,
}

/// Sums over the rows of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageGroup {
    /// The day, model, tenant or user; empty if everything is summed.
    pub group: String,
    /// Rows.
    pub requests: u64,
    /// Sums; `time_ms` is the last row's, texts are empty, `replayed` says nothing.
    pub sum: LedgerRow,
    /// Rows that were replayed.
    pub replayed: u64,
}

impl Store {
    /// Appends a row. Queued; dropped and counted if the queue is full.
    pub fn record(&self, row: LedgerRow) {
        self.send(Write::Ledger(Box::new(row)));
    }

    /// Sums over the rows of `tenant` (or everyone) with `from_ms <= time_ms < to_ms`. May take a while; it
    /// has a connection of its own, so that nobody who looks for an answer waits for it.
    ///
    /// # Errors
    /// The database cannot be read: a sum that lacks something is no sum.
    pub fn usage(
        &self,
        tenant: Option<&str>,
        from_ms: u64,
        to_ms: u64,
        group_by: GroupBy,
    ) -> Result<Vec<UsageGroup>, LedgerError> {
        let read = match self.path() {
            Some(path) => connect(path).and_then(|(db, _)| usage(&db, tenant, from_ms, to_ms, group_by)),
            None => usage(&self.reader(), tenant, from_ms, to_ms, group_by),
        };
        read.map_err(|error| {
            self.counters.fault(&self.counters.read_errors, "cannot read the ledger", &error);
            let path = self.path().unwrap_or(Path::new("the database in memory")).to_owned();
            LedgerError::Database { path, error }
        })
    }

    /// What a tenant has spent in all.
    pub fn spent(&self, tenant: &str) -> NanoDollars {
        let sql = "SELECT coalesce(sum(price), 0) FROM ledger WHERE tenant = ?1";
        self.read(|db| db.prepare_cached(sql)?.query_row([tenant], |row| row.get(0)))
    }
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
        "SELECT {group} AS g, count(*), max(time_ms), sum(hit), sum(miss), sum(output), sum(reasoning), \
         sum(drafted), sum(accepted), sum(replayed), sum(price), sum(saved), sum(saved_ms), sum(queue_ms), \
         sum(prompt_ms), sum(total_ms), sum(credit_earned_us), sum(credit_spent_us) \
         FROM ledger WHERE time_ms >= ?1 AND time_ms < ?2 AND (?3 IS NULL OR tenant = ?3) GROUP BY g ORDER BY g"
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
