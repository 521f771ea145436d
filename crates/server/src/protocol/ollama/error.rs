//! Errors in Ollama's shape.

use serde_json::{Value, json};

use crate::error::ApiError;

/// The JSON body, also sent as a line of a stream.
pub(crate) fn body(error: &ApiError) -> Value {
    json!({"error": error.message})
}
