//! `foretoken perplexity`: perplexity of a text under a model.
//!
//! The same windows and the same scored half of each window as `llama-perplexity`, so that the two are
//! comparable: windows of `ctx` tokens without overlap, the first token of each replaced by BOS where
//! the model wants one, and the predictions of the tokens from `ctx/2 + 1` on scored.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use foretoken_model::step::WantLogits;
use serde_json::json;

use crate::bare_sequence::Sequence;
use crate::cli::PerplexityArgs;
use crate::load::{self, Loaded};
use crate::output;

/// Tokens per step; the result does not depend on it.
const STEP_TOKENS: usize = 256;

/// Runs the command.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    if args.ctx < 4 {
        bail!("--ctx must be at least 4 tokens");
    }
    let text = read_text(&args.file)?;
    let loaded = load::load_without_head(&args.model)?;
    let tokens = loaded.tokenizer.encode(&text, true, false);
    if tokens.len() < 2 * args.ctx {
        bail!(
            "{} has {} tokens; windows of {} tokens need at least {}: use a longer text or a smaller --ctx",
            args.file.display(),
            tokens.len(),
            args.ctx,
            2 * args.ctx
        );
    }
    let windows = (tokens.len() / args.ctx).min(args.chunks.unwrap_or(usize::MAX));
    let mut sequence = Sequence::new(&loaded.model, args.ctx)?;
    let mut sums = Sums::default();
    let mut out = output::stdout();
    for (index, window) in tokens.chunks_exact(args.ctx).take(windows).enumerate() {
        measure(&mut sequence, &loaded, window, &mut sums);
        if !args.json {
            writeln!(out, "window {} of {windows}: perplexity so far {:.4}", index + 1, sums.perplexity())?;
        }
    }
    drop(out);
    report(args, windows, &sums)
}

fn read_text(file: &Path) -> Result<String> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    result.with_context(|| format!("cannot read the text from {}", file.display()))?;
    // As llama.cpp reads files.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Adds the scored half of one window to the sums.
fn measure(sequence: &mut Sequence<'_>, loaded: &Loaded, window: &[u32], sums: &mut Sums) {
    let first = window.len() / 2;
    let mut fed = window.to_vec();
    if let Some(bos) = loaded.tokenizer.bos().filter(|_| loaded.tokenizer.add_bos()) {
        fed[0] = bos;
    }
    sequence.truncate(0);
    for chunk in fed[..first].chunks(STEP_TOKENS) {
        sequence.feed(chunk, WantLogits::None);
    }
    // The prediction of the window's last token has no target in the window.
    let mut target = first + 1;
    for chunk in fed[first..window.len() - 1].chunks(STEP_TOKENS) {
        let logits = sequence.feed(chunk, WantLogits::All);
        for row in 0..logits.len() {
            sums.add(negative_log_likelihood(logits.row(row), window[target] as usize));
            target += 1;
        }
    }
}

/// `-ln p(token)` under the softmax of a row of logits.
fn negative_log_likelihood(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    sum.ln() - f64::from(logits[token] - max)
}

#[derive(Default)]
struct Sums {
    count: usize,
    nll: f64,
    nll_squared: f64,
}

impl Sums {
    fn add(&mut self, nll: f64) {
        self.count += 1;
        self.nll += nll;
        self.nll_squared += nll * nll;
    }

    fn perplexity(&self) -> f64 {
        (self.nll / self.count as f64).exp()
    }

    /// The standard error of the perplexity.
    fn error(&self) -> f64 {
        let (n, mean) = (self.count as f64, self.nll / self.count as f64);
        let variance = (self.nll_squared / n - mean * mean).max(0.0);
        (variance / (n - 1.0).max(1.0)).sqrt() * self.perplexity()
    }
}

fn report(args: &PerplexityArgs, windows: usize, sums: &Sums) -> Result<()> {
    let (perplexity, error) = (sums.perplexity(), sums.error());
    if args.json {
        return output::json(&json!({
            "perplexity": perplexity,
            "error": error,
            "tokens": sums.count,
            "windows": windows,
            "ctx": args.ctx,
        }));
    }
    let mut out = output::stdout();
    writeln!(out, "{} tokens scored in {windows} windows of {}; +/- {error:.5}", sums.count, args.ctx)?;
    writeln!(out, "perplexity: {perplexity:.4}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_give_the_size_of_the_vocabulary() {
        let mut sums = Sums::default();
        for token in [0, 3, 7] {
            sums.add(negative_log_likelihood(&[-2.5; 8], token));
        }
        assert!((sums.perplexity() - 8.0).abs() < 1e-9);
        assert!(sums.error().abs() < 1e-6);
    }

    #[test]
    fn likelihoods_are_those_of_a_softmax() {
        // softmax([ln 1, ln 2, ln 5]) = [1/8, 2/8, 5/8], also with a large constant added.
        let logits = [1f32, 2.0, 5.0].map(|x| x.ln() + 64.0);
        for (token, p) in [(0, 0.125f64), (1, 0.25), (2, 0.625)] {
            assert!((negative_log_likelihood(&logits, token) + p.ln()).abs() < 1e-5);
        }
    }

    #[test]
    fn the_error_is_the_standard_error_of_the_mean_carried_through_exp() {
        let mut sums = Sums::default();
        sums.add(1.0);
        sums.add(3.0);
        // mean 2, variance 1, standard error sqrt(1 / (2 - 1)).
        assert!((sums.error() - 2f64.exp()).abs() < 1e-9);
    }
}
