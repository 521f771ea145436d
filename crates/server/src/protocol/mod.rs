//! The dialects: each a reader of requests and a writer of answers in a folder of its own.
//!
//! A reader turns a JSON object into a [conversation](crate::conversation) and [options](crate::generation); a writer turns
//! the [events](crate::answer) of an answer into JSON. Requests are read field by field, so that unknown fields are
//! ignored, `null` means absent, and an invalid value is reported with its path. A dialect knows the wire and nothing
//! else: models' text is parsed in [`crate::answer`], prices and caches are none of its business.

pub(crate) mod anthropic;
pub(crate) mod constraint;
mod error_shapes;
pub(crate) mod fields;
pub(crate) mod ollama;
pub(crate) mod openai;
pub(crate) mod openai_chat;
pub(crate) mod openai_completions;
pub(crate) mod openai_responses;
pub mod request_fields;
pub(crate) mod speculation;
pub(crate) mod tool_choice;

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::ChatRequest;
use crate::run::Writer;
pub(crate) use error_shapes::shape_errors;
use fields::Fields;

/// A dialect in which conversations are sent and answered.
pub(crate) trait ChatDialect: 'static {
    /// Prefix of a response's id.
    const ID_PREFIX: &'static str;
    /// The field that holds the conversation.
    const PROMPT_PARAM: &'static str;
    type Writer: Writer;

    /// The model that is asked for.
    fn model(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
        fields.string("model")
    }

    /// Reads a request, and makes the writer of its answers. `vocab`: tokens in the vocabulary.
    fn read(
        fields: Fields<'_>,
        config: &ServerConfig,
        vocab: usize,
    ) -> Result<(ChatRequest, Self::Writer), ApiError>;
}

/// Refuses `cache.explain` and `speculation.show` in dialects other than OpenAI's chat and completions.
fn refuse_reports(fields: Fields<'_>) -> Result<(), ApiError> {
    if speculation::shows(fields)? {
        let message = "is not supported here; use /v1/chat/completions or /v1/completions";
        return Err(ApiError::unsupported("speculation.show", message));
    }
    let Some(cache) = fields.get("cache") else { return Ok(()) };
    let cache = Fields::at("cache", cache)?;
    match cache.bool("explain")? {
        Some(true) => {
            let message =
                "is not supported here; send the conversation in OpenAI's form to /v1/cache/explain";
            Err(ApiError::unsupported(cache.path_of("explain"), message))
        }
        _ => Ok(()),
    }
}
