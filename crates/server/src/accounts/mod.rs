//! Billing: prices, accounts, the ledger, and reports.
//!
//! `registry` holds accounts and the price list, `bill` accumulates one request, `ledger` records it and keeps
//! balances, `report` aggregates. Nothing here waits for the disk on the request path. The invariants: amounts are
//! whole nano-dollars from the price list to the wire; savings are two separate figures, money by the price list and
//! seconds by measured prefill speed.

mod bill;
mod ledger;
mod metrics;
mod money;
mod period;
mod prices;
mod registry;
mod report;

pub(crate) use bill::{Bill, Payer};
pub(crate) use ledger::Ledger;
pub(crate) use metrics::LedgerCollector;
pub use money::{Usd, UsdError, usd};
pub use period::{Period, PeriodError};
pub use prices::{PriceHours, PriceHoursError, Prices, Rates};
pub use registry::{AccountError, NamedKey, Prepaid};
pub(crate) use registry::{AccountId, AccountRegistry};
pub use report::{GROUPINGS, Report, grouping};
