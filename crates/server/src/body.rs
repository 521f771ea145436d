//! Parses a request body: a JSON object of bounded size.
//!
//! The content type is insisted on. A page in a browser can send a cross-origin `text/plain` POST without
//! asking, but not a JSON one; so without CORS no page reaches a server on the reader's own machine.

use std::error::Error;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::protocol::fields::{Fields, describe};
use crate::state::Shared;

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
        if !is_json(headers) {
            return Err(ApiError::not_json());
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

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn declared_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
