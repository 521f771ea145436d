//! Ollama's routes beside the answers: the model, and whether it is loaded.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::chat;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::protocol::ollama::{self, OllamaChat, OllamaGenerate};
use crate::request_log::Trace;
use crate::state::Shared;

/// The version of Ollama whose API this is: clients compare it with the one that they need.
const API_VERSION: &str = "0.13.0";

/// `POST /api/chat`; without messages it would load the model.
pub(super) async fn chat(
    shared: State<Arc<Shared>>,
    trace: Extension<Arc<Trace>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let messages = body.fields().array("messages")?;
    if messages.is_none_or(<[Value]>::is_empty) {
        return load(&shared, &body, ("message", json!({"role": "assistant", "content": ""})));
    }
    chat::complete::<OllamaChat>(shared, trace, caller, body).await
}

/// `POST /api/generate`; without a prompt it would load the model.
pub(super) async fn generate(
    shared: State<Arc<Shared>>,
    trace: Extension<Arc<Trace>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, ApiError> {
    if body.fields().string("prompt")?.is_none_or(str::is_empty) {
        return load(&shared, &body, ("response", "".into()));
    }
    chat::complete::<OllamaGenerate>(shared, trace, caller, body).await
}

fn load(shared: &Shared, body: &JsonBody, (name, empty): (&str, Value)) -> Result<Response, ApiError> {
    let backend = shared.backend()?;
    backend.check_model(ollama::model_name(body.fields())?)?;
    let mut answer = ollama::loaded(backend);
    answer.insert(name.into(), empty);
    Ok(Json(answer).into_response())
}

/// `GET /api/tags`: the models.
pub(super) async fn tags(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    Ok(Json(json!({"models": [ollama::card(backend)]})))
}

/// `GET /api/ps`: the models that are loaded.
pub(super) async fn ps(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    Ok(Json(json!({"models": [ollama::running(backend)]})))
}

/// `POST /api/show`: all about a model.
pub(super) async fn show(State(shared): State<Arc<Shared>>, body: JsonBody) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    backend.check_model(ollama::model_name(body.fields())?)?;
    Ok(Json(ollama::show(backend)))
}

/// `GET /api/version`.
pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": API_VERSION, "foretoken": env!("CARGO_PKG_VERSION")}))
}
