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

/// Why an answer ended, and what it took.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// `None` if the backend does not tell what it took.
    Complete(Option<Stats>),
    /// The token limit or the end of the context.
    Length(Option<Stats>),
    /// Ctrl-C.
    Stopped(StoppedStats),
}

/// How an answer ended.
pub(super) struct Outcome {
    pub(super) end: End,
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

/// What is known of an answer that Ctrl-C ended: the rest comes with the end of an answer.
#[derive(Clone, Copy, Default)]
pub(super) struct StoppedStats {
    /// Seconds to the first token, if there was one.
    pub(super) first_token_s: Option<f64>,
    /// Seconds until Ctrl-C.
    pub(super) total_s: f64,
    /// Tokens that arrived and those of them that were drafted; `None` if the backend does not count them.
    pub(super) tokens: Option<(usize, usize)>,
}

impl StoppedStats {
    pub(super) fn line(&self) -> String {
        let mut line = format!("stopped after {:.1} s", self.total_s);
        if let Some(first_s) = self.first_token_s {
            line += &format!(", first token after {:.0} ms", first_s * 1e3);
        }
        line + &match self.tokens {
            Some((tokens, drafted)) => format!(", {tokens} tokens, of which {drafted} were drafted"),
            None => "; a server counts tokens only when an answer is complete".to_owned(),
        }
    }
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
    fn a_stopped_answer_says_what_is_known_of_it() {
        let mut stopped = StoppedStats { total_s: 2.04, ..StoppedStats::default() };
        assert_eq!(
            stopped.line(),
            "stopped after 2.0 s; a server counts tokens only when an answer is complete"
        );
        (stopped.first_token_s, stopped.tokens) = (Some(0.2104), Some((57, 12)));
        assert_eq!(
            stopped.line(),
            "stopped after 2.0 s, first token after 210 ms, 57 tokens, of which 12 were drafted"
        );
    }

    #[test]
    fn stats_of_several_answers_average_the_time_to_the_first_token() {
        let one = Stats { answers: 1, tokens: 11, first_token_s: 0.1, decode_s: 0.5, ..Stats::default() };
        let mut sum = one;
        sum += Stats { first_token_s: 0.3, ..one };
        let line = sum.line();
        assert!(line.contains("first token after 200 ms, 22 tokens at 20.0 tokens/s"), "{line}");
    }
}
