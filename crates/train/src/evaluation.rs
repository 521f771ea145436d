//! Acceptance of a head's draft tokens on held-out answers, by depth.
//!
//! Exact without running the engine: where draft tokens are accepted, what follows them is the recorded text, so a pass over
//! that text tells for every chain at which depth the first draft token would be rejected. Greedy draft tokens are compared with greedy
//! answers. Sampled ones are drawn with the noise that the target was drawn with (Gumbel-max, `exact` in the engine): given the
//! recorded token that noise is a truncated Gumbel, which is drawn here. The invariant: the noise is a function of seed and
//! place, so two heads are compared under the same dice.

use std::path::Path;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::Serialize;

use crate::answers::TEMPERATURE;
use crate::cut::Cut;
use crate::error::TrainError;
use crate::examples::{Batch, Example, starts};
use crate::head::Head;
use crate::loss::CutOutput;
use crate::recorded::{Record, digest, mix};
use crate::trunk::Trunk;

/// Chains in a batch of the evaluation.
const BATCH_CHAINS: usize = 1024;

/// How often draft tokens of one depth were accepted, where all before them were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Accepted draft tokens.
    pub accepted: usize,
    /// Draft tokens.
    pub drafted: usize,
}

impl Rate {
    /// The fraction; 0 where nothing was drafted.
    pub fn value(self) -> f64 {
        self.accepted as f64 / self.drafted.max(1) as f64
    }
}

/// Acceptance by depth.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Acceptance {
    /// At temperature 0.
    pub greedy: Vec<Rate>,
    /// At temperature 0.8, coupled.
    pub sampled: Vec<Rate>,
}

/// Tokens that a step yields on average if it drafts as many tokens as there are rates.
pub fn tokens_per_step(rates: &[Rate]) -> f64 {
    let path = rates.iter().scan(1.0, |path, rate| {
        *path *= rate.value();
        Some(*path)
    });
    1.0 + path.sum::<f64>()
}

impl Acceptance {
    /// One figure to compare heads by: tokens per step, the mean of both temperatures.
    pub fn score(&self) -> f64 {
        let parts = [&self.greedy, &self.sampled].map(|rates| (tokens_per_step(rates), rates));
        let measured = || parts.iter().filter(|(_, rates)| rates.iter().any(|rate| rate.drafted > 0));
        measured().map(|(tokens, _)| tokens).sum::<f64>() / measured().count().max(1) as f64
    }
}

/// Held-out answers with what the target's draws are made of.
pub struct HeldOut {
    texts: Vec<Text>,
    seed: u64,
}

struct Text {
    example: Example,
    /// Of sampled answers, for each start: the logarithm of the sum of exponentials of the logits over the temperature.
    log_sums: Vec<f32>,
}

impl HeldOut {
    /// The first of `records` that together start up to `chains_max` chains at each temperature, read by the trunk.
    ///
    /// # Errors
    /// No record with an answer of at least two tokens.
    pub fn read<'r>(
        trunk: &mut Trunk,
        records: impl Iterator<Item = &'r Record>,
        chains_max: usize,
        seed: u64,
    ) -> Result<HeldOut, TrainError> {
        let (mut texts, mut chains) = (Vec::new(), [0; 2]);
        for record in records {
            let starts = starts(record.prompt, record.tokens.len());
            let so_far = &mut chains[usize::from(record.greedy)];
            if starts.is_empty() || *so_far >= chains_max {
                continue;
            }
            *so_far += starts.len();
            let mut log_sums = Vec::new();
            let hidden = if record.greedy {
                trunk.hidden(&record.tokens)
            } else {
                trunk.hidden_and_logits(&record.tokens, |row, logits| {
                    if starts.contains(&row) {
                        log_sums.push(log_sum_exp(logits, TEMPERATURE));
                    }
                })
            };
            let (tokens, prompt, greedy) = (record.tokens.clone(), record.prompt, record.greedy);
            texts.push(Text { example: Example { tokens, prompt, greedy, hidden }, log_sums });
        }
        if texts.is_empty() {
            let message = "no held-out answer to evaluate on; give more prompts or more --tokens";
            return Err(TrainError::TooLittle(message.into()));
        }
        Ok(HeldOut { texts, seed })
    }

    /// Chains of greedy and of sampled answers.
    pub fn chains(&self) -> (usize, usize) {
        let of = |greedy| {
            let texts = self.texts.iter().filter(move |text| text.example.greedy == greedy);
            texts.map(|text| text.example.starts().len()).sum()
        };
        (of(true), of(false))
    }

    /// The acceptance of a head's draft tokens up to a depth.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn acceptance(
        &self,
        trunk: &Trunk,
        head: &Head,
        cut: &Cut,
        depths: usize,
    ) -> Result<Acceptance, TrainError> {
        let output = CutOutput::new(trunk, cut)?;
        let none = || vec![Rate::default(); depths];
        let mut acceptance = Acceptance { greedy: none(), sampled: none() };
        for greedy in [true, false] {
            let rates = if greedy { &mut acceptance.greedy } else { &mut acceptance.sampled };
            let texts = self.texts.iter().filter(|text| text.example.greedy == greedy);
            for group in groups(texts) {
                self.measure(trunk, head, (cut, &output), &group, rates)?;
            }
        }
        Ok(acceptance)
    }

    /// Adds the acceptance on some texts, all greedy or all sampled.
    fn measure(
        &self,
        trunk: &Trunk,
        head: &Head,
        (cut, output): (&Cut, &CutOutput),
        texts: &[&Text],
        rates: &mut [Rate],
    ) -> Result<(), TrainError> {
        let examples: Vec<&Example> = texts.iter().map(|text| &text.example).collect();
        let batch = Batch::new(trunk, &examples, rates.len());
        let noise = if examples[0].greedy { None } else { Some(self.noise(texts, &batch, (cut, output))?) };
        let mut alive = vec![true; batch.len()];
        for (depth, (rows, rate)) in head.forward(&batch)?.iter().zip(rates).enumerate() {
            let tokens = drafts(rows, depth, &batch, output, noise.as_deref())?;
            for (chain, draft) in tokens.into_iter().enumerate() {
                if !alive[chain] || depth >= batch.left[chain] {
                    alive[chain] = false;
                    continue;
                }
                alive[chain] = cut.rows()[draft] == batch.next[chain + depth];
                rate.drafted += 1;
                rate.accepted += usize::from(alive[chain]);
            }
        }
        Ok(())
    }

    /// The noise of every token of the cut at every chain's start, `[chains][cut]`, given that the recorded token won.
    fn noise(
        &self,
        texts: &[&Text],
        batch: &Batch,
        (cut, output): (&Cut, &CutOutput),
    ) -> Result<Vec<f32>, TrainError> {
        let log_sums: Vec<f32> = texts.iter().flat_map(|text| &text.log_sums).copied().collect();
        let place = |text: &&Text| {
            let text_seed =
                digest(&text.example.tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>());
            text.example.starts().map(move |start| mix(self.seed ^ text_seed ^ mix(start as u64)))
        };
        let places: Vec<u64> = texts.iter().flat_map(place).collect();
        let mut rows = output.trunk_logits(batch)?;
        rows.par_chunks_mut(output.count()).enumerate().for_each(|(chain, row)| {
            let place = places[chain];
            let uniform = |n: u64| (mix(place ^ mix(n + 1)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17;
            // The largest perturbed log-probability of all tokens is a Gumbel by itself.
            let winner = -(-uniform(u64::MAX - 1).ln()).ln();
            let recorded = cut.index(batch.next[chain]);
            for (at, logit) in row.iter_mut().enumerate() {
                let log_p = f64::from(*logit / TEMPERATURE - log_sums[chain]);
                let perturbed = if recorded == Some(at) {
                    winner
                } else {
                    let exponential = -uniform(u64::from(cut.rows()[at])).ln();
                    -((-winner).exp() + (-log_p).exp() * exponential).ln()
                };
                *logit = (perturbed - log_p) as f32;
            }
        });
        Ok(rows)
    }
}

/// The row of the cut that each chain drafts at a depth: the most probable one, or with noise the one that wins.
fn drafts(
    rows: &Tensor,
    depth: usize,
    batch: &Batch,
    output: &CutOutput,
    noise: Option<&[f32]>,
) -> Result<Vec<usize>, TrainError> {
    let logits = output.logits(rows)?;
    let count = output.count();
    let draft = |(chain, row): (usize, &[f32])| match noise {
        Some(noise) if depth < batch.left[chain] => {
            let noise = &noise[(chain + depth) * count..][..count];
            argmax(row.iter().zip(noise).map(|(logit, noise)| logit / TEMPERATURE + noise))
        }
        _ => argmax(row.iter().copied()),
    };
    Ok(logits.par_chunks(count).enumerate().map(draft).collect())
}

fn argmax(values: impl Iterator<Item = f32>) -> usize {
    let larger = |best: (usize, f32), (at, value)| if value > best.1 { (at, value) } else { best };
    values.enumerate().fold((0, f32::NEG_INFINITY), larger).0
}

fn log_sum_exp(logits: &[f32], temperature: f32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from((x - max) / temperature).exp()).sum();
    max / temperature + sum.ln() as f32
}

/// Texts in groups of about as many chains as a batch has.
fn groups<'t>(texts: impl Iterator<Item = &'t Text>) -> Vec<Vec<&'t Text>> {
    let (mut groups, mut chains) = (Vec::<Vec<&Text>>::new(), BATCH_CHAINS);
    for text in texts {
        if chains >= BATCH_CHAINS {
            groups.push(Vec::new());
            chains = 0;
        }
        chains += text.example.starts().len();
        groups.last_mut().expect("pushed at the first text").push(text);
    }
    groups
}

/// The acceptance of the head in a file on held-out texts.
///
/// # Errors
/// A file that is not a head of the trunk, or not enough memory.
pub fn evaluate_file(
    path: &Path,
    trunk: &Trunk,
    held_out: &HeldOut,
    depths: usize,
) -> Result<Acceptance, TrainError> {
    let file = crate::file::read(path, trunk.model().gguf(), trunk.model().config())?;
    let head = Head::from_weights(file.shape, &file.weights)?;
    held_out.acceptance(trunk, &head, &file.cut, depths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_per_step_follow_the_path() {
        let rate = |accepted, drafted| Rate { accepted, drafted };
        assert_eq!(tokens_per_step(&[]), 1.0);
        assert_eq!(tokens_per_step(&[rate(1, 2), rate(1, 4)]), 1.0 + 0.5 + 0.125);
        let acceptance = Acceptance { greedy: vec![rate(1, 2)], sampled: vec![rate(0, 0)] };
        assert_eq!(acceptance.score(), 1.5, "a temperature without texts has no part in it");
    }

    #[test]
    fn the_logarithm_of_a_sum_is_stable() {
        assert!((log_sum_exp(&[1000.0, 1000.0], 1.0) - (1000.0 + 2f32.ln())).abs() < 1e-4);
        assert!((log_sum_exp(&[1.0, 2.0], 0.5) - (2f32.exp() + 4f32.exp()).ln()).abs() < 1e-5);
    }
}
