//! What requests cost, who pays, and what was saved.
//!
//! `book` knows accounts and the price list, `bill` follows one request, `ledger` writes it down and says
//! what is left, `report` shows sums. Not for speed: nothing here waits for a disk while a token could leave.
//! The invariants: amounts are whole nano-dollars from the price list to the wire; what was saved is two
//! figures that are never mixed, money by the price list and seconds by measured prefill speed.

mod bill;
mod book;
mod ledger;
mod metrics;
mod money;
mod period;
mod prices;
mod report;

pub(crate) use bill::{Bill, Payer};
pub use book::{AccountError, NamedKey, Prepaid};
pub(crate) use book::{AccountId, Book};
pub(crate) use ledger::Ledger;
pub(crate) use metrics::LedgerCollector;
pub use money::{Usd, UsdError, usd};
pub use period::{Period, PeriodError};
pub use prices::{PriceHours, PriceHoursError, Prices, Rates};
pub use report::{GROUPINGS, Report, grouping};
