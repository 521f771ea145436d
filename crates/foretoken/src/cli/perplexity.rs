//! Options of `foretoken perplexity`.

use std::path::PathBuf;

use clap::Args;

use super::ModelArgs;

#[derive(Args)]
pub(crate) struct PerplexityArgs {
    /// The text to evaluate (`-` is standard input).
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Tokens per window.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) ctx: usize,

    /// Evaluate only the first N windows [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) chunks: Option<usize>,

    /// Print one JSON object instead of lines.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}
