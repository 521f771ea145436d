//! Usage of one request, from its first token to its row in the ledger.
//!
//! A bill accumulates a run: tokens as they arrive, and the summary of each choice at its end. It is settled once,
//! when the last choice ends or when the run is dropped before that. The invariant: a row holds only exact counts.
//! An aborted choice is billed for the tokens that arrived; the cache hits of its prompt are not known, so its
//! prompt is not billed.

use std::sync::Arc;

use foretoken_cache::store::{LedgerRow, NanoDollars};
use foretoken_engine::Summary;
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::money::usd;
use super::prices::Rates;
use super::registry::AccountId;
use crate::protocol::usage::Totals;
use crate::request_log::Trace;
use crate::state::unix_time_ms;

/// Whom to bill for a request, and at which prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Payer {
    pub(crate) account: AccountId,
    /// The account's `user_id`; may be empty.
    pub(crate) user: String,
    /// Prices at the time of arrival.
    pub(crate) rates: Rates,
}

/// The usage of a running request.
#[derive(Debug)]
pub(crate) struct Bill {
    ledger: Arc<Ledger>,
    payer: Payer,
    model: String,
    trace: Arc<Trace>,
    /// Sums over the choices that ended.
    totals: Totals,
    /// Tokens so far of every choice that has not ended; 0 for the others.
    open: Vec<u64>,
    reasoning: u64,
    settled: bool,
}

impl Bill {
    pub(crate) fn new(
        ledger: &Arc<Ledger>,
        payer: Payer,
        model: &str,
        trace: &Arc<Trace>,
        choices: usize,
    ) -> Bill {
        Bill {
            ledger: Arc::clone(ledger),
            payer,
            model: model.to_owned(),
            trace: Arc::clone(trace),
            totals: Totals::default(),
            open: vec![0; choices],
            reasoning: 0,
            settled: false,
        }
    }

    /// Adds `count` tokens of a choice; `reasoning` is the request's reasoning tokens so far.
    pub(crate) fn tokens(&mut self, choice: usize, count: usize, reasoning: usize) {
        self.open[choice] += count as u64;
        self.reasoning = reasoning as u64;
    }

    /// Adds the summary of a choice that ended.
    pub(crate) fn ended(&mut self, choice: usize, summary: &Summary, first_of_prompt: bool) {
        self.open[choice] = 0;
        self.totals.add(summary, first_of_prompt);
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    fn output(&self) -> u64 {
        self.totals.completion_tokens() + self.open.iter().sum::<u64>()
    }

    fn price(&self) -> NanoDollars {
        self.payer.rates.price(self.totals.hit(), self.totals.miss(), self.output())
    }

    fn saved(&self) -> NanoDollars {
        self.payer.rates.saved(self.totals.hit())
    }

    /// The `cost` object: money by the price list, and separately seconds by measured speed.
    pub(crate) fn cost(&self) -> Value {
        json!({
            "currency": "USD",
            "price": usd(self.price()),
            "saved_money": usd(self.saved()),
            "saved_seconds": self.totals.saved_ms() as f64 / 1000.0,
            "replayed": self.totals.is_replayed(),
        })
    }

    /// Writes the row; a second call does nothing.
    pub(crate) fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let totals = &self.totals;
        if self.output() == 0 && totals.hit() + totals.miss() == 0 {
            return;
        }
        let timings = totals.sums();
        let (credit_earned_ms, credit_spent_ms) = totals.credit_ms();
        let row = LedgerRow {
            time_ms: unix_time_ms(),
            tenant: String::new(),
            user: self.payer.user.clone(),
            model: self.model.clone(),
            hit: totals.hit(),
            miss: totals.miss(),
            output: self.output(),
            reasoning: self.reasoning,
            drafted: timings.draft_n as u64,
            accepted: timings.draft_n_accepted as u64,
            replayed: totals.is_replayed(),
            price: self.price(),
            saved: self.saved(),
            saved_ms: totals.saved_ms(),
            credit_earned_us: (credit_earned_ms * 1e3) as u64,
            credit_spent_us: (credit_spent_ms * 1e3) as u64,
            queue_ms: timings.queue_ms.round() as u64,
            prompt_ms: timings.prompt_ms.round() as u64,
            total_ms: u64::try_from(self.trace.arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.ledger.record(self.payer.account, row);
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.settle();
    }
}
