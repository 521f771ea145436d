//! Errors in Anthropic's shape, also those that arise before a request reaches its route.

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{ApiError, Refused};

/// The routes whose errors have this shape, with or without `/v1` in front.
const PATH: &str = "/messages";

/// Writes the errors of Anthropic's routes in its shape.
pub(crate) async fn shape_errors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let is_ours = path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let response = next.run(request).await;
    match response.extensions().get::<Refused>() {
        Some(Refused(error)) if is_ours => {
            let body = Json(body(error)).into_response().into_body();
            with_body(response, body)
        }
        _ => response,
    }
}

fn with_body(response: Response, body: Body) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

/// The JSON body, also sent inside a stream.
pub(super) fn body(error: &ApiError) -> Value {
    json!({"type": "error", "error": {"type": kind(error.status), "message": message(error)}})
}

/// Clients recognise a prompt that is too long by these words, and shorten it.
fn message(error: &ApiError) -> String {
    match error.code {
        "context_length_exceeded" => format!("prompt is too long: {}", error.message),
        _ => error.message.clone(),
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::PAYMENT_REQUIRED => "billing_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::REQUEST_TIMEOUT => "timeout_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    }
}
