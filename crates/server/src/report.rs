//! What a writer may tell about a run beside its answers: identity, token counts, and reports that every dialect carries
//! along as they are.

use std::sync::Arc;
use std::time::Duration;

use foretoken_cache::BLOCK_TOKENS;
use foretoken_engine::{Request, Timings};
use serde_json::{Map, Value};

use crate::accounts::Bill;
use crate::ids::Ids;
use crate::state::{Backend, Shared, unix_time_s};

/// Token counts of a request so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tokens of the prompts.
    pub(crate) prompt: usize,
    /// Of those, tokens that a cache supplied.
    pub(crate) hit: usize,
    /// Of the others, tokens that later requests will hit: those in whole blocks, if the request may write.
    pub(crate) written: usize,
    /// Tokens of the answers.
    pub(crate) completion: usize,
    /// Of those, tokens of reasoning.
    pub(crate) reasoning: usize,
    /// Tokens of a prediction that the answers had, and those that they had not.
    pub(crate) prediction: Option<(usize, usize)>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) id: String,
    /// When the run began, in seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
    ids: Arc<Ids>,
    pub(super) bill: Bill,
    /// Tokens of the prompt in whole blocks, if they may be cached.
    cacheable: usize,
    is_over: bool,
    cache: Option<Value>,
}

impl Report {
    /// `request`: one of the run's.
    pub(crate) fn new(
        shared: &Shared,
        backend: &Backend,
        id_prefix: &str,
        bill: Bill,
        request: &Request,
        cache: Option<Value>,
    ) -> Report {
        let blocks = if request.cache.write { request.prompt.len() / BLOCK_TOKENS } else { 0 };
        Report {
            id: shared.ids.fresh(id_prefix),
            created: unix_time_s(),
            model: backend.id().to_owned(),
            system_fingerprint: backend.system_fingerprint.clone(),
            ids: Arc::clone(&shared.ids),
            bill,
            cacheable: blocks * BLOCK_TOKENS,
            is_over: false,
            cache,
        }
    }

    /// All answers have ended. Settled before the client sees the end, so that its next usage query includes this
    /// request.
    pub(crate) fn over(&mut self) {
        self.is_over = true;
        self.bill.settle();
    }

    /// Whether all answers have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// A fresh id for a part of the response.
    pub(crate) fn fresh_id(&self, prefix: &str) -> String {
        self.ids.fresh(prefix)
    }

    pub(crate) fn counts(&self) -> Counts {
        let (hit, miss) = self.bill.prompt();
        let hit = hit as usize;
        Counts {
            prompt: hit + miss as usize,
            hit,
            written: self.cacheable.saturating_sub(hit),
            completion: self.bill.output() as usize,
            reasoning: self.bill.reasoning() as usize,
            prediction: self.bill.totals().prediction(),
        }
    }

    /// Times of the answers that have ended, summed.
    pub(crate) fn timings(&self) -> &Timings {
        self.bill.totals().sums()
    }

    /// Time since the request arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        self.bill.elapsed()
    }

    /// `timings`, `cost`, and the reports on speculation and cache, for the end of a response.
    pub(crate) fn extras(&self) -> Map<String, Value> {
        let mut extras = Map::new();
        extras.insert("timings".into(), self.bill.totals().timings());
        extras.insert("cost".into(), self.bill.cost());
        self.bill.totals().add_reports(&mut extras);
        if let Some(cache) = &self.cache {
            extras.insert("cache".into(), cache.clone());
        }
        extras
    }
}
