//! The `foretoken` command: command line, settings, wiring.
//!
//! Inference, scheduling and HTTP are in the crates below; this one connects them. Errors end here
//! (`anyhow` is used in no other crate) as one or two lines on standard error and an exit code: 1 for a
//! failure, 2 for a usage error.
#![forbid(unsafe_code)]

mod api_client;
mod bare_sequence;
mod byte_size;
mod cache_secret;
mod cli;
mod commands;
mod download_progress;
mod draft_colors;
mod folder_lock;
mod generation;
mod load;
mod output;
mod reasoning_dim;
mod settings;
mod shared_cache;
mod shared_prompt;
mod svg_chart;
mod word_wrap;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tracing_subscriber::EnvFilter;

use cli::{Bench, Cli, Command, ServeArgs};
use generation::Interrupted;

/// 128 + SIGINT, as shells expect.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    match run(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run(line: &[OsString]) -> Result<()> {
    let matches = settings::parse(cli::command(), line)?;
    let mut command = Cli::from_arg_matches(&matches)?.command;
    command.take_positional_model(&matches)?;
    command.resolve_server(&matches)?;
    log_to_stderr(&command)?;
    match command {
        Command::Serve(args) if args.print_config => print_config(&matches, &args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Perplexity(args) => commands::perplexity::run(&args),
        Command::Bench(Bench::Model(args)) => commands::bench_model::run(&args),
        Command::Bench(Bench::Agreement(args)) => commands::bench_agreement::run(&args),
        Command::TrainMtp(args) => commands::train_mtp::run(&args),
        Command::EvalMtp(args) => commands::eval_mtp::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Usage(args) => commands::usage::run(&args),
        Command::Cache(command) => commands::cache::run(&command),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::man::run(&args),
    }
}

fn print_config(matches: &ArgMatches, args: &ServeArgs) -> Result<()> {
    let serve = matches.subcommand_matches("serve").context("the command is serve")?;
    let text =
        settings::to_toml(&Cli::command(), "serve", serve, &commands::serve::computed_settings(args)?)?;
    Ok(output::stdout().write_all(text.as_bytes())?)
}

fn log_to_stderr(command: &Command) -> Result<()> {
    let (base, default) = match command {
        Command::Serve(args) => (&args.model.base, "info"),
        Command::Generate(args) => (&args.model.base, "warn"),
        Command::Chat(args) => (&args.model.base, "warn"),
        Command::Perplexity(args) => (&args.model.base, "warn"),
        Command::Bench(Bench::Model(args)) => (&args.model.base, "warn"),
        Command::Bench(Bench::Agreement(args)) => (&args.model.base, "warn"),
        Command::TrainMtp(args) => (&args.model.base, "warn"),
        Command::EvalMtp(args) => (&args.model.base, "warn"),
        Command::Pull(args) => (&args.base, "warn"),
        Command::Models(args) => (&args.base, "warn"),
        Command::Inspect(args) => (&args.base, "warn"),
        Command::Usage(args) => (&args.base, "warn"),
        Command::Cache(command) => (command.base(), "warn"),
        Command::Completions(_) | Command::Man(_) => return Ok(()),
    };
    let directives = base.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(directives).with_context(|| format!("--log {directives}"))?;
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match base.log_format.as_str() {
        "json" => log.json().flatten_event(true).init(),
        _ => log.with_ansi(colours).init(),
    }
    Ok(())
}

/// Prints the error and chooses the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // `--help` is one of these too, with code 0 and on standard output.
        let _ = usage.print();
        return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
    }
    if output::is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if error.is::<Interrupted>() {
        return ExitCode::from(EXIT_INTERRUPTED);
    }
    eprintln!("foretoken: {}", in_one_line(error));
    ExitCode::FAILURE
}

/// The chain of causes, without those already quoted by the message before them.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line += &format!(": {cause}");
        }
    }
    line
}
