//! Writes errors in the shape of their dialect, also those that arise before a request reaches its route.

use axum::Json;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{anthropic, ollama};
use crate::error::{ApiError, Refused};

/// The shape of the errors of a path; `None` is OpenAI's.
fn shape_of(path: &str) -> Option<fn(&ApiError) -> Value> {
    let is_below = |path: &str, top: &str| {
        path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if is_below(path, "/api") {
        return Some(ollama::error_body);
    }
    let unversioned = path.strip_prefix("/v1").unwrap_or(path);
    is_below(unversioned, "/messages").then_some(anthropic::error_body)
}

/// Replaces the body of an error where its dialect has another shape than OpenAI's.
pub(crate) async fn shape_errors(request: Request, next: Next) -> Response {
    let shape = shape_of(request.uri().path());
    let response = next.run(request).await;
    match (response.extensions().get::<Refused>(), shape) {
        (Some(Refused(error)), Some(shape)) => {
            let body = Json(shape(error)).into_response().into_body();
            let (mut parts, _) = response.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, body)
        }
        _ => response,
    }
}
