//! What clients of llama.cpp's server ask before they send a prompt: `/props`, `/slots`, `/apply-template`.
//!
//! Read only. There are no slots here: any request uses what is cached for its tenant. `/slots` shows one for each running
//! sequence and one that is free, so that clients that look for a free one find it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use foretoken_engine::Sampling;
use serde_json::{Value, json};

use super::{blocking, chat};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::protocol::openai_chat::read_conversation;
use crate::state::Shared;

/// `GET /props`.
pub(super) async fn props(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let (served, default) = (&backend.served, Sampling::default());
    let params = json!({
        "temperature": default.temperature,
        "top_k": default.top_k,
        "top_p": default.top_p,
        "min_p": default.min_p,
        "repeat_penalty": default.repetition_penalty,
        "presence_penalty": default.presence_penalty,
        "frequency_penalty": default.frequency_penalty,
        "n_predict": -1,
    });
    Ok(Json(json!({
        "default_generation_settings": {"n_ctx": served.ctx, "params": params},
        "total_slots": served.generator.stats().running + 1,
        "model_alias": backend.id(),
        // No path of this machine is told.
        "model_path": backend.id(),
        "chat_template": served.facts.template,
        "bos_token": served.facts.bos,
        "eos_token": served.facts.eos,
        "modalities": {"vision": false, "audio": false},
        "build_info": concat!("foretoken ", env!("CARGO_PKG_VERSION")),
        "is_sleeping": false,
    })))
}

/// `GET /slots`.
pub(super) async fn slots(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let running = backend.served.generator.stats().running;
    let slot = |id: usize| json!({"id": id, "n_ctx": backend.served.ctx, "speculative": true, "is_processing": id < running});
    Ok(Json((0..=running).map(slot).collect()))
}

/// `POST /apply-template`: the prompt of a chat request, as text.
pub(super) async fn apply_template(
    State(shared): State<Arc<Shared>>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let codec = Arc::clone(&backend.served.codec);
    let mut conversation = read_conversation(body.fields())?;
    shared.stable_prompt.apply(&mut conversation);
    let prompt = chat::render(&codec, &conversation).await?;
    let text = blocking(move || codec.decode(&prompt.tokens)).await?;
    Ok(Json(json!({"prompt": text})))
}
