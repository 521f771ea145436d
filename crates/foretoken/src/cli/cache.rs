//! The commands of `foretoken cache`.

use clap::Subcommand;

use super::cache_explain::CacheExplainArgs;
use super::{BaseArgs, SETTINGS_HELP};

/// The cache's commands.
#[derive(Subcommand)]
pub(crate) enum CacheCommand {
    /// Say where a second request would leave what a first one cached, and what to do about it.
    #[command(after_help = format!("\
Examples:
  foretoken cache explain monday.json tuesday.json
  foretoken cache explain a.json b.json --model ./model.gguf --json | jq .message

Each file holds the body of a request to /v1/chat/completions or /v1/completions. No server is asked:
POST /v1/cache/explain compares a request with what a server really has.

{SETTINGS_HELP}"))]
    Explain(CacheExplainArgs),
}

impl CacheCommand {
    pub(crate) fn base(&self) -> &BaseArgs {
        match self {
            CacheCommand::Explain(args) => &args.base,
        }
    }
}
