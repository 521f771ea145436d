//! Appending to the ledger, and summing it beside a running server.

use std::path::Path;

use super::Store;
use super::database::connect;
use super::ledger_reader::LedgerError;
use super::ledger_row::{LedgerRow, NanoDollars};
use super::retention::totals;
use super::usage::{GroupBy, UsageGroup, usage};
use super::writer::Write;

impl Store {
    /// Appends a row. Queued; dropped and counted if the queue is full.
    pub fn record(&self, row: LedgerRow) {
        self.send(Write::Ledger(Box::new(row)));
    }

    /// Sums over the rows of `tenant` (or everyone) with `from_ms <= time_ms < to_ms`. May take a while; it
    /// has a connection of its own, so that no lookup of a response waits for it.
    ///
    /// # Errors
    /// The database cannot be read: an incomplete sum would be wrong.
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

    /// A tenant's total spending.
    pub fn spent(&self, tenant: &str) -> NanoDollars {
        let sql = "SELECT (SELECT coalesce(sum(price), 0) FROM ledger WHERE tenant = ?1) \
                   + (SELECT coalesce(sum(price), 0) FROM ledger_sums WHERE tenant = ?1)";
        self.read(|db| db.prepare_cached(sql)?.query_row([tenant], |row| row.get(0)))
    }

    /// Rows of the ledger, and their estimated bytes. Takes time linear in the ledger.
    pub fn ledger_totals(&self) -> (u64, u64) {
        self.read(totals)
    }

    /// Records the byte budgets of the data folder, by kind, for commands that look at it later. Queued.
    pub fn record_limits(&self, limits: Vec<(String, u64)>) {
        self.send(Write::Limits(limits));
    }

    /// The byte budgets that the last server on this folder had, by kind.
    pub fn limits(&self) -> Vec<(String, u64)> {
        self.read(|db| {
            let mut statement = db.prepare("SELECT name, bytes FROM limits ORDER BY name")?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
            rows.collect()
        })
    }
}
