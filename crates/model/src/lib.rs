//! Models: GGUF files, model references and downloads, tokenizers, chat templates, weights and families.
//!
//! What it is not for: arithmetic (that is `foretoken-kernels`), scheduling and caching. The invariant:
//! everything read from a file or fetched from elsewhere is checked before it is believed.
#![deny(unsafe_code)]

pub mod chat;
pub mod config;
mod embedding;
mod families;
pub mod gguf;
mod hyperparameters;
mod layers;
mod model;
mod prediction;
pub mod reference;
mod rendered;
mod special_texts;
pub mod step;
pub mod tokenizer;
pub mod trained_head;
mod weights;

pub use config::{ModelConfig, ModelError};
pub use layers::ExpertsRead;
pub use model::{LoadOptions, Model, describe};
pub use prediction::{HeadInput, Prediction};
