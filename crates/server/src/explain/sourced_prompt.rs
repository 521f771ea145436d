//! A prompt together with its source.

use foretoken_model::chat::ChatInput;
use serde_json::{Map, Value};

use crate::backend::Codec;
use crate::error::ApiError;
use crate::protocol::fields::Fields;
use crate::protocol::openai_chat::read_conversation;
use crate::protocol::openai_completions::{Prompt, prompts};
use crate::stable_prompt::StablePrompt;

/// The source of a prompt.
#[derive(Clone, Debug)]
pub enum Source {
    /// A conversation, rendered by the chat template.
    Chat(ChatInput),
    /// The text or the tokens in `prompt`.
    Prompt,
}

/// A tokenised prompt and its source.
#[derive(Clone, Debug)]
pub struct SourcedPrompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The request field it was built from.
    pub source: Source,
}

impl SourcedPrompt {
    /// The prompt of a body of `/v1/chat/completions` (it has `messages`) or `/v1/completions` (one `prompt`).
    ///
    /// # Errors
    /// An invalid field, or a conversation that the template rejects.
    pub fn read(body: &Map<String, Value>, codec: &dyn Codec) -> Result<SourcedPrompt, ApiError> {
        Self::read_stable(body, codec, &StablePrompt::standard())
    }

    /// The same with the operator's patterns.
    pub(crate) fn read_stable(
        body: &Map<String, Value>,
        codec: &dyn Codec,
        stable_prompt: &StablePrompt,
    ) -> Result<SourcedPrompt, ApiError> {
        let fields = Fields::of_body(body);
        if fields.get("messages").is_some() {
            let mut conversation = read_conversation(fields)?;
            stable_prompt.apply(&mut conversation);
            let input = conversation.to_input();
            let tokens = codec.render(&input).map_err(ApiError::template)?.tokens;
            return Ok(SourcedPrompt { tokens, source: Source::Chat(input) });
        }
        let prompts = prompts(fields, codec.vocab_size())?;
        let tokens = match one(&prompts)? {
            Prompt::Text(text) => codec.encode(text, true, true),
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        Ok(SourcedPrompt { tokens, source: Source::Prompt })
    }
}

/// The only prompt.
fn one(prompts: &[Prompt]) -> Result<&Prompt, ApiError> {
    match prompts {
        [prompt] => Ok(prompt),
        _ => Err(several(prompts.len())),
    }
}

/// 400: more than one prompt.
pub(crate) fn several(prompts: usize) -> ApiError {
    ApiError::unsupported(
        "prompt",
        format!("must be one prompt to be explained, got {prompts}; ask for each"),
    )
}
