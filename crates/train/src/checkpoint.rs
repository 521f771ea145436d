//! The state of training in a file of the work folder: weights, the optimiser's averages, the best weights, the evaluations.
//!
//! A GGUF, since its reader is bounded. The invariant: a state is only loaded by a training with the same settings.

use std::path::{Path, PathBuf};

use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::file;
use crate::head::Head;
use crate::optimizer::AdamW;
use crate::shape::HeadShape;

const SETTINGS: &str = "foretoken.checkpoint.settings";
const UPDATES: &str = "foretoken.checkpoint.updates";
const STATE: &str = "foretoken.checkpoint.state";

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Updates before it.
    pub updates: usize,
    /// Tokens per step, the mean of both temperatures.
    pub score: f64,
    /// Mean divergence from the target since the evaluation before, by depth, in nats.
    pub loss: Vec<f64>,
    /// Acceptance of greedy draft tokens by depth, where all before them were accepted.
    pub greedy: Vec<f64>,
    /// Acceptance of sampled draft tokens, likewise.
    pub sampled: Vec<f64>,
}

/// A state of training.
pub(crate) struct State {
    pub(crate) head: Head,
    pub(crate) optimizer: AdamW,
    /// The weights of the best evaluation; empty before the first.
    pub(crate) best: Vec<Vec<f32>>,
    pub(crate) history: Vec<Point>,
    pub(crate) updates: usize,
    /// Time spent.
    pub(crate) seconds: f64,
}

impl State {
    pub(crate) fn new(head: Head) -> State {
        let optimizer = AdamW::new(head.vars());
        State { head, optimizer, best: Vec::new(), history: Vec::new(), updates: 0, seconds: 0.0 }
    }
}

/// What a state has beside tensors.
#[derive(Serialize, Deserialize)]
struct Described {
    history: Vec<Point>,
    seconds: f64,
}

/// Where states are saved; nowhere if it has no path.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    path: Option<PathBuf>,
}

impl Checkpoint {
    /// In this file.
    pub fn at(path: &Path) -> Checkpoint {
        Checkpoint { path: Some(path.into()) }
    }

    pub(crate) fn save(&self, settings: u64, state: &State) -> Result<(), TrainError> {
        let Some(path) = &self.path else { return Ok(()) };
        let described = Described { history: state.history.clone(), seconds: state.seconds };
        let described = serde_json::to_string(&described).expect("numbers and lists");
        let mut writer = GgufWriter::new()
            .meta(SETTINGS, Meta::U64(settings))
            .meta(UPDATES, state.updates as u32)
            .meta(STATE, described.as_str());
        let weights = state.head.weights()?;
        let groups = [
            ("weights", &weights),
            ("first", &state.optimizer.first),
            ("second", &state.optimizer.second),
            ("best", &state.best),
        ];
        for (group, tensors) in groups {
            for (at, tensor) in tensors.iter().enumerate() {
                writer = writer.tensor_f32(&format!("{group}.{at}"), &[tensor.len() as u64], tensor);
            }
        }
        file::write(path, &writer.finish())
    }

    /// The saved state, or `None` if there is none.
    pub(crate) fn load(&self, settings: u64, shape: &HeadShape) -> Result<Option<State>, TrainError> {
        let Some(path) = self.path.as_ref().filter(|path| path.exists()) else { return Ok(None) };
        let fail = |message: &str| TrainError::File { path: path.clone(), message: message.into() };
        let gguf = Gguf::open(path)?;
        if gguf.get_u64(SETTINGS)? != Some(settings) {
            return Err(fail(
                "is the state of a training with other options; delete it or choose another --work folder",
            ));
        }
        let damaged = || fail("is damaged; delete it to train from the start");
        let updates = gguf.get_u32(UPDATES)?.ok_or_else(damaged)?;
        let described: Option<Described> =
            serde_json::from_str(gguf.get_str(STATE)?.ok_or_else(damaged)?).ok();
        let Described { history, seconds } = described.ok_or_else(damaged)?;
        let group = |name: &str| -> Option<Vec<Vec<f32>>> {
            let tensors = shape.tensors();
            let tensors = tensors.iter().enumerate().map(|(at, tensor)| {
                let info = gguf.tensor(&format!("{name}.{at}"))?;
                let bytes = gguf.bytes(info);
                let whole =
                    info.elements() == tensor.rows * tensor.cols && bytes.len() == 4 * info.elements();
                let (numbers, _) = bytes.as_chunks::<4>();
                whole.then(|| numbers.iter().map(|&number| f32::from_le_bytes(number)).collect())
            });
            tensors.collect()
        };
        let parts = (group("weights"), group("first"), group("second"));
        let (Some(weights), Some(first), Some(second)) = parts else { return Err(damaged()) };
        Ok(Some(State {
            head: Head::from_weights(shape.clone(), &weights)?,
            optimizer: AdamW { first, second, updates },
            best: group("best").unwrap_or_default(),
            history,
            updates: updates as usize,
            seconds,
        }))
    }
}
