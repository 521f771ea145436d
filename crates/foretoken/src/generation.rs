//! Local generation: sampling settings, prompt rendering and streaming, shared by `generate` and `chat`.

use std::fmt;

use anyhow::{Context, Result, bail};
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
pub(crate) fn sampling(args: &SamplingArgs) -> Sampling {
    Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
        ..Sampling::default()
    }
}

/// Renders a conversation with the model's chat template.
pub(crate) fn render(loaded: &Loaded, messages: Vec<Value>) -> Result<Rendered> {
    let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    Ok(loaded.template.render(&input)?)
}

/// Calls `on_text` with each piece of text and the drafter of its last token. `Ok(None)` if Ctrl-C ended it.
///
/// # Errors
/// An error of `on_text`, or the engine's error.
pub(crate) async fn stream(
    mut answer: Answer,
    mut on_text: impl FnMut(&str, Option<Source>) -> Result<()>,
) -> Result<Option<Summary>> {
    loop {
        let event = tokio::select! {
            event = answer.recv() => event,
            _ = tokio::signal::ctrl_c() => return Ok(None),
        };
        match event.context("the engine stopped before the answer was complete")? {
            Event::Tokens(tokens) => {
                let mut tokens = tokens.iter().filter(|token| !token.text.is_empty());
                tokens.try_for_each(|token| on_text(&token.text, token.source))?;
            }
            Event::Done(summary) => {
                if let FinishReason::Error(reason) = &summary.reason {
                    bail!("the answer ended early: {reason}");
                }
                on_text(&summary.text, None)?;
                return Ok(Some(summary));
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
