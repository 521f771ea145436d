//! What a step computes of one sequence: plain data between the scheduler, the draft planning and the step loop.

/// Tokens to compute of one running sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Index among the running sequences.
    pub(crate) index: usize,
    /// Tokens, at least one.
    pub(crate) rows: usize,
}
