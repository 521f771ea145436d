//! `/v1/completions`: OpenAI's text completion, with llama.cpp's and vLLM's extensions.

mod request;
mod writer;

pub(crate) use request::{CompletionRequest, Prompt, prompts};
pub(crate) use writer::CompletionWriter;
