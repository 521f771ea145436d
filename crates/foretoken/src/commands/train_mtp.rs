//! `foretoken train-mtp`: a head for multi-token prediction, from the model alone.
//!
//! Wires the phases of `foretoken-train` together: prompts, recorded answers, training, the file, its evaluation. Both the
//! answers and the state of the training are in the work folder, so that the same command continues an interrupted one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use foretoken_model::chat::civil;
use foretoken_train::answers::{Part, Speaker, settings};
use foretoken_train::checkpoint::{Checkpoint, Point};
use foretoken_train::cut::Cut;
use foretoken_train::evaluation::{HeldOut, evaluate_file};
use foretoken_train::file::{self, TrainingFacts};
use foretoken_train::head::Start;
use foretoken_train::prompts::Prompts;
use foretoken_train::recorded::{Record, Recorded};
use foretoken_train::shape::HeadShape;
use foretoken_train::trainer::{Progress, TrainOptions, Trained, Trainer};
use foretoken_train::trunk::Trunk;

use super::eval_mtp::{PROMPT_TOKENS_MAX, Table, bounds, report};
use crate::cli::TrainMtpArgs;
use crate::load::{self, Loaded};
use crate::svg_chart::{Chart, Series};

/// Built-in prompts; more than the answers of a long training need.
const BUILT_IN_PROMPTS: usize = 20_000;
/// Chains at each temperature that evaluations during the training use.
const HELD_OUT_CHAINS: usize = 3_000;
/// Part of `--minutes` that the answers may take.
const ANSWERS_SHARE: f64 = 0.4;
/// Interval of progress lines.
const REPORT_EVERY: Duration = Duration::from_secs(15);

/// Runs the command.
pub(crate) fn run(args: &TrainMtpArgs) -> Result<()> {
    // Written so that NaN fails too.
    let in_range = |x: f32| x > 0.0 && x <= 1.0;
    if !in_range(args.rate) || !in_range(args.step_factor) {
        bail!("--rate and --step-factor must be above 0 and at most 1");
    }
    let begin = Instant::now();
    let work = work_folder(args)?;
    let loaded = load::load_without_head(&args.model)?;
    // Whatever can fail fails before hours of work.
    let shape = HeadShape::of(&loaded.gguf, loaded.model.config(), args.feed_forward)?;
    let prompts = match args.prompts.as_slice() {
        [] => Prompts::built_in(BUILT_IN_PROMPTS, args.seed),
        paths => Prompts::read(paths)?,
    };
    let answers = record(args, &loaded, &prompts, &work, begin)?;
    let training = || answers.records().iter().filter(|record| !record.held_out);
    let cut = Cut::of(training(), shape.vocab, args.rows.min(shape.vocab));
    let tokens_max = PROMPT_TOKENS_MAX + args.answer_tokens;
    let mut trunk = Trunk::new(loaded.model.clone(), tokens_max)?;
    let held_out = answers.records().iter().filter(|record| record.held_out);
    let held_out = HeldOut::read(&mut trunk, held_out, HELD_OUT_CHAINS, args.seed)?;
    eprintln!(
        "training {:.1} million parameters on {} answers; {} rows of the output cover {:.1} % of the tokens",
        shape.parameters() as f64 / 1e6,
        training().count(),
        cut.rows().len(),
        100.0 * cut.coverage(training())
    );
    let limit = args.minutes.map(|minutes| {
        Duration::from_secs(60 * minutes as u64).saturating_sub(begin.elapsed()).max(Duration::from_secs(1))
    });
    let records: Vec<&Record> = training().collect();
    let (count, tokens) = (records.len(), records.iter().map(|record| record.answer().len()).sum());
    let trained = {
        let (trunk, shape, options) = (&mut trunk, shape.clone(), options(args, limit));
        let clock = || begin.elapsed();
        let mut trainer =
            Trainer { trunk, shape, cut: &cut, records, held_out: &held_out, options, clock: &clock };
        train(&mut trainer, &work.join("training.gguf"))?
    };
    let facts = facts(args, &trained, (tokens, count));
    file::write(&args.out, &file::bytes(&loaded.gguf, &shape, &trained.weights, &cut, &facts))?;
    plot(&trained.history, args.steps, &args.plot.clone().unwrap_or_else(|| work.join("training.svg")))?;
    eprintln!("wrote {} after {:.0} minutes", args.out.display(), begin.elapsed().as_secs_f64() / 60.0);
    let acceptance = evaluate_file(&args.out, &trunk, &held_out, args.steps)?;
    report(&Table { acceptance, chains: held_out.chains(), head: args.out.display().to_string() }, args.json)
}

fn work_folder(args: &TrainMtpArgs) -> Result<PathBuf> {
    let beside = || {
        let mut name = args.out.as_os_str().to_owned();
        name.push(".work");
        PathBuf::from(name)
    };
    let work = args.work.clone().unwrap_or_else(beside);
    std::fs::create_dir_all(&work)
        .with_context(|| format!("cannot create the work folder {}", work.display()))?;
    Ok(work)
}

fn record(
    args: &TrainMtpArgs,
    loaded: &Loaded,
    prompts: &Prompts,
    work: &Path,
    begin: Instant,
) -> Result<Recorded> {
    let bounds = bounds(loaded, args.tokens, args.answer_tokens)?;
    let settings = settings(loaded.gguf.fingerprint(), prompts, bounds, args.seed);
    let mut recorded = Recorded::open(&work.join("answers.tokens"), settings, loaded.model.config().vocab)?;
    let (before, start, mut reported) = (recorded.tokens(), Instant::now(), Instant::now());
    let until = args.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes as f64 * ANSWERS_SHARE));
    let speaker = Speaker { model: &loaded.model, tokenizer: &loaded.tokenizer, template: &loaded.template };
    speaker.record(prompts, (bounds, Part::All, args.seed), &mut recorded, |tokens| {
        if reported.elapsed() > REPORT_EVERY {
            reported = Instant::now();
            let rate = (tokens - before) as f64 / start.elapsed().as_secs_f64();
            let left = args.tokens.saturating_sub(tokens) as f64 / rate.max(1e-9) / 60.0;
            eprintln!(
                "answers: {tokens} of {} tokens, {rate:.0} tokens/s, {left:.0} minutes left",
                args.tokens
            );
        }
        until.is_none_or(|until| begin.elapsed() < until)
    })?;
    Ok(recorded)
}

fn options(args: &TrainMtpArgs, limit: Option<Duration>) -> TrainOptions {
    TrainOptions {
        depths: args.steps,
        depth_factor: args.step_factor,
        epochs: args.epochs,
        batch: args.batch,
        rate: args.rate,
        start: if args.start == "random" { Start::Random } else { Start::LastLayer },
        seed: args.seed,
        evaluate_every: args.evaluate_every,
        patience: args.patience,
        limit,
        ..TrainOptions::default()
    }
}

fn train(trainer: &mut Trainer<'_>, checkpoint: &Path) -> Result<Trained> {
    let mut reported = Instant::now();
    Ok(trainer.run(&Checkpoint::at(checkpoint), |progress| {
        if progress.acceptance.is_some() || reported.elapsed() > REPORT_EVERY {
            reported = Instant::now();
            eprintln!("{}", line(progress));
        }
        true
    })?)
}

/// Progress in a line.
fn line(progress: &Progress) -> String {
    let list = |values: &[f64], digits: usize| {
        let numbers: Vec<String> = values.iter().map(|value| format!("{value:.digits$}")).collect();
        numbers.join("/")
    };
    let mut line = format!(
        "training: {} of {} updates, loss {}, {:.0} tokens/s, {:.0} minutes left",
        progress.updates,
        progress.updates_total,
        list(&progress.loss, 2),
        progress.chains_per_second,
        progress.left.as_secs_f64() / 60.0
    );
    if let Some(acceptance) = &progress.acceptance {
        let rates = |rates: &[foretoken_train::evaluation::Rate]| {
            list(&rates.iter().map(|rate| rate.value()).collect::<Vec<_>>(), 3)
        };
        line += &format!(
            "; accepted greedy {}, at 0.8 {}, {:.2} tokens per step",
            rates(&acceptance.greedy),
            rates(&acceptance.sampled),
            acceptance.score()
        );
    }
    line
}

fn facts(args: &TrainMtpArgs, trained: &Trained, (tokens, prompts): (usize, usize)) -> TrainingFacts {
    let better = |a: &&Point, b: &&Point| a.score.total_cmp(&b.score);
    let best = trained.history.iter().max_by(better);
    TrainingFacts {
        tokens,
        prompts,
        seed: args.seed,
        updates: trained.updates,
        depths: args.steps,
        date: args.date.clone().unwrap_or_else(today),
        greedy: best.map(|point| point.greedy.clone()).unwrap_or_default(),
        sampled: best.map(|point| point.sampled.clone()).unwrap_or_default(),
    }
}

/// The day in UTC.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Loss and acceptance by depth over the updates.
fn plot(history: &[Point], depths: usize, path: &Path) -> Result<()> {
    let names: Vec<[String; 3]> = (1..=depths)
        .map(|depth| ["loss", "greedy", "at 0.8"].map(|of| format!("{of}, token {depth}")))
        .collect();
    let mut series = Vec::new();
    for (depth, [loss, greedy, sampled]) in names.iter().enumerate() {
        let mut add = |name, of: fn(&Point) -> &[f64]| {
            let value = |point: &Point| Some((point.updates as f64, *of(point).get(depth)?));
            series.push(Series { name, points: history.iter().filter_map(value).collect() });
        };
        add(loss, |point| &point.loss);
        add(greedy, |point| &point.greedy);
        add(sampled, |point| &point.sampled);
    }
    let chart = Chart {
        title: "Training of a head: divergence in nats, and acceptance of held-out draft tokens",
        x: "updates",
        y: "loss, acceptance",
        series,
        diagonal: false,
    };
    std::fs::write(path, chart.svg()).with_context(|| format!("cannot write {}", path.display()))
}
