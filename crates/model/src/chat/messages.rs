//! From OpenAI's messages to what templates expect, which differs: some want tool arguments as objects, some
//! as JSON text; most want content as a string, a few as a list of parts.

use serde_json::{Value, json};

use super::{ChatInput, ChatTemplate, TemplateError};

/// What a template expects, found out by rendering a probe when it is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dialect {
    /// Tool arguments as objects (and not as JSON text).
    arguments_as_objects: bool,
    /// Null for the content of a turn that only calls tools (and not an empty string). Some templates tell such
    /// a turn by it, others fail on it.
    content_may_be_null: bool,
    /// Content as a list of parts (and not as a string).
    content_as_parts: bool,
    /// The template knows the `developer` role.
    knows_developer: bool,
}

const PROBE: &str = "foretoken_probe";

impl Dialect {
    pub(super) fn probe(template: &ChatTemplate) -> Self {
        let shows = |messages: Value, wanted: &str| {
            let messages = messages.as_array().cloned().unwrap_or_default();
            let rendered = template.render_prepared(messages, &ChatInput::default());
            rendered.is_ok_and(|rendered| rendered.text().contains(wanted))
        };
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let content_as_parts =
            !shows(user(json!(PROBE)), PROBE) && shows(user(json!([{"type": "text", "text": PROBE}])), PROBE);
        let call = |content: Value| {
            let function = json!({"name": "f", "arguments": {PROBE: 1}});
            let call = json!({"type": "function", "id": "call00001", "function": function});
            json!([
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": content, "tool_calls": [call]},
            ])
        };
        let content_may_be_null = shows(call(Value::Null), "");
        let content = if content_may_be_null { Value::Null } else { json!("") };
        let arguments_as_objects = shows(call(content), &format!("\"{PROBE}\""));
        let knows_developer = template.source().contains("developer");
        Dialect { arguments_as_objects, content_may_be_null, content_as_parts, knows_developer }
    }
}

/// The messages as the template wants them.
pub(super) fn prepare(messages: &[Value], dialect: Dialect) -> Result<Vec<Value>, TemplateError> {
    messages.iter().enumerate().map(|(i, message)| prepare_one(message, i, dialect)).collect()
}

fn prepare_one(message: &Value, index: usize, dialect: Dialect) -> Result<Value, TemplateError> {
    let Value::Object(message) = message else {
        return Err(input_error(format!("messages[{index}]"), "a message is an object"));
    };
    let mut message = message.clone();
    let has_calls =
        message.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    let content = message.get("content").unwrap_or(&Value::Null);
    let text = flatten(content, &format!("messages[{index}].content"))?;
    let content = match text {
        None if has_calls && dialect.content_may_be_null => Value::Null,
        None => Value::String(String::new()),
        Some(text) if dialect.content_as_parts => json!([{"type": "text", "text": text}]),
        Some(text) => Value::String(text),
    };
    message.insert("content".into(), content);
    if !dialect.knows_developer && message.get("role").is_some_and(|role| role == "developer") {
        message.insert("role".into(), "system".into());
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        for call in calls {
            if let Some(arguments) = call.pointer_mut("/function/arguments") {
                reshape(arguments, dialect);
            }
        }
    }
    Ok(Value::Object(message))
}

/// The text of a content; several parts are separated by line breaks.
fn flatten(content: &Value, param: &str) -> Result<Option<String>, TemplateError> {
    let parts = match content {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone())),
        Value::Array(parts) => parts,
        _ => return Err(input_error(param.into(), "content is a string, null or a list of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let part_param = || format!("{param}[{i}]");
        match (part, part.get("type").and_then(Value::as_str), part.get("text")) {
            (Value::String(text), ..) | (_, Some("text"), Some(Value::String(text))) => {
                texts.push(text.as_str())
            }
            (_, Some("text"), _) => return Err(input_error(part_param(), "a text part has a string `text`")),
            (_, Some(other), _) => {
                let message = format!("parts of type `{other}` are not supported: the model reads text only");
                return Err(input_error(part_param(), &message));
            }
            _ => return Err(input_error(part_param(), "a part has a `type`")),
        }
    }
    Ok(Some(texts.join("\n")))
}

/// Arguments that aren't a JSON object, which a model can write, stay as they are.
fn reshape(arguments: &mut Value, dialect: Dialect) {
    match arguments {
        Value::String(text) if dialect.arguments_as_objects => {
            if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                *arguments = object;
            }
        }
        Value::Object(_) if !dialect.arguments_as_objects => {
            *arguments = Value::String(super::json::dumps(arguments, &super::json::Style::default()));
        }
        _ => {}
    }
}

fn input_error(param: String, message: &str) -> TemplateError {
    TemplateError::Input { param, message: message.to_owned() }
}
