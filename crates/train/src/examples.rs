//! Recorded texts with the trunk's hidden rows, and the batches of a head's rows that are made of them.
//!
//! A head's row at slot `t`, from 1 on, takes token `t` and the trunk's hidden row of `t - 1`, and predicts token `t + 1`. Rows
//! of a prompt are only attended to; the rows of an answer start chains of predictions. The invariant: what a chain attends
//! to is what the engine has in the slots before it: rows that come from the trunk up to the chain's start, and the chain's own
//! rows after that.

use std::ops::Range;
use std::sync::Arc;

use crate::trunk::Trunk;

/// A text that the model wrote.
pub struct Example {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Whether the answer is greedy, not sampled.
    pub greedy: bool,
    /// The trunk's hidden rows after its last norm, `[tokens][width]`.
    pub hidden: Vec<f32>,
}

impl Example {
    /// Tokens at which a chain of predictions starts: all of the answer but the last, which nothing recorded follows.
    pub fn starts(&self) -> Range<usize> {
        starts(self.prompt, self.tokens.len())
    }
}

/// [`Example::starts`] by the lengths of prompt and text.
pub fn starts(prompt: usize, tokens: usize) -> Range<usize> {
    let first = prompt.max(1);
    first..(tokens.max(1) - 1).max(first)
}

/// The rows of one sequence in a batch.
pub(crate) struct Span {
    pub(crate) keys: Range<usize>,
    pub(crate) starts: Range<usize>,
    /// Of each start the number of keys that it sees.
    pub(crate) visible: Arc<Vec<usize>>,
}

/// The input of one step of the recursion.
pub(crate) struct Depth {
    /// The embeddings of the tokens, `[rows][width]`.
    pub(crate) embedded: Vec<f32>,
    pub(crate) positions: Vec<u32>,
}

/// Rows of several examples. The rows of depth 1 are all slots that a chain may attend to; those of later depths are the chains.
pub(crate) struct Batch {
    pub(crate) spans: Vec<Span>,
    /// The trunk's hidden row before each row of depth 1.
    pub(crate) hidden: Vec<f32>,
    pub(crate) depths: Vec<Depth>,
    /// Which rows of depth 1 start a chain.
    pub(crate) starts: Vec<u32>,
    /// Of each chain the trunk's hidden row at its start.
    pub(crate) target_hidden: Vec<f32>,
    /// Of each chain the token after its start.
    pub(crate) next: Vec<u32>,
    /// Of each chain how many chains of the same text start at it or after it: as many depths have a target.
    pub(crate) left: Vec<usize>,
}

impl Batch {
    /// The rows of `examples` for chains of `depths` predictions.
    pub(crate) fn new(trunk: &Trunk, examples: &[&Example], depths: usize) -> Batch {
        let width = trunk.model().config().width;
        let mut batch = Batch {
            spans: Vec::new(),
            hidden: Vec::new(),
            depths: Vec::new(),
            starts: Vec::new(),
            target_hidden: Vec::new(),
            next: Vec::new(),
            left: Vec::new(),
        };
        let mut inputs = vec![(Vec::new(), Vec::new()); depths];
        for example in examples.iter().filter(|example| !example.starts().is_empty()) {
            let (starts, tokens) = (example.starts(), &example.tokens);
            let (first_key, first_start) = (inputs[0].0.len(), batch.starts.len());
            inputs[0].0.extend_from_slice(&tokens[1..starts.end]);
            inputs[0].1.extend(1..starts.end as u32);
            batch.hidden.extend_from_slice(&example.hidden[..(starts.end - 1) * width]);
            for start in starts.clone() {
                batch.starts.push((first_key + start - 1) as u32);
                batch.next.push(tokens[start + 1]);
                batch.left.push(starts.end - start);
                for (depth, input) in inputs.iter_mut().enumerate().skip(1) {
                    // Beyond the text it does not matter, since nothing is a target there.
                    input.0.push(tokens[(start + depth).min(tokens.len() - 1)]);
                    input.1.push((start + depth) as u32);
                }
            }
            batch.target_hidden.extend_from_slice(&example.hidden[starts.start * width..starts.end * width]);
            batch.spans.push(Span {
                keys: first_key..inputs[0].0.len(),
                starts: first_start..batch.starts.len(),
                visible: Arc::new(starts.collect()),
            });
        }
        let depth = |(tokens, positions): (Vec<u32>, Vec<u32>)| Depth {
            embedded: trunk.embeddings(&tokens),
            positions,
        };
        batch.depths = inputs.into_iter().map(depth).collect();
        batch
    }

    /// Chains in the batch.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }
}
