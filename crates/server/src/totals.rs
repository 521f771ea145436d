//! Token counts and timings of a request, summed over its choices.
//!
//! The invariant: hit and miss tokens together are the prompt tokens.

use foretoken_engine::{Summary, Timings};
use serde_json::{Map, Value, json};

use crate::protocol::speculation::DraftSums;

/// Sums over the choices of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    prompt_tokens: usize,
    cache_hit_tokens: usize,
    completion_tokens: usize,
    timings: Timings,
    drafts: DraftSums,
    saved_ms: f64,
    /// Choices, and those of them that were replayed.
    ended: (usize, usize),
}

impl Totals {
    /// Adds a finished choice. A prompt counts once, however many choices it has; its hits are those of its first
    /// choice, because the others hit what that one computed. A replayed response computed nothing, so its whole
    /// prompt is a hit.
    pub(crate) fn add(&mut self, summary: &Summary, first_of_prompt: bool) {
        let usage = summary.usage;
        if first_of_prompt {
            self.prompt_tokens += usage.prompt_tokens;
            let hit = if summary.replayed { usage.prompt_tokens } else { usage.cache_hit_tokens };
            self.cache_hit_tokens += hit.min(usage.prompt_tokens);
            self.saved_ms += summary.saved_ms.max(0.0);
        }
        self.ended.0 += 1;
        self.ended.1 += usize::from(summary.replayed);
        self.completion_tokens += usage.completion_tokens;
        self.drafts.add(summary);
        let (sum, one) = (&mut self.timings, &summary.timings);
        // Choices queue in parallel.
        sum.queue_ms = sum.queue_ms.max(one.queue_ms);
        sum.cache_n += one.cache_n;
        sum.prompt_n += one.prompt_n;
        sum.prompt_ms += one.prompt_ms;
        sum.predicted_n += one.predicted_n;
        sum.predicted_ms += one.predicted_ms;
        sum.draft_n += one.draft_n;
        sum.draft_n_accepted += one.draft_n_accepted;
    }

    /// Prompt tokens from a cache.
    pub(crate) fn hit(&self) -> u64 {
        self.cache_hit_tokens as u64
    }

    /// Prompt tokens that were computed.
    pub(crate) fn miss(&self) -> u64 {
        (self.prompt_tokens - self.cache_hit_tokens) as u64
    }

    pub(crate) fn completion_tokens(&self) -> u64 {
        self.completion_tokens as u64
    }

    /// Milliseconds of prefill saved by cache hits.
    pub(crate) fn saved_ms(&self) -> u64 {
        self.saved_ms.round() as u64
    }

    /// Whether every choice was replayed from the response store.
    pub(crate) fn is_replayed(&self) -> bool {
        self.ended.0 > 0 && self.ended.0 == self.ended.1
    }

    /// Summed timings; queue time is the maximum.
    pub(crate) fn sums(&self) -> &Timings {
        &self.timings
    }

    /// The predicted tokens that an answer had and those that it did not, if there was a prediction.
    pub(crate) fn prediction(&self) -> Option<(usize, usize)> {
        self.drafts.prediction()
    }

    /// Milliseconds of compute credited to the tenant, and spent by it.
    pub(crate) fn credit_ms(&self) -> (f64, f64) {
        self.drafts.credit_ms()
    }

    /// Adds the speculation reports.
    pub(crate) fn add_reports(&self, body: &mut Map<String, Value>) {
        self.drafts.add_reports(body);
    }

    /// llama.cpp's `timings`; as there, draft fields are present only if anything was drafted.
    pub(crate) fn timings(&self) -> Value {
        let sum = &self.timings;
        let mut timings = json!({
            "cache_n": sum.cache_n,
            "prompt_n": sum.prompt_n,
            "prompt_ms": sum.prompt_ms,
            "prompt_per_token_ms": ratio(sum.prompt_ms, sum.prompt_n as f64),
            "prompt_per_second": ratio(1000.0 * sum.prompt_n as f64, sum.prompt_ms),
            "predicted_n": sum.predicted_n,
            "predicted_ms": sum.predicted_ms,
            "predicted_per_token_ms": ratio(sum.predicted_ms, sum.predicted_n as f64),
            "predicted_per_second": ratio(1000.0 * sum.predicted_n as f64, sum.predicted_ms),
        });
        if sum.draft_n > 0 {
            timings["draft_n"] = sum.draft_n.into();
            timings["draft_n_accepted"] = sum.draft_n_accepted.into();
        }
        timings
    }
}

fn ratio(above: f64, below: f64) -> f64 {
    if below > 0.0 { above / below } else { 0.0 }
}
