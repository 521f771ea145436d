//! Errors in Anthropic's shape.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::error::ApiError;

/// The JSON body, also sent inside a stream.
pub(crate) fn body(error: &ApiError) -> Value {
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
