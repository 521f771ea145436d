//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::{Backend, Shared};

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    Ok(Json(json!({"object": "list", "data": [card(backend)]})))
}

pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id?;
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    backend.check_model(Some(&id))?;
    Ok(Json(card(backend)))
}

/// OpenAI's fields, and vLLM's `max_model_len`.
fn card(backend: &Backend) -> Value {
    json!({
        "id": backend.id(),
        "object": "model",
        "created": backend.served.created,
        "owned_by": "foretoken",
        "max_model_len": backend.served.ctx,
        "aliases": backend.names[1..],
    })
}
