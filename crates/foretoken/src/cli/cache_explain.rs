//! Options of `foretoken cache explain`.

use std::path::PathBuf;

use clap::Args;

use super::BaseArgs;

#[derive(Args)]
pub(crate) struct CacheExplainArgs {
    /// The first request: a JSON file.
    #[arg(value_name = "A.json")]
    pub(crate) first: PathBuf,

    /// The second request, which should have hit.
    #[arg(value_name = "B.json")]
    pub(crate) second: PathBuf,

    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,

    /// The model whose tokenizer and chat template render the prompts.
    #[arg(long, value_name = "REF", default_value = "smollm2")]
    pub(crate) model: String,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}
