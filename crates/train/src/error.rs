//! Why training can't go on.

use std::path::PathBuf;

use foretoken_engine::SubmitError;
use foretoken_model::ModelError;
use foretoken_model::chat::TemplateError;
use foretoken_model::gguf::GgufError;

/// An error of training or evaluating a head.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A model that heads can't be trained for.
    #[error("no head can be trained for this model: {0}")]
    Unsupported(String),
    /// An option out of range.
    #[error("{option} {message}")]
    Option {
        /// The option as the command line spells it.
        option: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file whose content can't be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// Too few prompts or too short answers to train or evaluate on.
    #[error("{0}")]
    TooLittle(String),
    /// A prompt could not be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The engine could not start.
    #[error(transparent)]
    Engine(#[from] foretoken_engine::EngineError),
    /// The engine rejected a prompt.
    #[error("a prompt was rejected: {0}")]
    Submit(#[from] SubmitError),
    /// The engine failed at an answer.
    #[error("an answer ended early: {0}")]
    Answer(String),
    /// The model's file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A malformed GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Tensor arithmetic; a bug, or not enough memory.
    #[error("tensor arithmetic: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// For `map_err` on a file operation.
pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.to_path_buf();
    move |source| TrainError::Io { action, path, source }
}
