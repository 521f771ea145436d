//! One row of the ledger: what a request used, cost and saved, in whole numbers.

/// A billionth of a US dollar. Prices per million tokens in thousandths of a dollar stay exact.
pub type NanoDollars = i64;

/// What one request used, cost and saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerRow {
    /// When it ended, in milliseconds since 1970.
    pub time_ms: u64,
    /// The request's tenant.
    pub tenant: String,
    /// The tenant's end user; empty if not given.
    pub user: String,
    /// The model's name.
    pub model: String,
    /// Prompt tokens from a cache.
    pub hit: u64,
    /// Prompt tokens computed.
    pub miss: u64,
    /// Tokens of the response.
    pub output: u64,
    /// Of those, tokens of reasoning.
    pub reasoning: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Of those, tokens accepted.
    pub accepted: u64,
    /// Whether the response was replayed from the store.
    pub replayed: bool,
    /// The price by the price list.
    pub price: NanoDollars,
    /// What the hits saved by the price list.
    pub saved: NanoDollars,
    /// Milliseconds of prefill that the hits saved, by measured speed.
    pub saved_ms: u64,
    /// Microseconds of compute that hits saved, credited to the tenant's speculation.
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
