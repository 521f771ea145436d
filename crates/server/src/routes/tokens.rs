//! `POST /v1/tokenize` and `POST /v1/detokenize`, for clients of vLLM (`prompt`, `messages`) and llama.cpp
//! (`content`) alike.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{blocking, chat};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::protocol::fields::{Fields, token_ids};
use crate::protocol::openai_chat::read_conversation;
use crate::state::Shared;

pub(super) async fn tokenize(
    State(shared): State<Arc<Shared>>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let fields = body.fields();
    backend.check_model(fields.string("model")?)?;
    let codec = Arc::clone(&backend.served.codec);
    let tokens = if fields.get("messages").is_some() {
        chat::render(&codec, &read_conversation(fields)?).await?.tokens
    } else {
        let (text, add_bos, parse_special) = read_text(fields)?;
        blocking(move || codec.encode(&text, add_bos, parse_special)).await?
    };
    Ok(Json(json!({"tokens": tokens, "count": tokens.len(), "max_model_len": backend.served.ctx})))
}

/// The text, whether to prepend the beginning-of-sequence token, and whether to parse control tokens. By default
/// vLLM's field prepends that token and llama.cpp's does not.
fn read_text(fields: Fields<'_>) -> Result<(String, bool, bool), ApiError> {
    let parse_special = fields.bool("parse_special")?.unwrap_or(true);
    if let Some(prompt) = fields.string("prompt")? {
        let add_bos = fields.bool("add_special_tokens")?.unwrap_or(true);
        return Ok((prompt.to_owned(), add_bos, parse_special));
    }
    let content = fields.string("content")?.ok_or_else(|| {
        ApiError::missing("prompt", "send the text as 'prompt' or 'content', or a conversation as 'messages'")
    })?;
    let add_bos = fields.bool("add_special")?.unwrap_or(false);
    Ok((content.to_owned(), add_bos, parse_special))
}

pub(super) async fn detokenize(
    State(shared): State<Arc<Shared>>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let fields = body.fields();
    backend.check_model(fields.string("model")?)?;
    let codec = Arc::clone(&backend.served.codec);
    let items =
        fields.array("tokens")?.ok_or_else(|| ApiError::missing("tokens", "send an array of token ids"))?;
    let ids = token_ids("tokens", items, codec.vocab_size())?;
    let text = blocking(move || codec.decode(&ids)).await?;
    Ok(Json(json!({"prompt": text, "content": text})))
}
