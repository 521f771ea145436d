//! The wire format: OpenAI's JSON, with DeepSeek's, llama.cpp's and vLLM's extensions.
//!
//! Requests are read field by field from a JSON object, so that unknown fields are ignored, `null` means
//! absent, and an invalid value is reported with its path. Nothing here knows HTTP or the step loop.

pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod fields;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub mod request_fields;
pub(crate) mod sampling;
pub(crate) mod speculation;
pub(crate) mod usage;
