//! The ledger as the server writes it: sums in memory for what must be quick, rows for what must last.
//!
//! Whether an account may still spend is answered from memory, without a lock and without the database; the
//! sums start from the rows that are there when the model is installed. The invariant: every row that is
//! recorded is in the sums, and recording waits for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use foretoken_cache::store::{LedgerRow, NanoDollars, Store};

use super::book::{AccountId, Book};
use super::money::usd;
use crate::error::ApiError;

/// Sums since the server started, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) requests: AtomicU64,
    pub(crate) price: AtomicU64,
    pub(crate) saved: AtomicU64,
    pub(crate) saved_ms: AtomicU64,
}

/// Accounts with what they have spent.
#[derive(Debug)]
pub(crate) struct Ledger {
    book: Arc<Book>,
    store: Arc<Store>,
    /// Per account; right for prepaid ones only, nobody asks for the others.
    spent: Vec<AtomicI64>,
    sums: Sums,
}

impl Ledger {
    /// Adds up what prepaid accounts have spent so far. Reads the database.
    pub(crate) fn open(book: Arc<Book>, store: Arc<Store>) -> Ledger {
        let spent = book.accounts().iter().map(|account| match account.prepaid {
            Some(_) => store.spent(&account.name).into(),
            None => AtomicI64::new(0),
        });
        Ledger { spent: spent.collect(), book, store, sums: Sums::default() }
    }

    /// Lets a request begin unless its account is prepaid and spent. What has begun is finished, so an
    /// account can end below zero by what ran at that moment.
    pub(crate) fn admit(&self, id: AccountId) -> Result<(), ApiError> {
        match self.balance(id) {
            Some(left) if left <= 0 => {
                let account = self.book.get(id);
                let paid = usd(account.prepaid.unwrap_or_default());
                Err(ApiError::insufficient_balance(&account.name, &paid))
            }
            _ => Ok(()),
        }
    }

    /// What is left of a prepaid amount; `None` for an account without one.
    pub(crate) fn balance(&self, id: AccountId) -> Option<NanoDollars> {
        let paid = self.book.get(id).prepaid?;
        Some(paid.saturating_sub(self.spent[id.0].load(Relaxed)))
    }

    /// Writes a row down; its tenant becomes the account's name.
    pub(super) fn record(&self, id: AccountId, mut row: LedgerRow) {
        row.tenant.clone_from(&self.book.get(id).name);
        self.spent[id.0].fetch_add(row.price, Relaxed);
        self.sums.requests.fetch_add(1, Relaxed);
        self.sums.price.fetch_add(row.price.unsigned_abs(), Relaxed);
        self.sums.saved.fetch_add(row.saved.unsigned_abs(), Relaxed);
        self.sums.saved_ms.fetch_add(row.saved_ms, Relaxed);
        self.store.record(row);
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }
}
