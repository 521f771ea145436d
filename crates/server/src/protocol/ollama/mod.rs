//! `/api/chat` and `/api/generate`: Ollama's API, with lines of JSON for streams.

mod error;
mod fields;
mod messages;
mod model;
mod request;
mod time;
mod writer;

use super::ChatDialect;
use super::fields::Fields;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::ChatRequest;
pub(crate) use error::body as error_body;
pub(crate) use fields::FIELDS;
pub(crate) use model::{card, loaded, running, show};
use writer::{LineWriter, Shape};

/// Ollama's name for a model without a tag.
const NO_TAG: &str = ":latest";

/// `/api/chat`.
#[derive(Debug)]
pub(crate) struct OllamaChat;

/// `/api/generate`.
#[derive(Debug)]
pub(crate) struct OllamaGenerate;

impl ChatDialect for OllamaChat {
    const ID_PREFIX: &'static str = "chat-";
    const PROMPT_PARAM: &'static str = "messages";
    type Writer = LineWriter;

    fn model(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
        model_name(fields)
    }

    fn read(fields: Fields<'_>, _: &ServerConfig, _: usize) -> Result<(ChatRequest, LineWriter), ApiError> {
        Ok((request::read_chat(fields)?, LineWriter::new(Shape::Chat)))
    }
}

impl ChatDialect for OllamaGenerate {
    const ID_PREFIX: &'static str = "gen-";
    const PROMPT_PARAM: &'static str = "prompt";
    type Writer = LineWriter;

    fn model(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
        model_name(fields)
    }

    fn read(fields: Fields<'_>, _: &ServerConfig, _: usize) -> Result<(ChatRequest, LineWriter), ApiError> {
        Ok((request::read_generate(fields)?, LineWriter::new(Shape::Generate)))
    }
}

/// The model that is asked for, without the tag that means none.
pub(crate) fn model_name(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
    let name = match fields.string("model")? {
        Some(name) => Some(name),
        // The older name of the field.
        None => fields.string("name")?,
    };
    Ok(name.map(|name| name.strip_suffix(NO_TAG).unwrap_or(name)))
}
