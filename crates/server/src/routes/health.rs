//! `GET /health`: 200 when requests are taken, else 503 with the reason. Never behind a key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::state::Shared;

pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let Err(error) = shared.backend() else { return Json(json!({"status": "ok"})).into_response() };
    let mut body = error.body();
    body["status"] = if error.code == "draining" { "draining" } else { "loading" }.into();
    // Built from the parts, since a probe is not a refused request.
    (error.status, Json(body)).into_response()
}
