//! Reads conversations in Ollama's form.

use serde_json::{Map, Value};

use crate::conversation::{CallMade, Role, Turn};
use crate::error::ApiError;
use crate::protocol::fields::{Fields, describe};

/// The turns of `messages`.
pub(super) fn read(fields: Fields<'_>) -> Result<Vec<Turn>, ApiError> {
    let items = fields
        .array("messages")?
        .ok_or_else(|| ApiError::missing("messages", "send the conversation as an array of messages"))?;
    items.iter().enumerate().map(|(at, item)| turn(&format!("messages[{at}]"), item)).collect()
}

fn turn(path: &str, item: &Value) -> Result<Turn, ApiError> {
    let fields = Fields::at(path, item)?;
    no_images(fields)?;
    let (role, calls) = (role(fields)?, calls(fields)?);
    let content = fields.string("content")?;
    if content.is_none() && calls.is_empty() {
        return Err(ApiError::missing(fields.path_of("content"), "send the message's text"));
    }
    Ok(Turn {
        reasoning: fields.string("thinking")?.filter(|text| !text.is_empty()).map(str::to_owned),
        calls,
        call_id: fields.string("tool_call_id")?.map(str::to_owned),
        name: fields.string("tool_name")?.map(str::to_owned),
        ..match content {
            Some(text) => Turn::text(role, text),
            None => Turn::of(role),
        }
    })
}

fn role(fields: Fields<'_>) -> Result<Role, ApiError> {
    let names = "\"system\", \"user\", \"assistant\" or \"tool\"";
    match fields.string("role")? {
        Some("system") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        Some(other) => {
            let got = describe(&Value::String(other.into()));
            Err(ApiError::bad_value(fields.path_of("role"), format!("must be {names}, got {got}")))
        }
        None => Err(ApiError::missing(fields.path_of("role"), format!("write {names}"))),
    }
}

/// Refuses a message with images.
fn no_images(fields: Fields<'_>) -> Result<(), ApiError> {
    match fields.array("images")? {
        None | Some([]) => Ok(()),
        Some(_) => {
            Err(ApiError::unsupported(fields.path_of("images"), "must be empty: only text is supported"))
        }
    }
}

/// The calls of an earlier answer.
fn calls(fields: Fields<'_>) -> Result<Vec<CallMade>, ApiError> {
    let path = fields.path_of("tool_calls");
    let call = |(at, item): (usize, &Value)| {
        let path = format!("{path}[{at}]");
        let call = Fields::at(&path, item)?;
        let path = call.path_of("function");
        let function = call
            .get("function")
            .ok_or_else(|| ApiError::missing(path.as_str(), "send the call's name and arguments"))?;
        let function = Fields::at(&path, function)?;
        let name = function.string("name")?;
        let name = name.ok_or_else(|| ApiError::missing(function.path_of("name"), "name the function"))?;
        Ok(CallMade {
            id: call.string("id")?.map(str::to_owned),
            name: name.to_owned(),
            arguments: function.get("arguments").cloned().unwrap_or_else(|| Value::Object(Map::new())),
        })
    };
    fields.array("tool_calls")?.unwrap_or_default().iter().enumerate().map(call).collect()
}
