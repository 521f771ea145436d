//! `foretoken bench`: its subcommands and their options.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ContextArgs, ModelArgs, PositionalModel, SETTINGS_HELP, SpeculationArgs};

/// Benchmarks.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Prefill, decode and step times of a model, relative to this machine's measured limits.
    #[command(after_help = format!("\
Examples:
  foretoken bench model
  foretoken bench model --threads 2 --reps 9 --json > record.json
  foretoken bench model --prompt 512 --depth 0 --rows 1,4,8

{SETTINGS_HELP}"))]
    Model(BenchModelArgs),

    /// Speed and quality of the agreement policy over a range of thresholds.
    #[command(after_help = format!("\
Examples:
  foretoken bench agreement
  foretoken bench agreement --tau 0.9,0.5,0.2 --plot agreement.svg
  foretoken bench agreement --json --reliability-plot reliability.svg

{SETTINGS_HELP}"))]
    Agreement(BenchAgreementArgs),
}

#[derive(Args)]
pub(crate) struct BenchModelArgs {
    #[command(flatten)]
    pub(crate) reference: PositionalModel,

    /// Prompt lengths to measure prefill at, in tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [512, 2048])]
    pub(crate) prompt: Vec<usize>,

    /// Context lengths to measure decode at, in tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0, 1024, 4096])]
    pub(crate) depth: Vec<usize>,

    /// Rows per step to measure.
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          default_values_t = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])]
    pub(crate) rows: Vec<usize>,

    /// Tokens decoded per repetition.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) decode: usize,

    /// Repetitions of each measurement; the median is reported.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) reps: usize,

    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args)]
pub(crate) struct BenchAgreementArgs {
    #[command(flatten)]
    pub(crate) reference: PositionalModel,

    /// Values of tau to compare with the exact policy; epsilon and delta are set to the same value.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05])]
    pub(crate) tau: Vec<f32>,

    /// Requests per threshold.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) requests: usize,

    /// Tokens per response.
    #[arg(long, value_name = "N", default_value_t = 150)]
    pub(crate) tokens: usize,

    /// Write a plot of speed and perplexity against agreement to this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Write a plot of estimated against measured acceptance of draft tokens to this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) reliability_plot: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) context: ContextArgs,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}
