//! What OpenAI's older APIs, chat and completions, have in common.

pub(crate) mod envelope;
mod fields;
pub(crate) mod logprobs;
pub(crate) mod options;

pub(crate) use fields::FIELDS;
