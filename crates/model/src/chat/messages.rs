//! From OpenAI's messages to the format that a template expects ([`Dialect`]), with the changes that transformers
//! makes: keys without a value are left out, and reasoning is found under each of its names.

use serde_json::{Map, Value, json};

use super::TemplateError;
use super::dialect::{Arguments, Dialect, NoContent};
use super::json::{Style, dumps};

/// Names of a message's reasoning. Templates read the first, gpt-oss's the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The messages in the format that the template expects.
pub(super) fn prepare(messages: &[Value], dialect: Dialect) -> Result<Vec<Value>, TemplateError> {
    messages.iter().enumerate().map(|(i, message)| prepare_one(message, i, dialect)).collect()
}

fn prepare_one(message: &Value, index: usize, dialect: Dialect) -> Result<Value, TemplateError> {
    let Value::Object(message) = message else {
        return Err(input_error(format!("messages[{index}]"), "a message is an object"));
    };
    let has_calls =
        message.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    let parts = parts(message.get("content").unwrap_or(&Value::Null), &format!("messages[{index}].content"))?;
    let mut message: Map<String, Value> =
        message.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !dialect.has_developer && message.get("role").is_some_and(|role| role == "developer") {
        message.insert("role".into(), "system".into());
    }
    let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
    let content = match parts {
        None if has_calls && dialect.no_content == NoContent::Absent => None,
        None if has_calls && dialect.no_content == NoContent::Null => Some(Value::Null),
        None => Some(Value::String(String::new())),
        Some(Content::Text(text)) if dialect.content_as_parts => {
            Some(json!([{"type": "text", "text": text}]))
        }
        Some(Content::Text(text)) => Some(Value::String(text)),
        Some(Content::Parts(texts)) if dialect.content_as_parts || dialect.parts.of(role) => {
            Some(texts.iter().map(|text| json!({"type": "text", "text": text})).collect())
        }
        // As in the server of transformers.
        Some(Content::Parts(texts)) => Some(Value::String(texts.join(" "))),
    };
    if let Some(content) = content {
        message.insert("content".into(), content);
    }
    let reasoning = REASONING.iter().find_map(|name| message.get(*name)).cloned();
    if let Some(reasoning) = reasoning {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        for call in calls {
            if let Some(arguments) = call.pointer_mut("/function/arguments") {
                reshape(arguments, dialect.arguments);
            }
        }
    }
    Ok(Value::Object(message))
}

/// The content of a message.
enum Content {
    Text(String),
    Parts(Vec<String>),
}

fn parts(content: &Value, param: &str) -> Result<Option<Content>, TemplateError> {
    let parts = match content {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(Content::Text(text.clone()))),
        Value::Array(parts) => parts,
        _ => return Err(input_error(param.into(), "content is a string, null or a list of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let part_param = || format!("{param}[{i}]");
        match (part, part.get("type").and_then(Value::as_str), part.get("text")) {
            (Value::String(text), ..) | (_, Some("text"), Some(Value::String(text))) => {
                texts.push(text.clone());
            }
            (_, Some("text"), _) => return Err(input_error(part_param(), "a text part has a string `text`")),
            (_, Some(other), _) => {
                let message = format!("parts of type `{other}` are not supported: the model reads text only");
                return Err(input_error(part_param(), &message));
            }
            _ => return Err(input_error(part_param(), "a part has a `type`")),
        }
    }
    Ok(Some(Content::Parts(texts)))
}

/// Arguments that are not a JSON object, which a model can write, are left as they are.
fn reshape(arguments: &mut Value, wanted: Arguments) {
    match (&mut *arguments, wanted) {
        (Value::String(text), Arguments::Objects) => {
            if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                *arguments = object;
            }
        }
        (Value::Object(_), Arguments::Text) => {
            let object = minijinja::Value::from_serialize(&*arguments);
            if let Ok(text) = dumps(&object, &Style::default()) {
                *arguments = Value::String(text);
            }
        }
        _ => {}
    }
}

fn input_error(param: String, message: &str) -> TemplateError {
    TemplateError::Input { param, message: message.to_owned() }
}
