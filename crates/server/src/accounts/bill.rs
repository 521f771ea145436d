//! Usage of one request, from its first token to its row in the ledger.
//!
//! A bill accumulates a run: tokens as they arrive, and the summary of each choice at its end. It is settled once,
//! when the last choice ends or when the run is dropped before that. The invariant: a row holds what was computed. An
//! aborted choice is billed for the tokens that arrived and for what the engine had read of its prompt.

use std::sync::Arc;
use std::time::Duration;

use foretoken_cache::store::{LedgerRow, NanoDollars};
use foretoken_engine::{PromptProgress, Summary};
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::money::usd;
use super::prices::Rates;
use super::registry::AccountId;
use crate::request_log::Trace;
use crate::state::unix_time_ms;
use crate::totals::Totals;

/// Whom to bill for a request, and at which prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Payer {
    pub(crate) account: AccountId,
    /// The account's `user_id`; may be empty.
    pub(crate) user: String,
    /// Prices at the time of arrival.
    pub(crate) rates: Rates,
}

/// A choice that has not ended.
#[derive(Debug)]
struct OpenChoice {
    /// Tokens so far.
    output: u64,
    /// Of the prompt, if this is the choice that pays for it.
    prompt: Option<Arc<PromptProgress>>,
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
    /// Choices that have not ended.
    open: Vec<Option<OpenChoice>>,
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
            open: std::iter::repeat_with(|| None).take(choices).collect(),
            reasoning: 0,
            settled: false,
        }
    }

    /// Adds `count` tokens of a choice; `reasoning` is the request's reasoning tokens so far.
    pub(crate) fn tokens(&mut self, choice: usize, count: usize, reasoning: usize) {
        if let Some(open) = &mut self.open[choice] {
            open.output += count as u64;
        }
        self.reasoning = reasoning as u64;
    }

    /// Starts a choice. The first one of a prompt pays for it.
    pub(crate) fn started(&mut self, choice: usize, prompt: &Arc<PromptProgress>, first_of_prompt: bool) {
        let prompt = first_of_prompt.then(|| Arc::clone(prompt));
        self.open[choice] = Some(OpenChoice { output: 0, prompt });
    }

    /// Adds the summary of a choice that ended.
    pub(crate) fn ended(&mut self, choice: usize, summary: &Summary, first_of_prompt: bool) {
        self.open[choice] = None;
        self.totals.add(summary, first_of_prompt);
    }

    /// Time since the request arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        self.trace.arrived.elapsed()
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Tokens of the answers so far.
    pub(crate) fn output(&self) -> u64 {
        self.totals.completion_tokens() + self.open.iter().flatten().map(|open| open.output).sum::<u64>()
    }

    /// Tokens of reasoning so far.
    pub(crate) fn reasoning(&self) -> u64 {
        self.reasoning
    }

    /// Prompt tokens that hit, and that missed.
    pub(crate) fn prompt(&self) -> (u64, u64) {
        let open = self.open.iter().flatten().filter_map(|open| open.prompt.as_ref());
        open.fold((self.totals.hit(), self.totals.miss()), |(hit, miss), progress| {
            let (more_hit, more_miss) = progress.counts();
            (hit + more_hit as u64, miss + more_miss as u64)
        })
    }

    fn price(&self) -> NanoDollars {
        let (hit, miss) = self.prompt();
        self.payer.rates.price(hit, miss, self.output())
    }

    fn saved(&self) -> NanoDollars {
        self.payer.rates.saved(self.prompt().0)
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
        let (hit, miss) = self.prompt();
        if self.output() == 0 && hit + miss == 0 {
            return;
        }
        let timings = totals.sums();
        let (credit_earned_ms, credit_spent_ms) = totals.credit_ms();
        let row = LedgerRow {
            time_ms: unix_time_ms(),
            tenant: String::new(),
            user: self.payer.user.clone(),
            model: self.model.clone(),
            hit,
            miss,
            output: self.output(),
            reasoning: self.reasoning,
            drafted: timings.draft_n as u64,
            accepted: timings.draft_n_accepted as u64,
            replayed: totals.is_replayed(),
            price: self.payer.rates.price(hit, miss, self.output()),
            saved: self.payer.rates.saved(hit),
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
