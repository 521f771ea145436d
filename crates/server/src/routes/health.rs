//! `GET /health`, and vLLM's `GET` or `POST /ping`: 200 while requests are accepted, else 503 with the reason. Needs no key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::state::Shared;

pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let Err(error) = shared.backend() else { return Json(json!({"status": "ok"})).into_response() };
    let mut body = error.body();
    body["status"] = if error.code == "draining" { "draining" } else { "loading" }.into();
    // Not an `ApiError` response, so that probes are not counted as rejected requests.
    (error.status, Json(body)).into_response()
}

/// vLLM's `GET /version`.
pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}
