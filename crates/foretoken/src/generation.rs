//! Local generation: sampling settings, prompt rendering and streaming, shared by `generate` and `chat`.

use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use foretoken_engine::{Answer, Event, FinishReason, Sampling, Source, Summary};
use foretoken_model::chat::{ChatInput, Rendered};
use serde_json::Value;

use crate::cli::SamplingArgs;
use crate::load::Loaded;

/// The user pressed Ctrl-C. Reported by exit code only.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Converts sampling options to the engine's type.
///
/// # Errors
/// A value out of range, by the option's name.
pub(crate) fn sampling(args: &SamplingArgs) -> Result<Sampling> {
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(0.8),
        top_k: args.top_k.unwrap_or(0),
        top_p: args.top_p.unwrap_or(0.95),
        min_p: args.min_p.unwrap_or(0.05),
        presence_penalty: args.presence_penalty.unwrap_or(0.0),
        frequency_penalty: args.frequency_penalty.unwrap_or(0.0),
        repetition_penalty: args.repetition_penalty.unwrap_or(1.0),
        seed: args.seed,
        ..Sampling::default()
    };
    sampling.validate().map_err(|error| anyhow!("--{} {}", error.param.replace('_', "-"), error.message))?;
    Ok(sampling)
}

/// Renders a conversation with the model's chat template.
pub(crate) fn render(loaded: &Loaded, messages: Vec<Value>) -> Result<Rendered> {
    let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    Ok(loaded.template.render(&input)?)
}

/// What was streamed.
#[derive(Default)]
pub(crate) struct Streamed {
    /// `None` if Ctrl-C ended it.
    pub(crate) summary: Option<Summary>,
    /// Tokens received.
    pub(crate) tokens: usize,
    /// Of those, tokens that each drafter of [`Source::ALL`] proposed.
    pub(crate) tokens_by_drafter: [usize; Source::ALL.len()],
}

impl Streamed {
    fn count(&mut self, source: Option<Source>) {
        self.tokens += 1;
        let at = source.and_then(|source| Source::ALL.iter().position(|&of| of == source));
        if let Some(at) = at {
            self.tokens_by_drafter[at] += 1;
        }
    }
}

/// Calls `on_text` with each piece of text and the drafter of its last token, until the end or Ctrl-C.
///
/// # Errors
/// An error of `on_text`, or the engine's error.
pub(crate) async fn stream(
    mut answer: Answer,
    mut on_text: impl FnMut(&str, Option<Source>) -> Result<()>,
) -> Result<Streamed> {
    let mut streamed = Streamed::default();
    loop {
        let event = tokio::select! {
            event = answer.recv() => event,
            _ = tokio::signal::ctrl_c() => return Ok(streamed),
        };
        match event.context("the engine stopped before the answer was complete")? {
            Event::Tokens(tokens) => {
                for token in &tokens {
                    streamed.count(token.source);
                    if !token.text.is_empty() {
                        on_text(&token.text, token.source)?;
                    }
                }
            }
            Event::Done(summary) => {
                if let FinishReason::Error(reason) = &summary.reason {
                    bail!("the answer ended early: {reason}");
                }
                on_text(&summary.text, None)?;
                streamed.summary = Some(summary);
                return Ok(streamed);
            }
        }
    }
}

/// Token counts, speed and time to first token in one line.
pub(crate) fn stats_line(summary: &Summary) -> String {
    let timings = &summary.timings;
    let rate = |tokens: usize, ms: f64| if ms > 0.0 { tokens as f64 * 1e3 / ms } else { 0.0 };
    format!(
        "{} prompt tokens ({:.0} tokens/s), {} answer tokens ({:.1} tokens/s), first token after {:.0} ms",
        summary.usage.prompt_tokens,
        rate(timings.prompt_n, timings.prompt_ms),
        summary.usage.completion_tokens,
        rate(timings.predicted_n.saturating_sub(1), timings.predicted_ms),
        timings.queue_ms + timings.prompt_ms,
    )
}
