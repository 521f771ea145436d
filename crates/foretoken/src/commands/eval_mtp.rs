//! `foretoken eval-mtp`: acceptance of a trained head's draft tokens by depth, on texts that it was not trained on.
//!
//! Computed from recorded answers, without scheduler and planner: what a head can do, not what serving gains from it.

use std::io::Write;

use anyhow::{Context, Result, bail};
use foretoken_train::answers::{Bounds, Part, Speaker, settings};
use foretoken_train::evaluation::{Acceptance, HeldOut, Rate, evaluate_file, tokens_per_step};
use foretoken_train::prompts::Prompts;
use foretoken_train::recorded::Recorded;
use foretoken_train::trunk::Trunk;
use serde_json::{Value, json};

use crate::cli::EvalMtpArgs;
use crate::load::{self, Loaded};
use crate::output;

/// Longest prompt that is answered, in tokens.
pub(super) const PROMPT_TOKENS_MAX: usize = 640;
/// Shortest prompt that a model must have room for.
const PROMPT_TOKENS_MIN: usize = 64;
/// Built-in prompts that the held-out ones are taken from.
const BUILT_IN_PROMPTS: usize = 20_000;

/// Runs the command.
pub(crate) fn run(args: &EvalMtpArgs) -> Result<()> {
    let loaded = load::load_without_head(&args.model)?;
    // Says what is wrong with the file before answers are computed for it.
    foretoken_train::file::read(&args.head, &loaded.gguf, loaded.model.config())?;
    let (prompts, part) = match args.prompts.as_slice() {
        [] => (Prompts::built_in(BUILT_IN_PROMPTS, args.seed).held_out(), Part::All),
        paths => (Prompts::read(paths)?, Part::Evaluation),
    };
    let bounds = bounds(&loaded, args.tokens, args.answer_tokens)?;
    let settings = settings(loaded.gguf.fingerprint(), &prompts, bounds, args.seed);
    let temporary = temporary_folder();
    let work = args.work.clone().unwrap_or_else(|| temporary.0.clone());
    std::fs::create_dir_all(&work)
        .with_context(|| format!("cannot create the work folder {}", work.display()))?;
    let mut recorded =
        Recorded::open(&work.join("evaluation.tokens"), settings, loaded.model.config().vocab)?;
    let speaker = Speaker { model: &loaded.model, tokenizer: &loaded.tokenizer, template: &loaded.template };
    speaker.record(&prompts, (bounds, part, args.seed), &mut recorded, |_| true)?;
    let mut trunk = Trunk::new(loaded.model.clone(), PROMPT_TOKENS_MAX + args.answer_tokens)?;
    let held_out = HeldOut::read(&mut trunk, recorded.records().iter(), usize::MAX, args.seed)?;
    let acceptance = evaluate_file(&args.head, &trunk, &held_out, args.steps)?;
    report(&Table { acceptance, chains: held_out.chains(), head: args.head.display().to_string() }, args.json)
}

/// What is recorded, within the model's context.
///
/// # Errors
/// Answers that leave no room for a prompt.
pub(super) fn bounds(loaded: &Loaded, tokens: usize, answer_max: usize) -> Result<Bounds> {
    let ctx = loaded.model.config().ctx_train;
    if answer_max < 2 || answer_max + PROMPT_TOKENS_MIN > ctx {
        let most = ctx.saturating_sub(PROMPT_TOKENS_MIN);
        bail!("--answer-tokens must be from 2 to {most}: the model's context is {ctx} tokens");
    }
    Ok(Bounds { tokens, answer_max, prompt_max: PROMPT_TOKENS_MAX.min(ctx - answer_max) })
}

/// A folder of this process that is removed at the end.
struct Temporary(std::path::PathBuf);

fn temporary_folder() -> Temporary {
    Temporary(std::env::temp_dir().join(format!("foretoken-eval-{}", std::process::id())))
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is reported of a head.
pub(super) struct Table {
    pub(super) acceptance: Acceptance,
    /// Chains of greedy and of sampled answers.
    pub(super) chains: (usize, usize),
    pub(super) head: String,
}

/// Prints acceptance by depth.
pub(super) fn report(table: &Table, as_json: bool) -> Result<()> {
    let Table { acceptance, chains, head } = table;
    if as_json {
        let of = |rates: &[Rate], chains: usize| -> Value {
            json!({
                "acceptance": rates.iter().map(|rate| rate.value()).collect::<Vec<_>>(),
                "tokens_per_step": (1..=rates.len()).map(|n| tokens_per_step(&rates[..n])).collect::<Vec<_>>(),
                "tokens": chains,
            })
        };
        return output::json(&json!({
            "head": head,
            "greedy": of(&acceptance.greedy, chains.0),
            "sampled": of(&acceptance.sampled, chains.1),
        }));
    }
    let mut out = output::stdout();
    writeln!(
        out,
        "{head}: {} tokens of greedy answers, {} of answers at temperature 0.8\n",
        chains.0, chains.1
    )?;
    drop(out);
    let columns = ["draft token", "accepted, greedy", "tokens/step", "accepted at 0.8", "tokens/step"];
    let mut shown = output::Table::new(&columns);
    for depth in 0..acceptance.greedy.len() {
        let mut row = vec![format!("{}", depth + 1)];
        for rates in [&acceptance.greedy, &acceptance.sampled] {
            row.push(format!("{:.3}", rates[depth].value()));
            row.push(format!("{:.2}", tokens_per_step(&rates[..=depth])));
        }
        shown.row(row);
    }
    shown.print()
}
