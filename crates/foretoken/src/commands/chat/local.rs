//! Answers from the engine in this process.

use std::time::Instant;

use anyhow::Result;
use foretoken_engine::{Engine, EngineConfig, FinishReason, Request, Summary};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::backend::{Backend, End, Outcome, Piece, Stats, StoppedStats};
use super::printer::Printer;
use crate::cli::{ChatArgs, SamplingArgs};
use crate::draft_colors::{legend, partial_legend};
use crate::generation;
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
        let until_first = first.map(|first: Instant| (first - start).as_secs_f64());
        let total_s = start.elapsed().as_secs_f64();
        Ok(Outcome {
            end: match &streamed.summary {
                None => {
                    let drafted = streamed.tokens_by_drafter.iter().sum();
                    let tokens = Some((streamed.tokens, drafted));
                    End::Stopped(StoppedStats { first_token_s: until_first, total_s, tokens })
                }
                Some(summary) => {
                    let first_token_s = until_first.unwrap_or(total_s);
                    let decode_s = total_s - first_token_s;
                    let stats = Stats { first_token_s, decode_s, ..stats(summary, prompt_tokens) };
                    match summary.reason {
                        FinishReason::Length => End::Length(Some(stats)),
                        _ => End::Complete(Some(stats)),
                    }
                }
            },
            legend: match &streamed.summary {
                _ if !printer.show_draft() => None,
                Some(summary) => Some(legend(summary.usage.completion_tokens, &summary.drafts)),
                // Stopped before the first token: no colour was shown.
                None if streamed.tokens == 0 => None,
                None => Some(partial_legend(&streamed.tokens_by_drafter, streamed.tokens)),
            },
        })
    }
}

/// The counts.
fn stats(summary: &Summary, prompt_tokens: usize) -> Stats {
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
