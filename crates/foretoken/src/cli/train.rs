//! Options of `foretoken train-mtp` and `foretoken eval-mtp`.

use std::path::PathBuf;

use clap::Args;

use super::ModelArgs;
use super::common::at_least_one;

#[derive(Args)]
pub(crate) struct TrainMtpArgs {
    /// Write the head to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,

    /// Prompts to train on: files with one per line (.jsonl: strings, or objects with a `prompt`), or folders of them.
    /// Without this, built-in prompts over many topics, languages and tasks.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) prompts: Vec<PathBuf>,

    /// Tokens of answers to record and train on.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = at_least_one)]
    pub(crate) tokens: usize,

    /// Maximum tokens of one answer.
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = at_least_one)]
    pub(crate) answer_tokens: usize,

    /// The same seed, model, prompts and options give the same head, unless --minutes ends the training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Tokens that the head learns to draft in a row.
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = at_least_one)]
    pub(crate) steps: usize,

    /// Rows of the output that the head drafts from: the most frequent tokens.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = at_least_one)]
    pub(crate) rows: usize,

    /// Width of the head's feed-forward network [default: the model's].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) feed_forward: Option<usize>,

    /// End after about so many minutes, the answers included, which take two fifths of them at most.
    #[arg(long, value_name = "M", value_parser = at_least_one)]
    pub(crate) minutes: Option<usize>,

    /// Folder for recorded answers and the state of the training; the same command continues from it
    /// [default: FILE.work].
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,

    /// Passes over the answers.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    pub(crate) epochs: usize,

    /// Answer tokens per update, about.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    pub(crate) batch: usize,

    /// Largest learning rate.
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    pub(crate) rate: f32,

    /// Factor of the loss from each step to the next.
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    pub(crate) step_factor: f32,

    /// Weights to start from: random ones, or those of the model's last layer.
    #[arg(long, value_name = "WEIGHTS", default_value = "random", value_parser = ["last-layer", "random"])]
    pub(crate) start: String,

    /// Updates between evaluations.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    pub(crate) evaluate_every: usize,

    /// End after so many evaluations without a better one.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = at_least_one)]
    pub(crate) patience: usize,

    /// Date to record in the head [default: today].
    #[arg(long, value_name = "DAY")]
    pub(crate) date: Option<String>,

    /// Draw loss and acceptance to this SVG file [default: training.svg in the work folder].
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args)]
pub(crate) struct EvalMtpArgs {
    /// The head's file.
    #[arg(value_name = "FILE")]
    pub(crate) head: PathBuf,

    /// Prompts to evaluate on, as for train-mtp; all of them are used. Without this, built-in ones that no head is trained
    /// on.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) prompts: Vec<PathBuf>,

    /// Tokens of answers to evaluate on.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = at_least_one)]
    pub(crate) tokens: usize,

    /// Maximum tokens of one answer.
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = at_least_one)]
    pub(crate) answer_tokens: usize,

    /// Depths to evaluate.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one)]
    pub(crate) steps: usize,

    /// Decides the built-in prompts and the sampled answers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Keep the recorded answers in this folder and use those that are there.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}
