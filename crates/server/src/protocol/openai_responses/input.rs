//! Reads conversations in the form of the Responses API: a list of items.

use std::collections::HashMap;

use serde_json::Value;

use crate::conversation::{CallMade, Content, Role, Turn};
use crate::error::ApiError;
use crate::protocol::fields::{Fields, describe};

/// The turns of `instructions` and `input`.
pub(super) fn read(fields: Fields<'_>) -> Result<Vec<Turn>, ApiError> {
    let mut reader = Reader::default();
    if let Some(instructions) = fields.string("instructions")?.filter(|text| !text.is_empty()) {
        reader.turns.push(Turn::text(Role::System, instructions));
    }
    match fields.get("input") {
        Some(Value::String(text)) => reader.turns.push(Turn::text(Role::User, text)),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                reader.item(&format!("input[{at}]"), item)?;
            }
        }
        Some(other) => {
            let got = describe(other);
            let message = format!("must be a string or an array of items and not empty, got {got}");
            return Err(ApiError::bad_value("input", message));
        }
        None => {
            return Err(ApiError::missing("input", "send the conversation as a text or an array of items"));
        }
    }
    Ok(reader.turns)
}

#[derive(Default)]
struct Reader {
    turns: Vec<Turn>,
    /// Names of called functions by the call's id; templates want them with the result.
    functions: HashMap<String, String>,
}

impl Reader {
    fn item(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let fields = Fields::at(path, item)?;
        match fields.string("type")?.unwrap_or("message") {
            "message" => self.message(fields),
            "reasoning" => {
                let reasoning = reasoning(fields)?;
                if !reasoning.is_empty() {
                    self.answer().reasoning = Some(reasoning);
                }
                Ok(())
            }
            "function_call" => self.call(fields),
            "function_call_output" => self.call_output(fields),
            other => {
                let got = describe(&Value::String(other.into()));
                let message = format!(
                    "can only be message, reasoning, function_call or function_call_output, got {got}"
                );
                Err(ApiError::unsupported(fields.path_of("type"), message))
            }
        }
    }

    fn message(&mut self, fields: Fields<'_>) -> Result<(), ApiError> {
        let role = match fields.string("role")? {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system") => Role::System,
            Some("developer") => Role::Developer,
            Some(other) => {
                let got = describe(&Value::String(other.into()));
                let message = format!("must be user, assistant, system or developer, got {got}");
                return Err(ApiError::bad_value(fields.path_of("role"), message));
            }
            None => {
                let message = "set the author of the message, such as \"user\"";
                return Err(ApiError::missing(fields.path_of("role"), message));
            }
        };
        let content = content(fields, "content")?;
        match role {
            Role::Assistant => self.answer().content = Some(content),
            role => self.turns.push(Turn { content: Some(content), ..Turn::of(role) }),
        }
        Ok(())
    }

    /// The turn of the answer that the next item belongs to: an answer's reasoning, text and calls are items of their
    /// own.
    fn answer(&mut self) -> &mut Turn {
        let continues = self.turns.last().is_some_and(|last| {
            last.role == Role::Assistant && last.content.is_none() && last.calls.is_empty()
        });
        if !continues {
            self.turns.push(Turn::of(Role::Assistant));
        }
        let last = self.turns.len() - 1;
        &mut self.turns[last]
    }

    fn call(&mut self, fields: Fields<'_>) -> Result<(), ApiError> {
        let text = |name: &str| {
            let text = fields.string(name)?;
            text.ok_or_else(|| ApiError::missing(fields.path_of(name), "send the item as you got it"))
        };
        let (id, name, arguments) = (text("call_id")?, text("name")?, text("arguments")?);
        self.functions.insert(id.to_owned(), name.to_owned());
        let call = CallMade { id: Some(id.into()), name: name.into(), arguments: arguments.into() };
        match self.turns.last_mut() {
            Some(last) if last.role == Role::Assistant => last.calls.push(call),
            _ => self.answer().calls.push(call),
        }
        Ok(())
    }

    fn call_output(&mut self, fields: Fields<'_>) -> Result<(), ApiError> {
        let id = fields.string("call_id")?;
        let id = id.ok_or_else(|| ApiError::missing(fields.path_of("call_id"), "send the id of the call"))?;
        let turn = Turn {
            content: Some(content(fields, "output")?),
            call_id: Some(id.into()),
            name: self.functions.get(id).cloned(),
            ..Turn::of(Role::Tool)
        };
        self.turns.push(turn);
        Ok(())
    }
}

/// The text of a reasoning item; of one without, its summary.
fn reasoning(fields: Fields<'_>) -> Result<String, ApiError> {
    for name in ["content", "summary"] {
        let parts = fields.array(name)?.unwrap_or_default();
        let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        if !texts.is_empty() {
            return Ok(texts.join("\n\n"));
        }
    }
    Ok(String::new())
}

fn content(fields: Fields<'_>, name: &str) -> Result<Content, ApiError> {
    let path = fields.path_of(name);
    match fields.get(name) {
        Some(Value::String(text)) => Ok(Content::Text(text.clone())),
        Some(Value::Array(parts)) => {
            let part = |(at, part): (usize, &Value)| text_part(&format!("{path}[{at}]"), part);
            let mut texts: Vec<String> = parts.iter().enumerate().map(part).collect::<Result<_, _>>()?;
            let one = if texts.len() == 1 { texts.pop() } else { None };
            Ok(one.map_or_else(|| Content::Parts(texts), Content::Text))
        }
        Some(other) => {
            let message = format!("must be a string or an array of text parts, got {}", describe(other));
            Err(ApiError::bad_value(path, message))
        }
        None => Err(ApiError::missing(path, "send the item's text")),
    }
}

fn text_part(path: &str, part: &Value) -> Result<String, ApiError> {
    let fields = Fields::at(path, part)?;
    let kind = fields.string("type")?;
    let kind = kind.ok_or_else(|| ApiError::missing(fields.path_of("type"), "write \"input_text\""))?;
    let name = match kind {
        "input_text" | "output_text" | "text" => "text",
        "refusal" => "refusal",
        other => {
            let got = describe(&Value::String(other.into()));
            let message =
                format!("can only be \"input_text\" or \"output_text\": only text is supported, got {got}");
            return Err(ApiError::unsupported(fields.path_of("type"), message));
        }
    };
    let text = fields.string(name)?;
    text.map(str::to_owned).ok_or_else(|| ApiError::missing(fields.path_of(name), "send the part's text"))
}
