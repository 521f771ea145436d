//! Options of `foretoken chat`.

use clap::Args;

use super::{ContextArgs, ModelArgs, SamplingArgs, SpeculationArgs};

#[derive(Args)]
pub(crate) struct ChatArgs {
    /// The system message.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

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
