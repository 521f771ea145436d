//! The training loop: batches of recorded answers, updates, evaluations and checkpoints.
//!
//! Hidden rows and targets are computed from the recorded tokens when a batch needs them, so nothing but tokens is stored.
//! The invariant: the weights after an update are a function of records, options and the number of updates; a run that is
//! interrupted and resumed ends with the bytes of one that is not. A time limit breaks this, since the learning rate then
//! follows the clock.

use std::time::Duration;

use candle_core::Tensor;

use crate::checkpoint::{Checkpoint, Point, State};
use crate::cut::Cut;
use crate::error::TrainError;
use crate::evaluation::{Acceptance, HeldOut};
use crate::examples::{Batch, Example, starts};
use crate::head::{Head, Start};
use crate::loss::{CutOutput, Loss};
use crate::optimizer;
use crate::recorded::{Record, digest, mix};
use crate::shape::HeadShape;
use crate::trunk::Trunk;

/// What training is like.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// Steps of the recursion.
    pub depths: usize,
    /// Factor of the loss from a depth to the next.
    pub depth_factor: f32,
    /// Passes over the answers.
    pub epochs: usize,
    /// Chains in a batch, about.
    pub batch: usize,
    /// The largest learning rate.
    pub rate: f32,
    /// Updates over which the learning rate grows.
    pub warm_up: usize,
    /// The weights to start from.
    pub start: Start,
    /// Decides initial weights and the order of texts.
    pub seed: u64,
    /// Updates between evaluations.
    pub evaluate_every: usize,
    /// Evaluations without a better one after which training ends.
    pub patience: usize,
    /// Training ends about then; the learning rate falls accordingly.
    pub limit: Option<Duration>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            depths: 3,
            depth_factor: 0.8,
            epochs: 2,
            batch: 1024,
            rate: 1e-3,
            warm_up: 60,
            start: Start::Random,
            seed: 1,
            evaluate_every: 100,
            patience: 6,
            limit: None,
        }
    }
}

/// How far training is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Updates so far, and of the whole training.
    pub updates: usize,
    /// See `updates`.
    pub updates_total: usize,
    /// Mean divergence from the target's distribution since the last report, by depth, in nats.
    pub loss: Vec<f64>,
    /// Chains per second.
    pub chains_per_second: f64,
    /// Norm of the last gradient.
    pub gradient: f64,
    /// The learning rate of the last update.
    pub rate: f32,
    /// Estimated time to the end.
    pub left: Duration,
    /// If there was an evaluation.
    pub acceptance: Option<Acceptance>,
}

/// A trained head.
pub struct Trained {
    /// The best weights found, in the order of [`HeadShape::tensors`].
    pub weights: Vec<Vec<f32>>,
    /// The evaluations.
    pub history: Vec<Point>,
    /// Updates.
    pub updates: usize,
    /// Whether the caller ended it.
    pub interrupted: bool,
}

/// See the [module](self).
pub struct Trainer<'a> {
    /// The model.
    pub trunk: &'a mut Trunk,
    /// The head's shape.
    pub shape: HeadShape,
    /// The rows of the output.
    pub cut: &'a Cut,
    /// The answers to train on.
    pub records: Vec<&'a Record>,
    /// The answers to evaluate on.
    pub held_out: &'a HeldOut,
    /// What training is like.
    pub options: TrainOptions,
    /// Time since any fixed moment.
    pub clock: &'a dyn Fn() -> Duration,
}

/// Losses since the last report.
struct Meter {
    losses: Vec<Loss>,
    chains: usize,
    since: Duration,
}

impl Trainer<'_> {
    /// Trains from the checkpoint's state, or from the start where it has none, and saves to it at every evaluation.
    /// `go_on` is called after every update; training ends, with the state saved, when it returns false.
    ///
    /// # Errors
    /// Too few answers, a checkpoint that can't be read or written, or not enough memory.
    pub fn run(
        &mut self,
        checkpoint: &Checkpoint,
        mut go_on: impl FnMut(&Progress) -> bool,
    ) -> Result<Trained, TrainError> {
        let batches = self.batches();
        if batches.is_empty() {
            let message = "no answer to train on; give more prompts or more --tokens";
            return Err(TrainError::TooLittle(message.into()));
        }
        let output = CutOutput::new(self.trunk, self.cut)?;
        let settings = self.settings(&batches);
        let mut point = self.begin(checkpoint, settings)?;
        let (mut first_update, begin) = (point.updates, (self.clock)());
        let spent_before = point.seconds;
        let mut meter = self.meter();
        while point.updates < batches.len() && !self.ends_early(&point) {
            let spent = spent_before + ((self.clock)() - begin).as_secs_f64();
            let done = self.done(point.updates, batches.len(), spent);
            if done >= 1.0 {
                break;
            }
            let warm_up = self.options.warm_up.min(batches.len() / 4).max(1) as f64 / batches.len() as f64;
            let rate = optimizer::rate(self.options.rate, done.max(0.1 / batches.len() as f64), warm_up);
            let gradient = self.update(&batches[point.updates], &output, &mut point, rate, &mut meter)?;
            let last = point.updates == batches.len();
            let mut acceptance = None;
            if last || point.updates.is_multiple_of(self.options.evaluate_every) {
                point.seconds = spent_before + ((self.clock)() - begin).as_secs_f64();
                acceptance = Some(self.evaluate(&mut point, &meter)?);
                checkpoint.save(settings, &point)?;
            }
            point.seconds = spent_before + ((self.clock)() - begin).as_secs_f64();
            let progress = self.progress(&point, batches.len(), &meter, (gradient, rate), acceptance);
            if progress.acceptance.is_some() {
                meter = self.meter();
                first_update = point.updates;
            }
            if !go_on(&progress) {
                point.seconds = spent_before + ((self.clock)() - begin).as_secs_f64();
                checkpoint.save(settings, &point)?;
                return trained(point, true);
            }
        }
        if point.updates > first_update {
            self.evaluate(&mut point, &meter)?;
            checkpoint.save(settings, &point)?;
        }
        trained(point, false)
    }

    /// The part of training that is done, by updates or by the clock.
    fn done(&self, updates: usize, total: usize, spent: f64) -> f64 {
        let by_updates = updates as f64 / total as f64;
        self.options.limit.map_or(by_updates, |limit| by_updates.max(spent / limit.as_secs_f64()))
    }

    fn ends_early(&self, point: &State) -> bool {
        let best = point.history.iter().map(|p| p.score).fold(0.0, f64::max);
        let since = point.history.iter().rev().take_while(|p| p.score < best).count();
        since >= self.options.patience
    }

    fn begin(&self, checkpoint: &Checkpoint, settings: u64) -> Result<State, TrainError> {
        if let Some(state) = checkpoint.load(settings, &self.shape)? {
            return Ok(state);
        }
        let head = Head::start(self.shape.clone(), self.trunk, self.options.start, self.options.seed)?;
        Ok(State::new(head))
    }

    fn meter(&self) -> Meter {
        Meter { losses: vec![Loss::default(); self.options.depths], chains: 0, since: (self.clock)() }
    }

    /// The texts of each batch, over all epochs.
    fn batches(&self) -> Vec<Vec<usize>> {
        let mut batches = Vec::new();
        for epoch in 0..self.options.epochs {
            let usable =
                |&at: &usize| !starts(self.records[at].prompt, self.records[at].tokens.len()).is_empty();
            let mut order: Vec<usize> = (0..self.records.len()).filter(usable).collect();
            for last in (1..order.len()).rev() {
                let random = mix(self.options.seed ^ mix((epoch as u64) << 32 | last as u64));
                order.swap(last, (random % (last as u64 + 1)) as usize);
            }
            let (mut batch, mut chains) = (Vec::new(), 0);
            for at in order {
                batch.push(at);
                chains += starts(self.records[at].prompt, self.records[at].tokens.len()).len();
                if chains >= self.options.batch {
                    batches.push(std::mem::take(&mut batch));
                    chains = 0;
                }
            }
            // What is left over is a batch of its own only where there is no other.
            if batches.is_empty() && !batch.is_empty() {
                batches.push(batch);
            }
        }
        batches
    }

    /// Changes with whatever decides the weights.
    fn settings(&self, batches: &[Vec<usize>]) -> u64 {
        let options = TrainOptions { limit: None, patience: 0, ..self.options.clone() };
        let texts =
            batches.iter().flatten().map(|&at| digest(&self.records[at].tokens[0].to_le_bytes()) ^ at as u64);
        let described = format!("{:?} {:?} {options:?}", self.shape, self.cut);
        texts.fold(digest(described.as_bytes()), |hash, text| mix(hash ^ text))
    }

    /// One update on a batch. Returns the norm of the gradient.
    fn update(
        &mut self,
        texts: &[usize],
        output: &CutOutput,
        state: &mut State,
        rate: f32,
        meter: &mut Meter,
    ) -> Result<f64, TrainError> {
        let mut examples = Vec::with_capacity(texts.len());
        for &at in texts {
            let Record { tokens, prompt, greedy, .. } = self.records[at].clone();
            let hidden = self.trunk.hidden(&tokens);
            examples.push(Example { tokens, prompt, greedy, hidden });
        }
        let examples: Vec<&Example> = examples.iter().collect();
        let batch = Batch::new(self.trunk, &examples, self.options.depths);
        let (surrogate, losses) = self.losses(&batch, output, &state.head)?;
        let grads = surrogate.backward()?;
        let norm = state.optimizer.update(state.head.vars(), &grads, rate)?;
        state.updates += 1;
        meter.chains += batch.len();
        for (sum, loss) in meter.losses.iter_mut().zip(losses) {
            sum.sum += loss.sum;
            sum.count += loss.count;
        }
        Ok(norm)
    }

    /// The losses of a batch by depth, and a scalar whose gradient is that of their weighted sum.
    fn losses(
        &self,
        batch: &Batch,
        output: &CutOutput,
        head: &Head,
    ) -> Result<(Tensor, Vec<Loss>), TrainError> {
        let targets = output.targets(batch, self.cut)?;
        let depths = self.options.depths;
        let weights: Vec<f32> =
            (0..depths).map(|depth| self.options.depth_factor.powi(depth as i32)).collect();
        let norm = weights.iter().sum::<f32>() * batch.len() as f32;
        let mut losses = Vec::with_capacity(depths);
        let mut surrogate: Option<Tensor> = None;
        for (depth, rows) in head.forward(batch)?.iter().enumerate() {
            let (loss, gradient) = output.loss((rows, depth), batch, &targets, weights[depth] / norm)?;
            losses.push(loss);
            let part = (rows * gradient)?.sum_all()?;
            surrogate = Some(match surrogate {
                Some(so_far) => (so_far + part)?,
                None => part,
            });
        }
        let surrogate = surrogate
            .ok_or_else(|| TrainError::Option { option: "--steps", message: "must be at least 1".into() })?;
        Ok((surrogate, losses))
    }

    fn evaluate(&self, state: &mut State, meter: &Meter) -> Result<Acceptance, TrainError> {
        let acceptance = self.held_out.acceptance(self.trunk, &state.head, self.cut, self.options.depths)?;
        let score = acceptance.score();
        let best = state.history.iter().map(|point| point.score).fold(0.0, f64::max);
        if score > best || state.best.is_empty() {
            state.best = state.head.weights()?;
        }
        let loss = means(&meter.losses);
        let rates = |rates: &[crate::evaluation::Rate]| rates.iter().map(|rate| rate.value()).collect();
        let (greedy, sampled) = (rates(&acceptance.greedy), rates(&acceptance.sampled));
        state.history.push(Point { updates: state.updates, score, loss, greedy, sampled });
        Ok(acceptance)
    }

    fn progress(
        &self,
        state: &State,
        total: usize,
        meter: &Meter,
        (gradient, rate): (f64, f32),
        acceptance: Option<Acceptance>,
    ) -> Progress {
        let seconds = ((self.clock)() - meter.since).as_secs_f64().max(1e-9);
        let since = state.updates
            - state.history.iter().rev().map(|p| p.updates).find(|&at| at < state.updates).unwrap_or(0);
        let left = seconds / since.max(1) as f64 * (total - state.updates) as f64;
        let left =
            self.options.limit.map_or(left, |limit| left.min((limit.as_secs_f64() - state.seconds).max(0.0)));
        Progress {
            updates: state.updates,
            updates_total: total,
            loss: means(&meter.losses),
            chains_per_second: meter.chains as f64 / seconds,
            gradient,
            rate,
            left: Duration::from_secs_f64(left),
            acceptance,
        }
    }
}

fn means(losses: &[Loss]) -> Vec<f64> {
    losses.iter().map(|loss| loss.sum / loss.count.max(1) as f64).collect()
}

fn trained(state: State, interrupted: bool) -> Result<Trained, TrainError> {
    let weights = if state.best.is_empty() { state.head.weights()? } else { state.best };
    Ok(Trained { weights, history: state.history, updates: state.updates, interrupted })
}
