//! Options of the commands about model files: `pull`, `models` and `inspect`.

use clap::Args;

use super::BaseArgs;

#[derive(Args)]
pub(crate) struct PullArgs {
    /// The model to download.
    #[arg(value_name = "REF", default_value = "smollm2")]
    pub(crate) reference: String,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}

#[derive(Args)]
pub(crate) struct ModelsArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The model: a path or any other model reference.
    #[arg(value_name = "FILE", default_value = "smollm2")]
    pub(crate) reference: String,

    /// Compute memory for this many tokens of context [default: the model's own context length].
    #[arg(long, value_name = "N")]
    pub(crate) ctx: Option<usize>,

    /// List every tensor instead of a count per type.
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}
