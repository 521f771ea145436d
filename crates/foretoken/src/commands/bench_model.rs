//! `foretoken bench model`: step times of a model, relative to the machine's measured limits.
//!
//! Measures the forward pass alone, without scheduler, sampler or HTTP. Every figure is the median of
//! `--reps` repetitions, interleaved over the row counts so that noise does not hit one figure alone. Two
//! ceilings are measured in the same run: reading all weights once from memory, and the integer dot
//! instruction for every weight and token. A step takes at least the larger of the two; attention is not
//! in the ceilings, so long contexts stay below them.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use foretoken_cache::BLOCK_TOKENS;
use foretoken_kernels::roofline;
use foretoken_model::ExpertsRead;
use foretoken_model::gguf::TensorInfo;
use foretoken_model::step::WantLogits;
use serde::Serialize;

use crate::bare_sequence::Sequence;
use crate::byte_size::human;
use crate::cli::BenchModelArgs;
use crate::load::{self, Loaded};
use crate::output::{self, Table};

/// Tokens per prefill step; the engine's default.
const STEP_TOKENS: usize = 512;
/// Steps per repetition when single steps are timed; one alone is too short to time.
const STEPS_PER_REP: usize = 8;

/// Runs the command.
pub(crate) fn run(args: &BenchModelArgs) -> Result<()> {
    if args.reps == 0 || args.decode == 0 || args.rows.contains(&0) || args.prompt.contains(&0) {
        bail!("--reps, --decode, --rows and --prompt must be at least 1");
    }
    let loaded = load::load_without_head(&args.model)?;
    let ceilings = Ceilings::measure(&loaded)?;
    let mut bench = Bench::new(args, &loaded, ceilings)?;
    let report = bench.run(args)?;
    if args.json { output::json(&report) } else { report.print() }
}

/// The machine's limits, measured.
#[derive(Clone, Copy, Serialize)]
struct Ceilings {
    bandwidth_gb_s: f64,
    vpdpbusd_tops: f64,
}

impl Ceilings {
    fn measure(loaded: &Loaded) -> Result<Self> {
        let compute = loaded.model.compute();
        let bandwidth_gb_s =
            roofline::read_bandwidth_gbps(compute).context("not enough memory to measure its bandwidth")?;
        Ok(Self { bandwidth_gb_s, vpdpbusd_tops: roofline::dot_rate_tops(compute) })
    }
}

/// Bytes to read and products to compute in a step.
#[derive(Clone, Copy)]
struct Work {
    /// Weights that every step reads: all but those of experts.
    shared_bytes: usize,
    kv_token_bytes: usize,
    /// Weights in the layers that are used for every token: of experts, as many as a token visits.
    layer_weights: usize,
    /// Weights in the head, used for every row with logits.
    head_weights: usize,
}

impl Work {
    fn of(loaded: &Loaded) -> Self {
        let model = &loaded.model;
        let of_layers = || loaded.gguf.tensors().filter(|tensor| tensor.name.starts_with("blk."));
        let is_mixture = |tensor: &&TensorInfo| tensor.name.contains("_exps.");
        let mixtures: usize = of_layers().filter(is_mixture).map(TensorInfo::elements).sum();
        let others = of_layers().filter(|tensor| !is_mixture(tensor) && tensor.dims().len() > 1);
        let arch = &model.config().arch;
        let number = |key| loaded.gguf.get_u32(&format!("{arch}.{key}")).ok().flatten().unwrap_or(1) as usize;
        let visited = mixtures / number("expert_count").max(1) * number("expert_used_count");
        let layer_weights = others.map(TensorInfo::elements).sum::<usize>() + visited;
        Self {
            shared_bytes: model.shared_weight_bytes(),
            kv_token_bytes: model.kv_layout().block_bytes() / BLOCK_TOKENS,
            layer_weights,
            head_weights: model.config().vocab * model.config().width,
        }
    }

    /// Lower bound in seconds of the time of a step that reads `expert_bytes` of experts, and the ceiling that sets it.
    fn floor(
        &self,
        ceilings: &Ceilings,
        (tokens, logits): (usize, usize),
        (depth, expert_bytes): (usize, usize),
    ) -> (f64, &'static str) {
        let bytes = self.shared_bytes + expert_bytes + depth * self.kv_token_bytes;
        let reading = bytes as f64 / (ceilings.bandwidth_gb_s * 1e9);
        let products = tokens * self.layer_weights + logits * self.head_weights;
        let multiplying = 2.0 * products as f64 / (ceilings.vpdpbusd_tops * 1e12);
        if reading >= multiplying { (reading, "memory") } else { (multiplying, "vpdpbusd") }
    }
}

#[derive(Serialize)]
struct Report {
    model: String,
    weight_bytes: usize,
    threads: usize,
    isa: String,
    reps: usize,
    ceilings: Ceilings,
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    steps: Vec<Step>,
    /// Fraction of the memory ceiling that decode reaches on an empty context.
    #[serde(skip_serializing_if = "Option::is_none")]
    decode_of_bandwidth: Option<f64>,
    /// Measurements skipped, with the reason.
    skipped: Vec<String>,
}

#[derive(Serialize)]
struct Prefill {
    tokens: usize,
    ms: f64,
    tokens_per_second: f64,
    of_ceiling: f64,
    ceiling: &'static str,
}

#[derive(Serialize)]
struct Decode {
    depth: usize,
    ms: f64,
    tokens_per_second: f64,
    of_ceiling: f64,
    ceiling: &'static str,
}

#[derive(Serialize)]
struct Step {
    rows: usize,
    ms: f64,
    tokens_per_second: f64,
    /// Relative to the first row count measured.
    relative: f64,
    /// Experts that the step read, over all layers; 0 for a model without.
    experts: usize,
    of_ceiling: f64,
    ceiling: &'static str,
}

struct Bench<'m> {
    loaded: &'m Loaded,
    ceilings: Ceilings,
    work: Work,
    sequence: Sequence<'m>,
    tokens: Vec<u32>,
    skipped: Vec<String>,
}

impl<'m> Bench<'m> {
    fn new(args: &BenchModelArgs, loaded: &'m Loaded, ceilings: Ceilings) -> Result<Self> {
        let ctx_max = loaded.model.config().ctx_train;
        let deepest = args.depth.iter().map(|depth| depth + args.decode);
        let asked = deepest.chain(args.prompt.iter().copied()).chain(args.rows.iter().copied());
        let ctx = asked.filter(|&tokens| tokens <= ctx_max).max().unwrap_or(1);
        let sequence = Sequence::new(&loaded.model, ctx)?;
        let tokens = arbitrary_tokens(loaded.model.config().vocab, ctx);
        Ok(Self { loaded, ceilings, work: Work::of(loaded), sequence, tokens, skipped: Vec::new() })
    }

    fn run(&mut self, args: &BenchModelArgs) -> Result<Report> {
        self.feed_up_to(self.tokens.len().min(STEP_TOKENS)); // Warm-up: touches every page.
        let prefill = args.prompt.iter().filter_map(|&tokens| self.prefill(tokens, args.reps)).collect();
        let decode: Vec<Decode> =
            args.depth.iter().filter_map(|&depth| self.decode(depth, args.decode, args.reps)).collect();
        let steps = self.steps(&args.rows, args.reps);
        let compute = self.loaded.model.compute();
        let shallow = decode.iter().find(|decode| decode.depth == 0);
        let weight_bytes = self.loaded.model.weight_bytes();
        let reading_s = weight_bytes as f64 / (self.ceilings.bandwidth_gb_s * 1e9);
        Ok(Report {
            model: self.loaded.model.config().name.clone(),
            weight_bytes,
            threads: compute.pool().threads(),
            isa: compute.isa().to_string(),
            reps: args.reps,
            ceilings: self.ceilings,
            decode_of_bandwidth: shallow.map(|decode| reading_s * decode.tokens_per_second),
            prefill,
            decode,
            steps,
            skipped: std::mem::take(&mut self.skipped),
        })
    }

    /// Whether `tokens` fit into the model's context; records the skipped measurement if not.
    fn fits(&mut self, what: String, tokens: usize) -> bool {
        let fits = tokens <= self.tokens.len();
        if !fits {
            let ctx = self.loaded.model.config().ctx_train;
            self.skipped.push(format!("{what}: the model's context is {ctx} tokens"));
        }
        fits
    }

    /// Bytes of experts that the last step read.
    fn read_bytes(&self) -> usize {
        self.sequence.experts_read().bytes
    }

    fn feed_up_to(&mut self, tokens: usize) {
        self.sequence.truncate(0);
        let mut chunks = self.tokens[..tokens].chunks(STEP_TOKENS).peekable();
        while let Some(chunk) = chunks.next() {
            let want = if chunks.peek().is_none() { WantLogits::Last } else { WantLogits::None };
            self.sequence.feed(chunk, want);
        }
    }

    fn prefill(&mut self, tokens: usize, reps: usize) -> Option<Prefill> {
        if !self.fits(format!("prefill {tokens}"), tokens) {
            return None;
        }
        let seconds = median((0..reps).map(|_| timed(|| self.feed_up_to(tokens))).collect());
        let steps = tokens.div_ceil(STEP_TOKENS);
        let (floor, ceiling) =
            self.work.floor(&self.ceilings, (tokens.div_ceil(steps), 0), (0, self.read_bytes()));
        Some(Prefill {
            tokens,
            ms: seconds * 1e3,
            tokens_per_second: tokens as f64 / seconds,
            of_ceiling: floor * steps as f64 / seconds,
            ceiling,
        })
    }

    fn decode(&mut self, depth: usize, count: usize, reps: usize) -> Option<Decode> {
        if !self.fits(format!("decode at {depth}"), depth + count) {
            return None;
        }
        if depth > 0 {
            self.feed_up_to(depth);
        }
        let mut samples = Vec::with_capacity(reps);
        for _ in 0..reps {
            self.sequence.truncate(depth);
            let (sequence, tokens) = (&mut self.sequence, &self.tokens[depth..depth + count]);
            samples.push(timed(|| {
                for token in tokens.chunks(1) {
                    sequence.feed(token, WantLogits::Last);
                }
            }));
        }
        let seconds = median(samples) / count as f64;
        let (floor, ceiling) = self.work.floor(&self.ceilings, (1, 1), (depth, self.read_bytes()));
        Some(Decode {
            depth,
            ms: seconds * 1e3,
            tokens_per_second: 1.0 / seconds,
            of_ceiling: floor / seconds,
            ceiling,
        })
    }

    fn steps(&mut self, rows: &[usize], reps: usize) -> Vec<Step> {
        let rows: Vec<usize> =
            rows.iter().copied().filter(|&n| self.fits(format!("step of {n}"), n)).collect();
        let mut samples = vec![Vec::with_capacity(reps); rows.len()];
        let mut read = vec![ExpertsRead::default(); rows.len()];
        for _ in 0..reps {
            for ((&n, samples), read) in rows.iter().zip(&mut samples).zip(&mut read) {
                let (sequence, tokens) = (&mut self.sequence, &self.tokens[..n]);
                samples.push(timed(|| {
                    for _ in 0..STEPS_PER_REP {
                        sequence.truncate(0);
                        sequence.feed(tokens, WantLogits::All);
                    }
                }));
                *read = sequence.experts_read();
            }
        }
        let seconds: Vec<f64> = samples.into_iter().map(|s| median(s) / STEPS_PER_REP as f64).collect();
        let step = |((&rows, &s), read): ((&usize, &f64), ExpertsRead)| {
            let (floor, ceiling) = self.work.floor(&self.ceilings, (rows, rows), (0, read.bytes));
            Step {
                rows,
                ms: s * 1e3,
                tokens_per_second: rows as f64 / s,
                relative: s / seconds[0],
                experts: read.experts,
                of_ceiling: floor / s,
                ceiling,
            }
        };
        rows.iter().zip(&seconds).zip(read).map(step).collect()
    }
}

impl Report {
    fn print(&self) -> Result<()> {
        let mut out = output::stdout();
        writeln!(
            out,
            "{}: {} of weights, {} threads, {}, median of {}",
            self.model,
            human(self.weight_bytes as u64),
            self.threads,
            self.isa,
            self.reps
        )?;
        let Ceilings { bandwidth_gb_s, vpdpbusd_tops } = self.ceilings;
        writeln!(
            out,
            "ceilings: {bandwidth_gb_s:.1} GB/s from memory, {vpdpbusd_tops:.2} TOPS of vpdpbusd\n"
        )?;
        drop(out);
        let mut table = Table::new(&["test", "ms", "tokens/s", "step 1", "of ceiling", "set by"]);
        let mut row = |test: String, ms: f64, rate: f64, relative: Option<f64>, share: f64, by: &str| {
            let relative = relative.map_or_else(String::new, |r| format!("{r:.2}x"));
            let share = format!("{:.0} %", share * 100.0);
            table.row(vec![test, format!("{ms:.2}"), format!("{rate:.1}"), relative, share, by.to_owned()]);
        };
        for p in &self.prefill {
            row(format!("prefill {}", p.tokens), p.ms, p.tokens_per_second, None, p.of_ceiling, p.ceiling);
        }
        for d in &self.decode {
            row(format!("decode at {}", d.depth), d.ms, d.tokens_per_second, None, d.of_ceiling, d.ceiling);
        }
        for s in &self.steps {
            let test = match s.experts {
                0 => format!("step of {}", s.rows),
                experts => format!("step of {}, {experts} experts", s.rows),
            };
            row(test, s.ms, s.tokens_per_second, Some(s.relative), s.of_ceiling, s.ceiling);
        }
        table.print()?;
        let mut out = output::stdout();
        for reason in &self.skipped {
            writeln!(out, "skipped {reason}")?;
        }
        Ok(())
    }
}

/// Arbitrary token ids that differ, so that rows are sent to experts that differ.
fn arbitrary_tokens(vocab: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| (i.wrapping_mul(7_919) + 11) % vocab).map(|id| id as u32).collect()
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 { samples[middle] } else { (samples[middle - 1] + samples[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both_middles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn one_token_is_memory_bound_and_many_are_compute_bound() {
        let work = Work {
            shared_bytes: 800_000,
            kv_token_bytes: 1_000,
            layer_weights: 900_000,
            head_weights: 100_000,
        };
        let ceilings = Ceilings { bandwidth_gb_s: 1.0, vpdpbusd_tops: 0.1 };
        assert_eq!(work.floor(&ceilings, (1, 1), (0, 200_000)), (1e-3, "memory"));
        assert_eq!(work.floor(&ceilings, (1, 1), (1_000, 200_000)), (2e-3, "memory"));
        let (seconds, by) = work.floor(&ceilings, (1_000, 0), (0, 0));
        assert_eq!(by, "vpdpbusd");
        assert!((seconds - 0.018).abs() < 1e-12);
    }
}
