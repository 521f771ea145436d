//! One step of the model: any mixture of prefill chunks, single new tokens and draft trees.
//!
//! A step is a list of sequences, each with its new tokens and its KV. The rows of the step are the new
//! tokens of all sequences, concatenated; the forward pass sees only rows and positions, not the kind of work that
//! a row belongs to. This makes a token's logits independent of the other rows of the step.

use foretoken_kernels::Activations;
use foretoken_kernels::kv::KvView;
use foretoken_kernels::rope::RopeTable;

use crate::layers::{ExpertsRead, ExpertsScratch, LatentScratch};
use crate::prediction::PredictionScratch;

/// Which rows of a sequence need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantLogits {
    /// None: a prefill chunk before the end of the prompt.
    None,
    /// The last row only.
    Last,
    /// Every row, in order.
    All,
}

/// The new tokens of one sequence.
pub struct SeqStep<'s, 'k> {
    /// Token ids, at least one. With `parents`, parents precede their children.
    pub tokens: &'s [u32],
    /// `None`: a chain. Otherwise the index of each row's parent among `tokens`, -1 for the committed context.
    pub parents: Option<&'s [i32]>,
    /// Tokens whose KV is stored; row `i` is written to slot `committed + i`.
    pub committed: usize,
    /// The hidden row of the last committed token, as [`Logits::hidden`] gave it, for a model with a head for multi-token
    /// prediction. `None`: not known; then what the blocks hold of the head for the first row stays as it is.
    pub hidden: Option<&'s [f32]>,
    /// The sequence's block table, with room for `committed + tokens.len()` tokens.
    pub kv: &'s mut KvView<'k>,
    /// Which rows need logits.
    pub logits: WantLogits,
}

impl SeqStep<'_, '_> {
    /// Positions of the rows: consecutive for a chain, by depth for a tree.
    pub(crate) fn push_positions(&self, positions: &mut Vec<u32>) {
        let first = positions.len();
        match self.parents {
            None => positions.extend((0..self.tokens.len()).map(|row| (self.committed + row) as u32)),
            Some(parents) => {
                for &parent in parents {
                    let position =
                        usize::try_from(parent).map_or(self.committed as u32, |p| positions[first + p] + 1);
                    positions.push(position);
                }
            }
        }
    }

    /// Rows of this sequence that need logits.
    pub(crate) fn wanted_rows(&self) -> std::ops::Range<usize> {
        let rows = self.tokens.len();
        match self.logits {
            WantLogits::None => rows..rows,
            WantLogits::Last => rows - 1..rows,
            WantLogits::All => 0..rows,
        }
    }
}

/// Logits of the rows that requested them, in step order.
#[derive(Debug, Default)]
pub struct Logits {
    vocab: usize,
    rows: usize,
    width: usize,
    /// Of a model with a head for multi-token prediction: the hidden rows after the final norm.
    hidden: Vec<f32>,
    /// At least `rows * vocab` values; never shrinks, because growing a vector initialises it again.
    values: Vec<f32>,
}

impl Logits {
    /// Rows with logits.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether no row requested logits.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Resizes to `rows` rows with unspecified contents.
    pub(crate) fn reset(&mut self, rows: usize, vocab: usize) -> &mut [f32] {
        (self.rows, self.vocab) = (rows, vocab);
        if self.values.len() < rows * vocab {
            self.values.resize(rows * vocab, 0.0);
        }
        &mut self.values[..rows * vocab]
    }

    /// The `index`-th requested row, one value per vocabulary entry.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[..self.rows * self.vocab][index * self.vocab..][..self.vocab]
    }

    /// The hidden row of any row of the step, whether or not it requested logits, after the final norm. Empty for a
    /// model without a head for multi-token prediction, except after `Model::forward_with_hidden`.
    pub fn hidden(&self, row: usize) -> &[f32] {
        &self.hidden[row * self.width..][..self.width]
    }

    /// Resizes to the hidden rows of a step, with unspecified contents; a `width` of 0 is none.
    pub(crate) fn reset_hidden(&mut self, rows: usize, width: usize) -> &mut [f32] {
        self.width = width;
        self.hidden.resize(rows * width, 0.0);
        &mut self.hidden
    }

    /// [`Logits::row`], for samplers that work in place.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[..self.rows * self.vocab][index * self.vocab..][..self.vocab]
    }
}

/// Buffers of the forward pass, reused across steps; they grow to the largest step.
pub struct Scratch {
    pub(crate) ropes: Vec<RopeTable>,
    pub(crate) positions: Vec<u32>,
    pub(crate) activations: Activations,
    /// Segments of one row per head.
    pub(crate) head_activations: Activations,
    /// The residual stream, `[rows][width]`.
    pub(crate) residual: Vec<f32>,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) attention: Vec<f32>,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    pub(crate) latent: LatentScratch,
    pub(crate) experts: ExpertsScratch,
    pub(crate) prediction: PredictionScratch,
    /// What a branch adds to the residual stream, where that is more than a sum.
    pub(crate) branch: Vec<f32>,
    pub(crate) logits: Logits,
}

impl Scratch {
    /// What the last step read of mixtures of experts.
    pub fn experts_read(&self) -> ExpertsRead {
        self.experts.read()
    }

    /// The logits of the last step.
    pub fn logits_mut(&mut self) -> &mut Logits {
        &mut self.logits
    }

    /// `with_floats`: whether some weights are float.
    pub(crate) fn new(ropes: Vec<RopeTable>, with_floats: bool, experts: ExpertsScratch) -> Scratch {
        let activations = || if with_floats { Activations::with_floats() } else { Activations::new() };
        Scratch {
            ropes,
            positions: Vec::new(),
            activations: activations(),
            head_activations: activations(),
            residual: Vec::new(),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            attention: Vec::new(),
            gate: Vec::new(),
            up: Vec::new(),
            latent: LatentScratch::default(),
            experts,
            prediction: PredictionScratch::default(),
            branch: Vec::new(),
            logits: Logits::default(),
        }
    }
}
