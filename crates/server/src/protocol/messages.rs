//! Validates conversations. Converting them for a particular template is left to the template.

use serde_json::Value;

use super::fields::{Fields, describe};
use crate::error::ApiError;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The messages of a body, validated and otherwise unchanged.
pub(crate) fn read(fields: Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let items = fields
        .array("messages")?
        .ok_or_else(|| ApiError::missing("messages", "send the conversation as an array of messages"))?;
    if items.is_empty() {
        return Err(ApiError::bad_value("messages", "must hold at least one message"));
    }
    for (at, item) in items.iter().enumerate() {
        check(&format!("messages[{at}]"), item)?;
    }
    Ok(items.to_vec())
}

fn check(path: &str, item: &Value) -> Result<(), ApiError> {
    let fields = Fields::at(path, item)?;
    let role = fields.string("role")?.ok_or_else(|| {
        ApiError::missing(
            fields.path_of("role"),
            format!("set the author of the message, one of {}", ROLES.join(", ")),
        )
    })?;
    if !ROLES.contains(&role) {
        let got = describe(&Value::String(role.into()));
        let message = format!("must be one of {}, got {got}", ROLES.join(", "));
        return Err(ApiError::bad_value(fields.path_of("role"), message));
    }
    if fields.bool("prefix")?.unwrap_or(false) {
        return Err(ApiError::unsupported(
            fields.path_of("prefix"),
            "is not supported yet; use /v1/completions to continue a text",
        ));
    }
    let calls = fields.array("tool_calls")?.is_some_and(|calls| !calls.is_empty());
    let content = fields.path_of("content");
    match fields.get("content") {
        None if role == "assistant" && (calls || fields.get("function_call").is_some()) => Ok(()),
        None => Err(ApiError::missing(content, "send the message's text (or an assistant's tool_calls)")),
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) => check_parts(&content, parts),
        Some(other) => {
            let message = format!("must be a string or an array of text parts, got {}", describe(other));
            Err(ApiError::bad_value(content, message))
        }
    }
}

fn check_parts(path: &str, parts: &[Value]) -> Result<(), ApiError> {
    for (at, part) in parts.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let fields = Fields::at(&path, part)?;
        let kind = fields.string("type")?;
        let kind = kind.ok_or_else(|| ApiError::missing(fields.path_of("type"), "write \"text\""))?;
        if kind != "text" {
            let got = describe(&Value::String(kind.into()));
            let message = format!("can only be \"text\": only text is supported, got {got}");
            return Err(ApiError::unsupported(fields.path_of("type"), message));
        }
        if fields.string("text")?.is_none() {
            return Err(ApiError::missing(fields.path_of("text"), "send the part's text"));
        }
    }
    Ok(())
}
