//! `foretoken bench`: its subcommands and their options.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ContextArgs, ModelArgs, SETTINGS_HELP, SpeculationArgs};

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
pub(crate) struct BenchAgreementArgs {
    /// Thresholds to measure beside exact; epsilon and delta are set to the same number.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05])]
    pub(crate) tau: Vec<f32>,

    /// Requests per threshold.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) requests: usize,

    /// Tokens per answer.
    #[arg(long, value_name = "N", default_value_t = 150)]
    pub(crate) tokens: usize,

    /// Draw speed and perplexity against agreement into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Draw how often guesses of an estimated probability were right into this SVG file.
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
