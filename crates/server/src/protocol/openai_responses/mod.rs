//! `/v1/responses`: OpenAI's Responses API, without its store of responses: a client sends the whole conversation.

mod fields;
mod input;
mod item;
mod request;
mod writer;

use super::ChatDialect;
use super::fields::Fields;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::ChatRequest;
pub(crate) use fields::FIELDS;
use writer::ResponseWriter;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct OpenAiResponses;

impl ChatDialect for OpenAiResponses {
    const ID_PREFIX: &'static str = "resp_";
    const PROMPT_PARAM: &'static str = "input";
    type Writer = ResponseWriter;

    fn read(
        fields: Fields<'_>,
        _: &ServerConfig,
        _: usize,
    ) -> Result<(ChatRequest, ResponseWriter), ApiError> {
        request::read(fields)
    }
}
