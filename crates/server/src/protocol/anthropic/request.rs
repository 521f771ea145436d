//! Reads a request for a message.

use foretoken_engine::{Request, Sampling};
use serde_json::{Map, Value, json};

use super::messages;
use crate::conversation::{Conversation, Role};
use crate::error::ApiError;
use crate::generation::{ChatRequest, Options};
use crate::protocol::constraint::{Constrained, OneConstraint, output_format};
use crate::protocol::fields::{Fields, describe};
use crate::protocol::openai::options::stop;
use crate::protocol::request_fields::{self, Route};
use crate::protocol::tool_choice::ToolChoice;
use crate::protocol::{refuse_reports, speculation};

pub(super) fn read(fields: Fields<'_>) -> Result<ChatRequest, ApiError> {
    request_fields::check(fields, Route::Messages)?;
    refuse_reports(fields)?;
    let conversation = read_conversation(fields)?;
    let max_tokens = fields.integer("max_tokens", 1..=i64::MAX)?.ok_or_else(|| {
        ApiError::missing("max_tokens", "set the most tokens that the answer may have, such as 4096")
    })?;
    let request = Request {
        sampling: sampling(fields)?,
        max_tokens: Some(usize::try_from(max_tokens).unwrap_or(usize::MAX)),
        stop: stop(fields, "stop_sequences")?,
        speculation: speculation::read(fields)?,
        ..Request::default()
    };
    let stream = fields.bool("stream")?.unwrap_or(false);
    let one_call = disables_parallel_calls(fields)?;
    let constraint = tool_choice(fields)?.constrain(constraint(fields)?, &conversation.tools, one_call)?;
    let options = Options { request, n: 1, stream, prediction: None, constraint };
    Ok(ChatRequest { conversation, options, one_call })
}

/// The conversation of a body, also one whose tokens are to be counted.
pub(crate) fn read_conversation(fields: Fields<'_>) -> Result<Conversation, ApiError> {
    if let Some(cache_control) = fields.get("cache_control") {
        // Whatever it asks for, the prompt is cached.
        Fields::at("cache_control", cache_control)?;
    }
    let mut turns = messages::system(fields)?;
    turns.extend(messages::read(fields)?);
    let ends_with_answer = turns.last().is_some_and(|last| last.role == Role::Assistant);
    let mut conversation = Conversation {
        turns,
        tools: tools(fields)?,
        begin_answer: true,
        template_vars: template_vars(fields)?,
        ..Conversation::default()
    };
    if ends_with_answer && !conversation.continue_last() {
        let message = "cannot end with an assistant's thinking or tool calls; send the results of the calls";
        return Err(ApiError::bad_value("messages", message));
    }
    Ok(conversation)
}

/// What the answer must be, in either of two places.
fn constraint(fields: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    let mut one = OneConstraint::default();
    if let Some(config) = fields.get("output_config") {
        one.add(output_format(Fields::at("output_config", config)?, "format")?)?;
    }
    one.add(output_format(fields, "output_format")?)?;
    Ok(one.found())
}

fn sampling(fields: Fields<'_>) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let sampling = Sampling {
        temperature: fields.number("temperature")?.unwrap_or(default.temperature),
        top_k: fields.integer("top_k", 0..=i64::from(i32::MAX))?.map_or(default.top_k, |k| k as u32),
        top_p: fields.number("top_p")?.unwrap_or(default.top_p),
        ..default
    };
    sampling.validate().map_err(|invalid| ApiError::bad_value(invalid.param, invalid.message))?;
    Ok(sampling)
}

/// The tools that may be called, as templates read them.
fn tools(fields: Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let tools = fields.array("tools")?.unwrap_or_default().iter().enumerate();
    let tools = tools.map(|(at, tool)| read_tool(&format!("tools[{at}]"), tool));
    let tools: Vec<Value> = tools.collect::<Result<_, _>>()?;
    tool_choice(fields)?.select(tools)
}

fn tool_choice(fields: Fields<'_>) -> Result<ToolChoice, ApiError> {
    chosen(fields)?.with_strict(fields, false)
}

fn chosen(fields: Fields<'_>) -> Result<ToolChoice, ApiError> {
    let Some(choice) = fields.get("tool_choice") else { return Ok(ToolChoice::default()) };
    let choice = Fields::at("tool_choice", choice)?;
    let path = choice.path_of("type");
    match choice.string("type")? {
        Some("auto") => Ok(ToolChoice::default()),
        Some("none") => Ok(ToolChoice::none()),
        Some("any") => Ok(ToolChoice::any(path)),
        Some("tool") => match choice.string("name")? {
            Some(name) => Ok(ToolChoice::one(choice.path_of("name"), name)),
            None => Err(ApiError::missing(choice.path_of("name"), "name the tool")),
        },
        Some(other) => {
            let got = describe(&Value::String(other.into()));
            let message = format!("must be \"auto\", \"any\", \"tool\" or \"none\", got {got}");
            Err(ApiError::bad_value(path, message))
        }
        None => Err(ApiError::missing(path, "write \"auto\", \"any\", \"tool\" or \"none\"")),
    }
}

fn read_tool(path: &str, tool: &Value) -> Result<Value, ApiError> {
    let tool = Fields::at(path, tool)?;
    if let Some(kind) = tool.string("type")?.filter(|kind| *kind != "custom") {
        let got = describe(&Value::String(kind.into()));
        let message = format!("can only be \"custom\": tools of the server are not supported, got {got}");
        return Err(ApiError::unsupported(tool.path_of("type"), message));
    }
    let name = tool.string("name")?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| ApiError::missing(tool.path_of("name"), "give the tool a name"))?;
    let schema = tool.object("input_schema")?;
    let schema = schema.ok_or_else(|| {
        ApiError::missing(tool.path_of("input_schema"), "describe the tool's input as a JSON schema")
    })?;
    let mut function = Map::new();
    function.insert("name".into(), name.into());
    if let Some(description) = tool.string("description")? {
        function.insert("description".into(), description.into());
    }
    function.insert("parameters".into(), schema.clone().into());
    Ok(json!({"type": "function", "function": function}))
}

fn disables_parallel_calls(fields: Fields<'_>) -> Result<bool, ApiError> {
    let Some(choice) = fields.get("tool_choice") else { return Ok(false) };
    Ok(Fields::at("tool_choice", choice)?.bool("disable_parallel_tool_use")?.unwrap_or(false))
}

/// Variables for the template. Without `thinking` the model does not think, as Anthropic has it.
fn template_vars(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut vars = Map::new();
    let kind = match fields.get("thinking") {
        Some(thinking) => Fields::at("thinking", thinking)?.string("type")?,
        None => Some("disabled"),
    };
    let thinks = match kind {
        Some("enabled" | "adaptive" | "between_tools") => true,
        Some("disabled") => false,
        _ => {
            let message = "must be \"enabled\", \"adaptive\" or \"disabled\"";
            return Err(ApiError::bad_value("thinking.type", message));
        }
    };
    // Qwen's templates use the first name, DeepSeek's the second.
    vars.insert("enable_thinking".into(), thinks.into());
    vars.insert("thinking".into(), thinks.into());
    if let Some(config) = fields.get("output_config") {
        let config = Fields::at("output_config", config)?;
        if let Some(effort) = config.string("effort")? {
            vars.insert("reasoning_effort".into(), effort.into());
        }
    }
    Ok(vars)
}
