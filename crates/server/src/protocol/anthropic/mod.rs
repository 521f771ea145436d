//! `/v1/messages`: Anthropic's Messages API.

mod error;
mod fields;
mod messages;
mod request;
mod writer;

use super::ChatDialect;
use super::fields::Fields;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::ChatRequest;
pub(crate) use error::body as error_body;
pub(crate) use fields::FIELDS;
pub(crate) use request::read_conversation;
use writer::MessageWriter;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Anthropic;

impl ChatDialect for Anthropic {
    const ID_PREFIX: &'static str = "msg_";
    const PROMPT_PARAM: &'static str = "messages";
    type Writer = MessageWriter;

    fn read(
        fields: Fields<'_>,
        _: &ServerConfig,
        _: usize,
    ) -> Result<(ChatRequest, MessageWriter), ApiError> {
        Ok((request::read(fields)?, MessageWriter::default()))
    }
}
