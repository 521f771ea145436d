//! Reads conversations in OpenAI's form.

use serde_json::Value;

use crate::conversation::{CallMade, Content, Role, Turn};
use crate::error::ApiError;
use crate::protocol::fields::{Fields, describe};

/// Fields of a message that have a place in a turn. Templates get the others as they are.
const KNOWN: [&str; 7] =
    ["role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "prefix"];

/// The messages of a body, and whether the last one is DeepSeek's `prefix` of the answer.
pub(super) fn read(fields: Fields<'_>) -> Result<(Vec<Turn>, bool), ApiError> {
    let items = fields
        .array("messages")?
        .ok_or_else(|| ApiError::missing("messages", "send the conversation as an array of messages"))?;
    if items.is_empty() {
        return Err(ApiError::bad_value("messages", "must hold at least one message"));
    }
    let (mut turns, mut has_prefix) = (Vec::with_capacity(items.len()), false);
    for (at, item) in items.iter().enumerate() {
        let path = format!("messages[{at}]");
        turns.push(turn(&path, item)?);
        let fields = Fields::at(&path, item)?;
        has_prefix = fields.bool("prefix")?.unwrap_or(false);
        if has_prefix && at + 1 < items.len() {
            let message = "is only allowed in the last message, which the answer continues";
            return Err(ApiError::bad_value(fields.path_of("prefix"), message));
        }
    }
    Ok((turns, has_prefix))
}

fn turn(path: &str, item: &Value) -> Result<Turn, ApiError> {
    let fields = Fields::at(path, item)?;
    let role = role(fields)?;
    let calls = calls(fields)?;
    let content = content(fields)?;
    let may_be_silent =
        role == Role::Assistant && (!calls.is_empty() || fields.get("function_call").is_some());
    if content.is_none() && !may_be_silent {
        let message = "send the message's text (or an assistant's tool_calls)";
        return Err(ApiError::missing(fields.path_of("content"), message));
    }
    let more = fields.others(&KNOWN);
    Ok(Turn {
        role,
        content,
        reasoning: fields.string("reasoning_content")?.map(str::to_owned),
        calls,
        call_id: fields.string("tool_call_id")?.map(str::to_owned),
        name: fields.string("name")?.map(str::to_owned),
        more,
    })
}

fn role(fields: Fields<'_>) -> Result<Role, ApiError> {
    let names = || Role::ALL.map(Role::name).join(", ");
    let name = fields.string("role")?.ok_or_else(|| {
        let message = format!("set the author of the message, one of {}", names());
        ApiError::missing(fields.path_of("role"), message)
    })?;
    Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
        let got = describe(&Value::String(name.into()));
        ApiError::bad_value(fields.path_of("role"), format!("must be one of {}, got {got}", names()))
    })
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
            arguments: function
                .get("arguments")
                .cloned()
                .unwrap_or_else(|| Value::Object(Default::default())),
        })
    };
    fields.array("tool_calls")?.unwrap_or_default().iter().enumerate().map(call).collect()
}

fn content(fields: Fields<'_>) -> Result<Option<Content>, ApiError> {
    let path = fields.path_of("content");
    match fields.get("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(Content::Text(text.clone()))),
        Some(Value::Array(parts)) => {
            let part = |(at, part): (usize, &Value)| text_part(&format!("{path}[{at}]"), part);
            parts
                .iter()
                .enumerate()
                .map(part)
                .collect::<Result<_, _>>()
                .map(|parts| Some(Content::Parts(parts)))
        }
        Some(other) => {
            let message = format!("must be a string or an array of text parts, got {}", describe(other));
            Err(ApiError::bad_value(path, message))
        }
    }
}

fn text_part(path: &str, part: &Value) -> Result<String, ApiError> {
    let fields = Fields::at(path, part)?;
    let kind = fields.string("type")?;
    let kind = kind.ok_or_else(|| ApiError::missing(fields.path_of("type"), "write \"text\""))?;
    if kind != "text" {
        let got = describe(&Value::String(kind.into()));
        let message = format!("can only be \"text\": only text is supported, got {got}");
        return Err(ApiError::unsupported(fields.path_of("type"), message));
    }
    let text = fields.string("text")?;
    text.map(str::to_owned).ok_or_else(|| ApiError::missing(fields.path_of("text"), "send the part's text"))
}
