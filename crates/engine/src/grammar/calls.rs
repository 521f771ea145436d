//! The grammar of tool calls in Hermes' form: `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`.
//!
//! Where any text may surround calls, the grammar is that of one call without its opening tag.

use serde_json::{Value, json};

use super::compile::json_schema;
use super::{Calls, Constraint, GrammarError};

/// Most calls in one answer: models that were told to call may not find an end.
const CALLS_MAX: usize = 16;
/// Begins a call.
pub(super) const OPEN: &str = "<tool_call>";

/// The grammar in Lark.
///
/// # Errors
/// No function, parameters that are no object, or an alternative that may begin like a call.
pub(super) fn to_lark(calls: &Calls) -> Result<String, GrammarError> {
    if calls.functions.is_empty() {
        return Err(GrammarError("needs at least one tool that may be called".into()));
    }
    let names = |kind: &str| {
        let names: Vec<String> = (0..calls.functions.len()).map(|at| format!("{kind}{at}")).collect();
        names.join(" | ")
    };
    let open = if calls.free { "" } else { OPEN };
    let more = if calls.many && !calls.free {
        format!(" (\"\\n\" call)~0..{}", CALLS_MAX - 1)
    } else {
        String::new()
    };
    let mut lark = match &calls.or {
        None => format!("start: call{more}\n"),
        Some(or) => format!("start: call{more} | answer\nanswer: %json {}\n", json_of(or)?),
    };
    lark += &format!("call: {}\n", names("function"));
    for (at, function) in calls.functions.iter().enumerate() {
        let head = format!("{open}\n{{\"name\": {}, \"arguments\": ", json!(function.name));
        let parameters = json_schema(&object_of(&function.parameters)?)?;
        // Literals of Lark are those of JSON.
        lark += &format!("function{at}: {} arguments{at} \"}}\\n</tool_call>\"\n", json!(head));
        lark += &format!("arguments{at}: %json {parameters}\n");
    }
    Ok(lark)
}

/// The schema of a function's arguments, which are an object; none without parameters.
fn object_of(parameters: &Value) -> Result<Value, GrammarError> {
    let mut schema = match parameters {
        Value::Null => serde_json::Map::new(),
        Value::Object(schema) => schema.clone(),
        _ => return Err(GrammarError("must be an object that is a JSON schema".into())),
    };
    if schema.is_empty() {
        schema.insert("additionalProperties".into(), false.into());
    }
    match schema.get("type") {
        None => drop(schema.insert("type".into(), "object".into())),
        Some(kind) if kind == "object" => {}
        Some(_) => return Err(GrammarError("must be the schema of an object".into())),
    }
    Ok(schema.into())
}

/// The alternative to calls: JSON, which never begins as they do.
fn json_of(constraint: &Constraint) -> Result<Value, GrammarError> {
    match constraint {
        Constraint::JsonObject => json_schema(&json!({"type": "object"})),
        Constraint::JsonSchema(schema) => json_schema(schema),
        _ => Err(GrammarError("cannot be combined with tools: only JSON can".into())),
    }
}
