//! What clients send and get: OpenAI's JSON, with DeepSeek's, llama.cpp's and vLLM's additions.
//!
//! Requests are read field by field from a JSON object, so that unknown fields are ignored, `null` means
//! absent, and a bad value is reported under its own path. Nothing here knows HTTP or the engine's loop.

pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod fields;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod sampling;
pub(crate) mod speculation;
pub(crate) mod usage;
