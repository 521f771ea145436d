//! Options of `foretoken generate`.

use std::path::PathBuf;

use clap::Args;

use super::{ContextArgs, ModelArgs, SamplingArgs, SpeculationArgs};

#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// The prompt, or the model and the prompt. Without a prompt and without --file it is read from standard
    /// input.
    #[arg(value_name = "[MODEL] PROMPT", num_args = 0..=2)]
    pub(crate) words: Vec<String>,

    /// Read the prompt from this file (`-` is standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Put the prompt as a user's message through the model's chat template.
    #[arg(long)]
    pub(crate) chat: bool,

    /// A system message; implies --chat.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,

    /// Continue past the model's end-of-sequence token.
    #[arg(long)]
    pub(crate) ignore_eos: bool,

    /// Print token counts and speed to standard error.
    #[arg(long)]
    pub(crate) stats: bool,

    /// Print one JSON object with text, usage and timings instead of streaming the text.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) context: ContextArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Colour each token by the drafter that proposed it.
    #[arg(long)]
    pub(crate) show_draft: bool,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}
