//! Training of a head for multi-token prediction, from a model's own answers and on a CPU.
//!
//! The model answers prompts ([`answers`]), its hidden rows over these answers are the input and its distributions the
//! targets of a head ([`head`]) that is trained on its own recursion ([`trainer`]), quantised and written as a small GGUF
//! file ([`file`](mod@file)) and evaluated on answers that it was not trained on ([`evaluation`]).
//!
//! Not for serving: the engine runs the head through `foretoken-model`, and nothing below this crate knows it. The
//! invariant: what is trained is what the engine computes. Attention, positions, rows and norms are those of
//! `foretoken_model`'s head, and a test holds the two against each other.
#![forbid(unsafe_code)]

pub mod answers;
pub mod checkpoint;
pub mod cut;
pub mod error;
pub mod evaluation;
pub mod examples;
pub mod file;
pub mod head;
mod loss;
mod operations;
mod optimizer;
pub mod prompts;
pub mod recorded;
pub mod shape;
pub mod trainer;
pub mod trunk;

pub use error::TrainError;
