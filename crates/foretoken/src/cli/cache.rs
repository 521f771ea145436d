//! Options of `foretoken cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::cache_explain::CacheExplainArgs;
use super::{BaseArgs, SETTINGS_HELP};

/// Subcommands of `foretoken cache`, for a running server (`--server`) or a data folder.
#[derive(Subcommand)]
pub(crate) enum CacheCommand {
    /// Show tiers, blocks, bytes, hit rates and evictions.
    Stat(CacheArgs),

    /// List cached prefixes, the latest used first.
    Ls(CacheLsArgs),

    /// Read and check every file; move bad ones to quarantine. Fails if there was a bad one.
    Verify(CacheArgs),

    /// Prefill a prompt on a server, so that it is cached.
    Prewarm(CachePromptArgs),

    /// Prefill a prompt on a server and keep it from being evicted for a while.
    Pin(CachePinArgs),

    /// Make a pinned prompt evictable again.
    Unpin(CachePromptArgs),

    /// Delete cached blocks, responses and drafter state.
    Clear(CacheClearArgs),

    /// Explain where the prompt of a second request diverges from a first one, and how to make it hit.
    #[command(after_help = format!("\
Examples:
  foretoken cache explain monday.json tuesday.json
  foretoken cache explain a.json b.json --model ./model.gguf --json | jq .message

Each file holds the body of a request to /v1/chat/completions or /v1/completions. No server is needed;
POST /v1/cache/explain compares a request with what a server really has cached.

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

/// Target and output format.
#[derive(Args)]
pub(crate) struct CacheArgs {
    /// The server, such as http://127.0.0.1:8080 [default: read the data folder].
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// The server's API key, for operations open to clients.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// The server's admin key, for all other operations.
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
    /// Maximum number of rows.
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

    /// The user of the key (`user_id`) to do it for.
    #[arg(long, value_name = "ID")]
    pub(crate) user_id: Option<String>,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

#[derive(Args)]
pub(crate) struct CachePinArgs {
    /// Seconds until the pin expires.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(crate) ttl: u64,

    #[command(flatten)]
    pub(crate) prompt: CachePromptArgs,
}

#[derive(Args)]
pub(crate) struct CacheClearArgs {
    /// Everything of all tenants.
    #[arg(long, conflicts_with_all = ["tenant", "user_id", "scope"])]
    pub(crate) all: bool,

    /// Everything of this account (with --server).
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,

    /// Everything of this user; with --tenant, of this user of that account (with --server).
    #[arg(long, value_name = "ID")]
    pub(crate) user_id: Option<String>,

    /// Everything of this scope, as `cache ls` shows it (without --server).
    #[arg(long, value_name = "ID", conflicts_with_all = ["tenant", "user_id"])]
    pub(crate) scope: Option<String>,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}
