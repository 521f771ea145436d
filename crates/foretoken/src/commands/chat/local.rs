//! Answers from the engine in this process.

use std::time::Instant;

use anyhow::Result;
use foretoken_engine::{Engine, EngineConfig, FinishReason, Request};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::backend::{Backend, End, Outcome, Piece, Stats};
use super::printer::Printer;
use crate::cli::{ChatArgs, SamplingArgs};
use crate::draft_colors::{legend, partial_legend};
use crate::generation::{self, Streamed};
use crate::load::{self, Loaded};

/// A loaded model and its engine.
pub(super) struct Local {
    loaded: Loaded,
    engine: Engine,
}

impl Local {
    pub(super) fn load(args: &ChatArgs) -> Result<Local> {
        let loaded = load::load(&args.model, &args.speculation)?;
        let bounds = EngineConfig::default();
        let engine = loaded.start_engine(&args.model.base, &args.context, &args.speculation, bounds)?;
        Ok(Local { loaded, engine })
    }
}

impl Backend for Local {
    fn name(&self) -> String {
        self.loaded.model.config().name.clone()
    }

    fn knows_drafters(&self) -> bool {
        true
    }

    fn answer(
        &self,
        runtime: &Runtime,
        messages: Vec<Value>,
        sampling: &SamplingArgs,
        printer: &mut Printer,
    ) -> Result<Outcome> {
        let rendered = generation::render(&self.loaded, messages)?;
        let request = Request {
            prompt: self.loaded.tokenizer.encode_rendered(&rendered),
            sampling: generation::sampling(sampling)?,
            max_tokens: sampling.max_tokens,
            ..Request::default()
        };
        let prompt_tokens = request.prompt.len();
        let events = self.engine.submit(request)?;
        if rendered.opens_reasoning() {
            printer.piece(&Piece::OpensReasoning)?;
        }
        let start = Instant::now();
        let mut first = None;
        let streamed = runtime.block_on(generation::stream(events, |text, source| {
            first.get_or_insert_with(Instant::now);
            printer.piece(&Piece::Text(text, source))
        }))?;
        let first = first.unwrap_or_else(Instant::now);
        let mut stats = stats(&streamed, prompt_tokens);
        stats.first_token_s = (first - start).as_secs_f64();
        stats.decode_s = first.elapsed().as_secs_f64();
        Ok(Outcome {
            end: match streamed.summary.as_ref().map(|summary| &summary.reason) {
                None => End::Stopped,
                Some(FinishReason::Length) => End::Length,
                Some(_) => End::Complete,
            },
            stats: Some(stats),
            legend: printer.show_draft().then(|| match &streamed.summary {
                Some(summary) => legend(summary.usage.completion_tokens, &summary.drafts),
                None => partial_legend(&streamed.tokens_by_drafter, streamed.tokens),
            }),
        })
    }
}

/// The counts; a stopped answer has those of the tokens that arrived.
fn stats(streamed: &Streamed, prompt_tokens: usize) -> Stats {
    let Some(summary) = &streamed.summary else {
        let accepted = streamed.tokens_by_drafter.iter().sum();
        let tokens = streamed.tokens;
        return Stats { answers: 1, prompt_tokens, tokens, drafted: accepted, accepted, ..Stats::default() };
    };
    Stats {
        answers: 1,
        prompt_tokens,
        cached_tokens: summary.usage.cache_hit_tokens,
        tokens: summary.usage.completion_tokens,
        drafted: summary.drafts.drafted,
        accepted: summary.drafts.accepted,
        ..Stats::default()
    }
}
