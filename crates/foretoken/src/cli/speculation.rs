//! Speculation options, for every command that generates.

use clap::Args;

use crate::byte_size::ByteSize;

/// What is guessed ahead and what is kept.
#[derive(Args, Clone)]
pub(crate) struct SpeculationArgs {
    /// Guess ahead and verify the guesses; the answer is the same, sooner.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"], help_heading = "Speculation")]
    pub(crate) speculation: String,

    /// Who may guess: prediction, own_text, memory, successors, draft_model [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Speculation")]
    pub(crate) drafters: Vec<String>,

    /// Which guesses are kept: exact (those that the model samples itself: the same bytes as without), lossless (by
    /// rejection sampling: the same distribution), agreement (those that the model finds plausible: faster, other text).
    #[arg(long, value_name = "POLICY", default_value = "exact",
          value_parser = ["exact", "lossless", "agreement"], help_heading = "Speculation")]
    pub(crate) policy: String,

    /// Guesses per step of an answer, at most.
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Speculation")]
    pub(crate) max_draft: usize,

    /// Let compute that cache hits saved be spent on guessing past break-even.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"], help_heading = "Speculation")]
    pub(crate) fund_speculation: String,

    /// A smaller model with the same vocabulary that guesses ahead.
    #[arg(long, value_name = "REF", help_heading = "Speculation")]
    pub(crate) draft_model: Option<String>,

    /// Memory for the KV of --draft-model; one context at least.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Speculation")]
    pub(crate) draft_cache_ram: ByteSize,

    /// Tokens of past prompts and answers to guess from; each takes up to 64 bytes of memory.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = "Speculation")]
    pub(crate) draft_memory: usize,
}
