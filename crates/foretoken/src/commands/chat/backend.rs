//! Where a conversation's answers come from: the engine in this process or a server.

use std::ops::AddAssign;

use anyhow::Result;
use foretoken_engine::Source;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::printer::Printer;
use crate::cli::SamplingArgs;

/// A chat model.
pub(super) trait Backend {
    /// What `chat` greets with.
    fn name(&self) -> String;

    /// Whether it reports the drafter of each token.
    fn knows_drafters(&self) -> bool;

    /// Answers a conversation. Ctrl-C ends the answer and is no error.
    ///
    /// # Errors
    /// The answer could not be completed; the conversation stays as it was.
    fn answer(
        &self,
        runtime: &Runtime,
        messages: Vec<Value>,
        sampling: &SamplingArgs,
        printer: &mut Printer,
    ) -> Result<Outcome>;
}

/// A piece of a streamed answer.
pub(super) enum Piece<'a> {
    /// The prompt ended inside `<think>`: the text begins with reasoning.
    OpensReasoning,
    /// Reasoning that the server separated from the text.
    Reasoning(&'a str),
    /// Text, and the drafter that proposed its last token.
    Text(&'a str, Option<Source>),
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Complete,
    /// The token limit or the end of the context.
    Length,
    /// Ctrl-C.
    Stopped,
}

/// How an answer ended and what it took.
pub(super) struct Outcome {
    pub(super) end: End,
    /// `None` if the backend could not tell, as for a stopped answer of a server.
    pub(super) stats: Option<Stats>,
    /// The meaning of the colours, where drafters are shown.
    pub(super) legend: Option<String>,
}

/// Token counts and times of one answer, or of several.
#[derive(Clone, Copy, Default)]
pub(super) struct Stats {
    pub(super) answers: usize,
    pub(super) prompt_tokens: usize,
    /// Prompt tokens that came from a cache.
    pub(super) cached_tokens: usize,
    pub(super) tokens: usize,
    pub(super) drafted: usize,
    pub(super) accepted: usize,
    /// Seconds to the first token.
    pub(super) first_token_s: f64,
    /// Seconds from the first token to the last.
    pub(super) decode_s: f64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.answers += other.answers;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.tokens += other.tokens;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.first_token_s += other.first_token_s;
        self.decode_s += other.decode_s;
    }
}

impl Stats {
    /// One line; times to the first token are averaged over the answers.
    pub(super) fn line(&self) -> String {
        let after_first = self.tokens.saturating_sub(self.answers);
        let rate = if self.decode_s > 0.0 { after_first as f64 / self.decode_s } else { 0.0 };
        let first_ms = self.first_token_s * 1e3 / self.answers.max(1) as f64;
        format!(
            "{} prompt tokens ({} cached), first token after {first_ms:.0} ms, {} tokens at {rate:.1} tokens/s, \
             {} of {} draft tokens accepted",
            self.prompt_tokens, self.cached_tokens, self.tokens, self.accepted, self.drafted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_of_several_answers_average_the_time_to_the_first_token() {
        let one = Stats { answers: 1, tokens: 11, first_token_s: 0.1, decode_s: 0.5, ..Stats::default() };
        let mut sum = one;
        sum += Stats { first_token_s: 0.3, ..one };
        let line = sum.line();
        assert!(line.contains("first token after 200 ms, 22 tokens at 20.0 tokens/s"), "{line}");
    }
}
