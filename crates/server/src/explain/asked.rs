//! A prompt and what it was made of.

use foretoken_model::chat::ChatInput;
use serde_json::{Map, Value};

use crate::backend::Codec;
use crate::error::ApiError;
use crate::protocol::chat::read_conversation;
use crate::protocol::completion::{Prompt, prompts};
use crate::protocol::fields::Fields;

/// What a prompt was made of.
#[derive(Clone, Debug)]
pub enum Source {
    /// A conversation, by the chat template.
    Chat(ChatInput),
    /// The text or the tokens in `prompt`.
    Prompt,
}

/// A prompt to ask about.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Where they came from.
    pub source: Source,
}

impl Asked {
    /// The prompt of a body of `/v1/chat/completions` (it has `messages`) or `/v1/completions` (one `prompt`).
    ///
    /// # Errors
    /// A field that cannot be read, or a conversation that the template does not take.
    pub fn read(body: &Map<String, Value>, codec: &dyn Codec) -> Result<Asked, ApiError> {
        let fields = Fields::of_body(body);
        if fields.get("messages").is_some() {
            let input = read_conversation(fields)?;
            let tokens = codec.render(&input).map_err(ApiError::template)?.tokens;
            return Ok(Asked { tokens, source: Source::Chat(input) });
        }
        let prompts = prompts(fields, codec.vocab_size())?;
        let tokens = match one(&prompts)? {
            Prompt::Text(text) => codec.encode(text, true, true),
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        Ok(Asked { tokens, source: Source::Prompt })
    }
}

/// The only one of several prompts.
fn one(prompts: &[Prompt]) -> Result<&Prompt, ApiError> {
    match prompts {
        [prompt] => Ok(prompt),
        _ => Err(several(prompts.len())),
    }
}

/// 400: more prompts than can be explained.
pub(crate) fn several(prompts: usize) -> ApiError {
    ApiError::unsupported(
        "prompt",
        format!("must be one prompt to be explained, got {prompts}; ask for each"),
    )
}
