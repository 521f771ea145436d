//! `/v1/chat/completions`: OpenAI's chat, with DeepSeek's, llama.cpp's and vLLM's extensions.

mod messages;
mod request;
mod writer;

use super::ChatDialect;
use super::fields::Fields;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::ChatRequest;
pub(crate) use request::{check_tools, read_conversation};
use writer::ChatWriter;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct OpenAiChat;

impl ChatDialect for OpenAiChat {
    const ID_PREFIX: &'static str = "chatcmpl-";
    const PROMPT_PARAM: &'static str = "messages";
    type Writer = ChatWriter;

    fn read(
        fields: Fields<'_>,
        config: &ServerConfig,
        vocab: usize,
    ) -> Result<(ChatRequest, ChatWriter), ApiError> {
        request::read(fields, config, vocab)
    }
}
