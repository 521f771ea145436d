//! Reads conversations in Anthropic's form: turns of content blocks.

use std::collections::HashMap;

use serde_json::Value;

use crate::conversation::{CallMade, Role, Turn};
use crate::error::ApiError;
use crate::protocol::fields::{Fields, describe};

/// Between two text blocks of one turn.
const BETWEEN_BLOCKS: &str = "\n\n";

/// The turn of `system`, if there is one.
pub(super) fn system(fields: Fields<'_>) -> Result<Vec<Turn>, ApiError> {
    let text = match fields.get("system") {
        Some(content) => texts("system", content)?,
        None => return Ok(Vec::new()),
    };
    Ok(if text.is_empty() { Vec::new() } else { vec![Turn::text(Role::System, text)] })
}

/// The turns of `messages`. A tool's result is a turn of its own.
pub(super) fn read(fields: Fields<'_>) -> Result<Vec<Turn>, ApiError> {
    let items = fields
        .array("messages")?
        .ok_or_else(|| ApiError::missing("messages", "send the conversation as an array of messages"))?;
    let mut reader = Reader { turns: Vec::new(), tools: HashMap::new() };
    for (at, item) in items.iter().enumerate() {
        reader.message(&format!("messages[{at}]"), item)?;
    }
    if reader.turns.is_empty() {
        return Err(ApiError::bad_value("messages", "must hold at least one message"));
    }
    Ok(reader.turns)
}

struct Reader {
    turns: Vec<Turn>,
    /// Names of called tools by the call's id; templates want them with the result.
    tools: HashMap<String, String>,
}

impl Reader {
    fn message(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let fields = Fields::at(path, item)?;
        let content = fields.get("content");
        let path = fields.path_of("content");
        let content = content.ok_or_else(|| ApiError::missing(path.as_str(), "send the message's text"))?;
        match fields.string("role")? {
            Some("user") => self.user(&path, content),
            Some("assistant") => self.assistant(&path, content),
            Some("system") => {
                self.turns.push(Turn::text(Role::System, texts(&path, content)?));
                Ok(())
            }
            Some(other) => {
                let got = describe(&Value::String(other.into()));
                let message = format!("must be \"user\", \"assistant\" or \"system\", got {got}");
                Err(ApiError::bad_value(fields.path_of("role"), message))
            }
            None => Err(ApiError::missing(fields.path_of("role"), "write \"user\" or \"assistant\"")),
        }
    }

    fn user(&mut self, path: &str, content: &Value) -> Result<(), ApiError> {
        let mut text = Vec::new();
        for block in blocks(path, content)? {
            match block {
                Block::Text(more) => text.push(more),
                Block::Other { kind: "tool_result", path, block } => {
                    self.end_user_turn(&mut text);
                    self.tool_result(&path, block)?;
                }
                Block::Other { kind, path, .. } => return Err(unknown(&path, kind, "text and tool_result")),
            }
        }
        self.end_user_turn(&mut text);
        Ok(())
    }

    fn end_user_turn(&mut self, text: &mut Vec<&str>) {
        if !text.is_empty() {
            self.turns.push(Turn::text(Role::User, text.join(BETWEEN_BLOCKS)));
            text.clear();
        }
    }

    fn tool_result(&mut self, path: &str, block: &Value) -> Result<(), ApiError> {
        let fields = Fields::at(path, block)?;
        let id = fields.string("tool_use_id")?;
        let id = id.ok_or_else(|| {
            ApiError::missing(fields.path_of("tool_use_id"), "send the id of the tool_use block")
        })?;
        let mut text = match fields.get("content") {
            Some(content) => texts(&fields.path_of("content"), content)?,
            None => String::new(),
        };
        if text.is_empty() && fields.bool("is_error")?.unwrap_or(false) {
            text = "error".into();
        }
        let name = self.tools.get(id).cloned();
        self.turns.push(Turn { call_id: Some(id.into()), name, ..Turn::text(Role::Tool, text) });
        Ok(())
    }

    fn assistant(&mut self, path: &str, content: &Value) -> Result<(), ApiError> {
        let mut turn = Turn::of(Role::Assistant);
        let (mut text, mut thinking) = (Vec::new(), Vec::new());
        for block in blocks(path, content)? {
            match block {
                Block::Text(more) => text.push(more),
                Block::Other { kind: "thinking", path, block } => {
                    let fields = Fields::at(&path, block)?;
                    thinking.push(fields.string("thinking")?.unwrap_or_default().to_owned());
                }
                // What another server thought, encrypted.
                Block::Other { kind: "redacted_thinking", .. } => {}
                Block::Other { kind: "tool_use", path, block } => {
                    turn.calls.push(self.tool_use(&path, block)?)
                }
                Block::Other { kind, path, .. } => {
                    return Err(unknown(&path, kind, "text, thinking and tool_use"));
                }
            }
        }
        if !text.is_empty() || turn.calls.is_empty() {
            turn = Turn { content: Turn::text(turn.role, text.join(BETWEEN_BLOCKS)).content, ..turn };
        }
        turn.reasoning = (!thinking.is_empty()).then(|| thinking.join(BETWEEN_BLOCKS));
        self.turns.push(turn);
        Ok(())
    }

    fn tool_use(&mut self, path: &str, block: &Value) -> Result<CallMade, ApiError> {
        let fields = Fields::at(path, block)?;
        let text = |name: &str| {
            let text = fields.string(name)?.filter(|text| !text.is_empty());
            text.ok_or_else(|| ApiError::missing(fields.path_of(name), "send the block as you got it"))
        };
        let (id, name) = (text("id")?, text("name")?);
        self.tools.insert(id.to_owned(), name.to_owned());
        let input = fields.object("input")?.cloned().unwrap_or_default();
        Ok(CallMade { id: Some(id.into()), name: name.into(), arguments: input.into() })
    }
}

/// A content block.
enum Block<'a> {
    Text(&'a str),
    /// One of another type.
    Other {
        kind: &'a str,
        path: String,
        block: &'a Value,
    },
}

/// The blocks of a content, which may be just a text. Empty texts say nothing.
fn blocks<'a>(path: &str, content: &'a Value) -> Result<Vec<Block<'a>>, ApiError> {
    let items = match content {
        Value::String(text) => return Ok(vec![Block::Text(text)]),
        Value::Array(items) => items,
        other => {
            let message = format!("must be a string or an array of content blocks, got {}", describe(other));
            return Err(ApiError::bad_value(path, message));
        }
    };
    let mut blocks = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match (item["type"].as_str(), item["text"].as_str()) {
            (Some("text"), Some("")) => {}
            (Some("text"), Some(text)) => blocks.push(Block::Text(text)),
            (Some("text"), None) => {
                return Err(ApiError::missing(format!("{path}.text"), "send the text of the block"));
            }
            (Some(kind), _) => blocks.push(Block::Other { kind, path, block: item }),
            (None, _) => return Err(ApiError::missing(format!("{path}.type"), "write \"text\"")),
        }
    }
    Ok(blocks)
}

/// The text of a content that may hold nothing else.
fn texts(path: &str, content: &Value) -> Result<String, ApiError> {
    let text = |block: Block<'_>| match block {
        Block::Text(text) => Ok(text.to_owned()),
        Block::Other { kind, path, .. } => Err(unknown(&path, kind, "text")),
    };
    let texts: Vec<String> = blocks(path, content)?.into_iter().map(text).collect::<Result<_, _>>()?;
    Ok(texts.join(BETWEEN_BLOCKS))
}

fn unknown(path: &str, kind: &str, known: &str) -> ApiError {
    let got = describe(&Value::String(kind.into()));
    let message = format!("can only be {known} here: only text is supported, got {got}");
    ApiError::unsupported(format!("{path}.type"), message)
}
