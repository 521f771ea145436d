//! Every error a client can see, in OpenAI's shape; dialects that have another write their own body around it.
//!
//! `{"error": {"message", "type", "param", "code"}}`, the right status, and a message that says what to do.
//! The invariant: an [`ApiError`] never carries a prompt,
//! a key or a path of this machine.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foretoken_engine::{InvalidParam, SubmitError};
use serde_json::{Value, json};

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
    /// The field at fault, as a path such as `messages[0].role`.
    pub param: Option<String>,
    /// A stable identifier for programs; also the `reason` label of the metric that counts rejected requests.
    pub code: &'static str,
    /// Sent as `Retry-After`.
    pub retry_after_s: Option<u64>,
}

/// Marks a response as rejected, for the layer that counts them and for dialects with errors of another shape.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) ApiError);

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, kind, message: message.into(), param: None, code, retry_after_s: None }
    }

    fn invalid(code: &'static str, param: impl Into<String>, message: String) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message);
        error.param = Some(param.into());
        error
    }

    /// 400: a known field with an invalid value.
    pub(crate) fn bad_value(param: impl Into<String>, message: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("'{param}' {}", message.as_ref());
        Self::invalid("invalid_value", param, message)
    }

    /// 400: a valid value that this server does not support.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("'{param}' {}", message.as_ref());
        Self::invalid("unsupported_value", param, message)
    }

    /// 400: a required field is missing.
    pub(crate) fn missing(param: impl Into<String>, message: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("'{param}' is missing: {}", message.as_ref());
        Self::invalid("missing_required_parameter", param, message)
    }

    /// 400: the body is not a JSON object.
    pub(crate) fn malformed_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "malformed_body", message)
    }

    /// 400: the chat template rejects the conversation.
    pub(crate) fn template(reason: String) -> Self {
        let message = format!("the model's chat template rejects this conversation: {reason}");
        Self::invalid("template_error", "messages", message)
    }

    /// 400: the prompt does not fit.
    pub(crate) fn context_length(param: &'static str, message: String) -> Self {
        Self::invalid("context_length_exceeded", param, message)
    }

    /// 401.
    pub(crate) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", message)
    }

    /// 402: a prepaid account without balance, in DeepSeek's wording.
    pub(crate) fn insufficient_balance(account: &str, prepaid: &str) -> Self {
        let message = format!(
            "Insufficient Balance: the account '{account}' has spent the {prepaid} US$ that it had; the \
             operator can raise --prepaid"
        );
        Self::new(StatusCode::PAYMENT_REQUIRED, "billing_error", "insufficient_balance", message)
    }

    /// 403: an authenticated caller without permission.
    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", "admin_required", message)
    }

    /// 403: a request that addresses another server, as one from a page with a rebound host name does.
    pub(crate) fn foreign_host(host: &str) -> Self {
        let host: String = host.chars().take(200).collect();
        let message = format!(
            "this server has no API key and only answers requests to its own address; '{host}' is not one of its \
             names: use localhost or the address it prints at start, or start it with --allowed-host or --api-key"
        );
        Self::new(StatusCode::FORBIDDEN, "permission_error", "host_not_allowed", message)
    }

    /// 403: a request from a web page of another site.
    pub(crate) fn foreign_origin(origin: &str) -> Self {
        let origin: String = origin.chars().take(200).collect();
        let message = format!(
            "this server has no API key and does not answer pages of other sites; '{origin}' is one: start it with \
             --cors-origin '{origin}' to allow it, or with --api-key"
        );
        Self::new(StatusCode::FORBIDDEN, "permission_error", "origin_not_allowed", message)
    }

    /// 409: the pin limit is exceeded.
    pub(crate) fn pin_limit(message: String) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request_error", "pin_limit", message)
    }

    /// 404: unknown model.
    pub(crate) fn model_not_found(asked: &str, served: &[String]) -> Self {
        let asked: String = asked.chars().take(200).collect();
        let served = served.join("', '");
        let message = format!("the model '{asked}' is not served here; use '{served}' or leave 'model' out");
        let mut error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message);
        error.param = Some("model".into());
        error
    }

    /// 404: unknown route.
    pub(crate) fn unknown_url(method: &str, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message =
            format!("no route {method} {path}; the API starts at /v1, for example POST /v1/chat/completions");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", message)
    }

    /// 405.
    pub(crate) fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("{path} does not support {method}; see the Allow header for what it supports");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// 413.
    pub(crate) fn body_too_large(limit_bytes: usize) -> Self {
        let message = format!(
            "the request body is larger than {}, decompressed; shorten it, or start the server with a larger --max-body",
            binary_size(limit_bytes)
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "body_too_large", message)
    }

    /// 415.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "unsupported_media_type",
            message,
        )
    }

    /// 408: the request timeout expired.
    pub(crate) fn timeout(limit_s: u64) -> Self {
        let message = format!(
            "the response was not finished within {limit_s} s; request fewer tokens, or start the server with a \
             longer --request-timeout"
        );
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", "request_timeout", message)
    }

    /// 503: the model is still loading.
    pub(crate) fn loading() -> Self {
        let message = "the model is still loading; try again in a moment";
        let mut error =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "loading_model", message);
        error.retry_after_s = Some(1);
        error
    }

    /// 503: shutting down.
    pub(crate) fn draining() -> Self {
        let message = "the server is shutting down; send the request to another one or try again later";
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "draining", message);
        error.retry_after_s = Some(5);
        error
    }

    /// 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    /// Maps the engine's error; `prompt_param` is the field that held the prompt.
    pub(crate) fn from_submit(error: SubmitError, prompt_param: &'static str) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::QueueFull { retry_after_s } => {
                let mut error =
                    Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", message);
                error.retry_after_s = Some(retry_after_s.max(1));
                error
            }
            SubmitError::Draining => Self::draining(),
            SubmitError::PromptTooLong { .. } => Self::context_length(prompt_param, message),
            SubmitError::Invalid(InvalidParam { param, message }) => Self::bad_value(param, message),
        }
    }

    /// The JSON body, also sent inside a stream.
    pub(crate) fn body(&self) -> Value {
        json!({
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        })
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::bad_value("path", error.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::bad_value("query", error.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Refused(self));
        response
    }
}
/// A size in the largest binary unit that divides it: `16 MiB`.
fn binary_size(bytes: usize) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|&(_, size)| bytes >= size && bytes.is_multiple_of(size));
    unit.map_or_else(|| format!("{bytes} bytes"), |(name, size)| format!("{} {name}", bytes / size))
}
