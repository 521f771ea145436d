//! Options of `foretoken serve`.

use clap::Args;
use clap::builder::PossibleValuesParser;
use foretoken_server::ToolFormat;

use super::common::at_least_one;
use super::{AccountArgs, ContextArgs, ModelArgs, PositionalModel, SharedArgs, SpeculationArgs};
use crate::byte_size::ByteSize;

#[derive(Args, Clone)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) reference: PositionalModel,

    /// Address or host name to listen on. Set --api-key when it is reachable from other machines.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) host: String,

    /// Port to listen on; 0 picks a free one. The address is printed.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,

    #[command(flatten)]
    pub(crate) context: ContextArgs,

    /// Disk space for cached blocks, also used after a restart; 0 disables the disk cache. A block is the KV of 64
    /// tokens; a request whose prompt begins with cached blocks does not compute them again.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(crate) cache_disk: ByteSize,

    /// Which requests may be answered by replaying the cached response to an identical request: off,
    /// deterministic (temperature 0 or a seed), or always.
    #[arg(long, value_name = "WHICH", default_value = "deterministic", value_parser = ["off", "deterministic", "always"])]
    pub(crate) responses: String,

    /// Disk space for cached responses; the least recently used are evicted.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) responses_max: ByteSize,

    /// Days after which an unused cached response expires.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) responses_days: u64,

    /// Disk space for the rows of the usage ledger; beyond it the oldest are summed up per day, account and model.
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    pub(crate) ledger_max: ByteSize,

    /// Days after which rows of the usage ledger are summed up per day, account and model.
    #[arg(long, value_name = "DAYS", default_value_t = 400)]
    pub(crate) ledger_days: u64,

    /// Percentage of the pinnable memory that one tenant may pin.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) pin_share: u8,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,

    /// Name of the model in the API; may be given several times, the first is listed [default: the
    /// last part of --model, without .gguf].
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,

    /// A key that clients must send, or `blake3:` and the hash of one; may be given several times.
    /// Without any, every client that can reach the address is accepted.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Vec<String>,

    /// A key, or the `blake3:` hash of one, that is valid for all routes, including the admin routes; may be
    /// given several times. Without any, the admin routes are served only on a loopback address without
    /// --api-key and --cors-origin.
    #[arg(long, value_name = "KEY")]
    pub(crate) admin_key: Vec<String>,

    /// Serve /metrics without a key.
    #[arg(long)]
    pub(crate) metrics_open: bool,

    /// Origin whose web pages may call the API, or `*`; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,

    /// Another host name under which clients without a key may address the server, or `*`; may be given
    /// several times. Loopback names and --host always may. Keeps web pages of other sites out.
    #[arg(long, value_name = "HOST")]
    pub(crate) allowed_host: Vec<String>,

    /// What a tenant is: tenants share no cache. key+user: each user_id of an API key is one of its own.
    /// key: all requests of an API key are one tenant, whatever user_id they send.
    #[arg(long, value_name = "WHAT", default_value = "key+user", value_parser = ["key", "key+user"])]
    pub(crate) tenant_by: String,

    /// What in a user_id names a session and not a user: a regular expression. What it matches is removed, so that
    /// the sessions of a user share a cache; empty removes nothing. The default knows Claude Code's sessions.
    #[arg(long, value_name = "REGEX", default_value = foretoken_server::SESSION_PATTERN)]
    pub(crate) session_pattern: String,

    /// What in a system prompt changes from request to request and means nothing: a regular expression. What it
    /// matches is removed, so that the prompt hits the cache; empty removes nothing. The default knows Claude
    /// Code's billing header.
    #[arg(long, value_name = "REGEX", default_value = foretoken_server::VOLATILE_PATTERN)]
    pub(crate) volatile_pattern: String,

    /// The form in which the model writes tool calls. auto: the one that its chat template writes; the log says which.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = tool_formats())]
    pub(crate) tool_format: String,

    /// Maximum requests running concurrently.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) max_running: usize,

    /// Maximum requests of one tenant (API key and user) running concurrently, even when no other tenant
    /// waits [default: --max-running]. While others wait, each API key gets an equal share of --max-running,
    /// and of that each of its users.
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) max_running_per_tenant: Option<usize>,

    /// Tokens for which an answer may repeat the same short cycle before it ends with finish_reason length; 0 lets it go
    /// on to its limit. Requests with ignore_eos are left alone.
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Limits")]
    pub(crate) loop_tokens: u32,

    /// Maximum requests in the queue; further ones get 429 with Retry-After. One API key may fill four fifths
    /// of it.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) max_waiting: usize,

    /// Maximum tokens per step, over all requests.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) step_tokens: usize,

    /// Maximum size of a request body.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Limits")]
    pub(crate) max_body: ByteSize,

    /// Maximum prompt length in tokens [default: what the context holds].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) max_prompt: Option<usize>,

    /// Maximum `n` of a request: completions per request.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) max_n: usize,

    /// Maximum seconds from a request to the end of its response; 0 is no limit.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, help_heading = "Limits")]
    pub(crate) request_timeout: u64,

    /// Seconds that running requests get to finish after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Limits")]
    pub(crate) grace: u64,

    #[command(flatten)]
    pub(crate) accounts: AccountArgs,

    /// Print the effective settings as TOML, fit for --config, and exit. Keys appear as hashes.
    #[arg(long)]
    pub(crate) print_config: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

fn tool_formats() -> PossibleValuesParser {
    PossibleValuesParser::new(std::iter::once("auto").chain(ToolFormat::names()))
}
