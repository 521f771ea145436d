//! The ledger: totals in memory for admission, rows in the database for reports.
//!
//! Balances are read from memory, without a lock and without the database; the totals are initialised from existing
//! rows when the model is installed. The invariant: every recorded row is included in the totals, and recording
//! never blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use foretoken_cache::store::{LedgerRow, NanoDollars, Store};

use super::money::usd;
use super::registry::{AccountId, AccountRegistry};
use crate::error::ApiError;

/// Totals since the server started, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) requests: AtomicU64,
    pub(crate) price: AtomicU64,
    pub(crate) saved: AtomicU64,
    pub(crate) saved_ms: AtomicU64,
}

/// Accounts and their spending.
#[derive(Debug)]
pub(crate) struct Ledger {
    registry: Arc<AccountRegistry>,
    store: Arc<Store>,
    /// Per account; maintained exactly for prepaid accounts only.
    spent: Vec<AtomicI64>,
    sums: Sums,
}

impl Ledger {
    /// Sums up the spending of prepaid accounts so far. Reads the database.
    pub(crate) fn open(registry: Arc<AccountRegistry>, store: Arc<Store>) -> Ledger {
        let spent = registry.accounts().iter().map(|account| match account.prepaid {
            Some(_) => store.spent(&account.name).into(),
            None => AtomicI64::new(0),
        });
        Ledger { spent: spent.collect(), registry, store, sums: Sums::default() }
    }

    /// Admits a request unless its account is prepaid and has no balance left. Admitted requests finish, so a balance
    /// can become negative by what was running at that moment.
    pub(crate) fn admit(&self, id: AccountId) -> Result<(), ApiError> {
        match self.balance(id) {
            Some(left) if left <= 0 => {
                let account = self.registry.get(id);
                let paid = usd(account.prepaid.unwrap_or_default());
                Err(ApiError::insufficient_balance(&account.name, &paid))
            }
            _ => Ok(()),
        }
    }

    /// The remaining prepaid amount; `None` for an account without one.
    pub(crate) fn balance(&self, id: AccountId) -> Option<NanoDollars> {
        let paid = self.registry.get(id).prepaid?;
        Some(paid.saturating_sub(self.spent[id.0].load(Relaxed)))
    }

    /// Records a row; its tenant is set to the account's name.
    pub(super) fn record(&self, id: AccountId, mut row: LedgerRow) {
        row.tenant.clone_from(&self.registry.get(id).name);
        self.spent[id.0].fetch_add(row.price, Relaxed);
        self.sums.requests.fetch_add(1, Relaxed);
        self.sums.price.fetch_add(row.price.unsigned_abs(), Relaxed);
        self.sums.saved.fetch_add(row.saved.unsigned_abs(), Relaxed);
        self.sums.saved_ms.fetch_add(row.saved_ms, Relaxed);
        self.store.record(row);
    }

    pub(crate) fn registry(&self) -> &AccountRegistry {
        &self.registry
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }
}
