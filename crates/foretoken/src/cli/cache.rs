//! Options of `foretoken cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::cache_explain::CacheExplainArgs;
use super::{BaseArgs, SETTINGS_HELP};

/// What is cached, on a running server (`--server`) or in a data folder that no server has open.
#[derive(Subcommand)]
pub(crate) enum CacheCommand {
    /// Show tiers, blocks, bytes, hit rates and evictions.
    Stat(CacheArgs),

    /// List cached prefixes, the latest used first.
    Ls(CacheLsArgs),

    /// Read and check every file; move bad ones to quarantine. Fails if there was a bad one.
    Verify(CacheArgs),

    /// Have a server read a prompt into its cache.
    Prewarm(CachePromptArgs),

    /// Have a server read a prompt into its cache and keep it there for a while.
    Pin(CachePinArgs),

    /// Let go of a pinned prompt.
    Unpin(CachePromptArgs),

    /// Forget what is cached: blocks, answers and drafts.
    Clear(CacheClearArgs),

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
            CacheCommand::Stat(args) | CacheCommand::Verify(args) => &args.base,
            CacheCommand::Ls(args) => &args.cache.base,
            CacheCommand::Prewarm(args) | CacheCommand::Unpin(args) => &args.cache.base,
            CacheCommand::Pin(args) => &args.prompt.cache.base,
            CacheCommand::Clear(args) => &args.cache.base,
            CacheCommand::Explain(args) => &args.base,
        }
    }
}

/// Which cache, and how it is shown.
#[derive(Args)]
pub(crate) struct CacheArgs {
    /// Ask this server, such as http://127.0.0.1:8080 [default: look into the data folder].
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// The key to ask the server with, for what a client may do.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// The operator's key, for everything else.
    #[arg(long, value_name = "KEY")]
    pub(crate) admin_key: Option<String>,

    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}

#[derive(Args)]
pub(crate) struct CacheLsArgs {
    /// Rows at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

#[derive(Args)]
pub(crate) struct CachePromptArgs {
    /// A text, a JSON array of messages, or the JSON body of a request (`-` is standard input).
    #[arg(value_name = "FILE")]
    pub(crate) prompt: PathBuf,

    /// For this user of the key.
    #[arg(long, value_name = "ID")]
    pub(crate) user_id: Option<String>,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

#[derive(Args)]
pub(crate) struct CachePinArgs {
    /// Seconds until the pin ends by itself.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(crate) ttl: u64,

    #[command(flatten)]
    pub(crate) prompt: CachePromptArgs,
}

#[derive(Args)]
pub(crate) struct CacheClearArgs {
    /// Everything of everyone.
    #[arg(long, conflicts_with_all = ["tenant", "user_id", "scope"])]
    pub(crate) all: bool,

    /// Everything of this account (with --server).
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,

    /// Everything of this user, of one account with --tenant (with --server).
    #[arg(long, value_name = "ID")]
    pub(crate) user_id: Option<String>,

    /// Everything under this scope, as `ls` shows it (without --server).
    #[arg(long, value_name = "ID", conflicts_with_all = ["tenant", "user_id"])]
    pub(crate) scope: Option<String>,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}
