//! Parses a request body: a JSON object of bounded size, plain or compressed.
//!
//! The bound is on the decompressed size. Clients that set no content type, or the one of HTML forms as `curl -d` does,
//! mean JSON; what else a page can send without asking first (`text/plain`, `multipart/form-data`) is rejected, and
//! [`crate::host_check`] rejects pages anyway.

use std::error::Error;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::protocol::fields::{Fields, describe};
use crate::state::Shared;

/// Encodings that are decompressed.
const ENCODINGS: [&str; 3] = ["gzip", "deflate", "br"];

/// A request's JSON object.
#[derive(Debug)]
pub(crate) struct JsonBody(Map<String, Value>);

impl JsonBody {
    pub(crate) fn object(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields::of_body(&self.0)
    }
}

impl FromRequest<Arc<Shared>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let limit = shared.config.body_limit_bytes;
        let headers = request.headers();
        if !may_be_json(headers) {
            let message = "send the body as JSON with the header 'Content-Type: application/json'";
            return Err(ApiError::unsupported_media_type(message));
        }
        if declared_len(headers).is_some_and(|len| len > limit as u64) {
            return Err(ApiError::body_too_large(limit));
        }
        let bytes = to_bytes(request.into_body(), limit).await.map_err(|error| {
            // axum hides which error it was; the limit's own one is its source.
            let too_large = error.source().is_some_and(|source| source.to_string().contains("length limit"));
            match too_large {
                true => ApiError::body_too_large(limit),
                false => ApiError::malformed_body(format!("the request body could not be read: {error}")),
            }
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(JsonBody(object)),
            Ok(other) => {
                let message = format!("the request body must be a JSON object, got {}", describe(&other));
                Err(ApiError::malformed_body(message))
            }
            Err(error) => {
                Err(ApiError::malformed_body(format!("the request body is not valid JSON: {error}")))
            }
        }
    }
}

/// Rejects a body in an encoding that cannot be decompressed.
pub(crate) async fn require_known_encoding(request: Request, next: Next) -> Result<Response, ApiError> {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let mut names: Vec<String> = encodings
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes()).split(',').map(str::to_owned).collect::<Vec<_>>()
        })
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    names.retain(|name| name != "identity");
    match &names[..] {
        [] => Ok(next.run(request).await),
        [name] if ENCODINGS.contains(&name.as_str()) => Ok(next.run(request).await),
        _ => {
            let message = format!(
                "the content encoding '{}' is not supported; send the body as it is or compress it once with {}",
                names.join(", ").chars().take(100).collect::<String>(),
                ENCODINGS.join(", ")
            );
            Err(ApiError::unsupported_media_type(message))
        }
    }
}

fn may_be_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let value = value.to_str().unwrap_or("invalid");
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["", "application/json", "application/x-www-form-urlencoded"].contains(&essence.as_str())
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn declared_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
