//! `foretoken bench agreement`: speed and quality of the `agreement` policy, and calibration of the planner's
//! acceptance estimates.
//!
//! A few dozen requests are completed greedily, once under `exact` and once per threshold, interleaved so that noise
//! does not hit one threshold alone. Reported per policy: tokens per second, the fraction of tokens that `exact` would
//! have chosen too given the tokens before, and the perplexity of the responses under the model itself. An uncounted
//! warm-up round trains the drafters as on a running server.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use foretoken_engine::{
    CacheUse, Engine, EngineConfig, Event, Policy, Request, Sampling, Source, SpeculationChoice, Thresholds,
};
use serde::Serialize;
use serde_json::json;

use crate::cli::{BenchAgreementArgs, SpeculationArgs};
use crate::generation;
use crate::load::{self, Loaded};
use crate::output::{self, Table};
use crate::svg_chart::{Chart, Series};

const TOPICS: [&str; 8] = ["the sea", "bread", "old trains", "the moon", "bees", "maps", "rain", "a library"];
const FORMS: [&str; 4] = [
    "Tell me about {}.",
    "Write a short story about {}.",
    "Explain to a child what {} is good for.",
    "List ten facts about {}.",
];

/// Runs the command.
pub(crate) fn run(args: &BenchAgreementArgs) -> Result<()> {
    if args.tokens == 0 || args.requests == 0 || args.requests > TOPICS.len() * FORMS.len() {
        bail!("--tokens must be at least 1 and --requests from 1 to {}", TOPICS.len() * FORMS.len());
    }
    if args.tau.iter().any(|tau| !(0.0..=1.0).contains(tau)) {
        bail!("--tau must hold numbers from 0 to 1");
    }
    let loaded = load::load(&args.model, &args.speculation)?;
    // Responses of earlier runs would be drafts that a server would not have for a new question.
    let speculation = SpeculationArgs { draft_memory: 0, ..args.speculation.clone() };
    let engine =
        loaded.start_engine(&args.model.base, &args.context, &speculation, EngineConfig::default())?;
    let prompts = prompts(&loaded, args.requests)?;
    let mut policies = vec![Policy::Exact];
    policies.extend(args.tau.iter().map(|&tau| agreement(tau)));
    let mut rows: Vec<Row> = policies.iter().map(|policy| Row::new(*policy)).collect();
    for prompt in &prompts {
        ask(&engine, prompt, args.tokens, Policy::Exact)?;
    }
    for (at, prompt) in prompts.iter().enumerate() {
        for turn in 0..rows.len() {
            let row = (at + turn) % rows.len();
            let policy = policies[row];
            rows[row].add(&ask(&engine, prompt, args.tokens, policy)?);
        }
    }
    let reliability = Bin::all(&engine);
    if let Some(path) = &args.plot {
        plot(&rows, path)?;
    }
    if let Some(path) = &args.reliability_plot {
        plot_reliability(&reliability, path)?;
    }
    if args.json {
        return output::json(&json!({"policies": rows, "reliability": reliability}));
    }
    print(&rows)
}

/// Sets all thresholds to `tau`, so that both acceptance rules are equally strict.
fn agreement(tau: f32) -> Policy {
    Policy::Agreement(Thresholds { epsilon: tau, delta: tau, tau })
}

fn prompts(loaded: &Loaded, count: usize) -> Result<Vec<Vec<u32>>> {
    let questions = FORMS.iter().flat_map(|form| TOPICS.iter().map(move |topic| form.replace("{}", topic)));
    questions
        .take(count)
        .map(|question| {
            let rendered = generation::render(loaded, vec![json!({"role": "user", "content": question})])?;
            Ok(loaded.tokenizer.encode_rendered(&rendered))
        })
        .collect()
}

/// Measurements of one response.
struct Asked {
    tokens: usize,
    seconds: f64,
    /// Sum of the tokens' log-probabilities under the model.
    logprob: f64,
    relaxed: usize,
    drafted: usize,
    accepted: usize,
}

fn ask(engine: &Engine, prompt: &[u32], tokens: usize, policy: Policy) -> Result<Asked> {
    let request = Request {
        prompt: prompt.to_vec(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(tokens),
        logprobs: Some(0),
        cache: CacheUse::default(),
        speculation: SpeculationChoice { policy: Some(policy), ..SpeculationChoice::default() },
        ..Request::default()
    };
    let mut answer = engine.submit(request)?;
    let (mut logprob, mut first) = (0.0, None);
    loop {
        match answer.recv_blocking().context("the engine stopped before the answer was complete")? {
            Event::Tokens(tokens) => {
                first.get_or_insert_with(Instant::now);
                let chosen = tokens.into_iter().filter_map(|token| token.logprob);
                logprob += chosen.map(|scores| f64::from(scores.chosen.logprob)).sum::<f64>();
            }
            Event::Done(summary) => {
                return Ok(Asked {
                    tokens: summary.usage.completion_tokens.saturating_sub(1),
                    seconds: first.map_or(0.0, |first| first.elapsed().as_secs_f64()),
                    logprob,
                    relaxed: summary.drafts.relaxed,
                    drafted: summary.drafts.drafted,
                    accepted: summary.drafts.accepted,
                });
            }
        }
    }
}

#[derive(Serialize)]
struct Row {
    policy: String,
    /// `None` for `exact`.
    tau: Option<f32>,
    tokens: usize,
    seconds: f64,
    logprob: f64,
    relaxed: usize,
    drafted: usize,
    accepted: usize,
}

impl Row {
    fn new(policy: Policy) -> Row {
        let tau = match policy {
            Policy::Agreement(thresholds) => Some(thresholds.tau),
            _ => None,
        };
        let policy = policy.name().to_owned();
        Row { policy, tau, tokens: 0, seconds: 0.0, logprob: 0.0, relaxed: 0, drafted: 0, accepted: 0 }
    }

    fn add(&mut self, asked: &Asked) {
        self.tokens += asked.tokens;
        self.seconds += asked.seconds;
        self.logprob += asked.logprob;
        self.relaxed += asked.relaxed;
        self.drafted += asked.drafted;
        self.accepted += asked.accepted;
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Fraction of tokens that `exact` would have chosen too.
    fn agreement(&self) -> f64 {
        1.0 - self.relaxed as f64 / self.tokens.max(1) as f64
    }

    fn perplexity(&self) -> f64 {
        (-self.logprob / self.tokens.max(1) as f64).exp()
    }
}

fn print(rows: &[Row]) -> Result<()> {
    let mut table = Table::new(&[
        "policy",
        "tau",
        "tokens/s",
        "vs exact",
        "agreement",
        "perplexity",
        "drafted",
        "accepted",
    ]);
    let exact = rows[0].tokens_per_second();
    for row in rows {
        table.row(vec![
            row.policy.clone(),
            row.tau.map_or_else(String::new, |tau| format!("{tau}")),
            format!("{:.1}", row.tokens_per_second()),
            format!("{:.2}x", row.tokens_per_second() / exact),
            format!("{:.4}", row.agreement()),
            format!("{:.3}", row.perplexity()),
            row.drafted.to_string(),
            row.accepted.to_string(),
        ]);
    }
    table.print()
}

fn plot(rows: &[Row], path: &Path) -> Result<()> {
    let points =
        |y: fn(&Row) -> f64| rows.iter().map(move |row| (row.agreement(), y(row))).collect::<Vec<_>>();
    let exact = rows[0].tokens_per_second();
    let chart = Chart {
        title: "Agreement policy: speed and perplexity against agreement with exact",
        x: "fraction of tokens that exact would have chosen too",
        y: "relative to exact",
        series: vec![
            Series {
                name: "tokens per second",
                points: points(Row::tokens_per_second).into_iter().map(|(x, y)| (x, y / exact)).collect(),
            },
            Series {
                name: "perplexity of the responses",
                points: points(Row::perplexity)
                    .into_iter()
                    .map(|(x, y)| (x, y / rows[0].perplexity()))
                    .collect(),
            },
        ],
        diagonal: false,
    };
    write(&chart, path)
}

/// Calibration bin: draft tokens of one drafter with similar estimated acceptance, and how many were accepted.
#[derive(Serialize)]
struct Bin {
    source: &'static str,
    /// Centre of the bin.
    estimated: f64,
    right: f64,
    seen: u64,
}

impl Bin {
    /// Bins with enough draft tokens to be significant.
    fn all(engine: &Engine) -> Vec<Bin> {
        const SEEN_MIN: u64 = 20;
        let totals = engine.stats().drafts;
        let mut bins = Vec::new();
        for (source, counts) in Source::ALL.into_iter().zip(&totals.reliability) {
            for (class, of) in counts.iter().enumerate().filter(|(_, of)| of.seen >= SEEN_MIN) {
                let estimated = (class as f64 + 0.5) / counts.len() as f64;
                bins.push(Bin {
                    source: source.name(),
                    estimated,
                    right: of.right as f64 / of.seen as f64,
                    seen: of.seen,
                });
            }
        }
        bins
    }
}

fn plot_reliability(bins: &[Bin], path: &Path) -> Result<()> {
    let series = Source::ALL.into_iter().map(|source| Series {
        name: source.name(),
        points: bins
            .iter()
            .filter(|bin| bin.source == source.name())
            .map(|bin| (bin.estimated, bin.right))
            .collect(),
    });
    let chart = Chart {
        title: "Acceptance of draft tokens against its estimate",
        x: "estimated acceptance",
        y: "fraction accepted",
        series: series.filter(|series| !series.points.is_empty()).collect(),
        diagonal: true,
    };
    write(&chart, path)
}

fn write(chart: &Chart<'_>, path: &Path) -> Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(chart.svg().as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
