//! Reads a request for a response.

use foretoken_engine::{Request, Sampling, TOP_LOGPROBS_MAX};
use serde_json::{Map, Value, json};

use super::input;
use super::writer::ResponseWriter;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::generation::{ChatRequest, Options};
use crate::protocol::constraint::{self, Constrained};
use crate::protocol::fields::{Fields, describe};
use crate::protocol::request_fields::{self, Route};
use crate::protocol::tool_choice::ToolChoice;
use crate::protocol::{refuse_reports, speculation};

/// The value of `include` that asks for log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

pub(super) fn read(fields: Fields<'_>) -> Result<(ChatRequest, ResponseWriter), ApiError> {
    request_fields::check(fields, Route::Responses)?;
    refuse_reports(fields)?;
    let choice = ToolChoice::read(fields, false)?;
    let conversation = Conversation {
        turns: input::read(fields)?,
        tools: choice.select(tools(fields)?)?,
        begin_answer: true,
        template_vars: template_vars(fields)?,
        ..Conversation::default()
    };
    let default = Sampling::default();
    let sampling = Sampling {
        temperature: fields.number("temperature")?.unwrap_or(default.temperature),
        top_p: fields.number("top_p")?.unwrap_or(default.top_p),
        ..default
    };
    sampling.validate().map_err(|invalid| ApiError::bad_value(invalid.param, invalid.message))?;
    let max_tokens = fields.integer("max_output_tokens", 1..=i64::MAX)?;
    let request = Request {
        sampling,
        max_tokens: max_tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
        logprobs: logprobs(fields)?,
        speculation: speculation::read(fields)?,
        ..Request::default()
    };
    let one_call = !fields.bool("parallel_tool_calls")?.unwrap_or(true);
    let constraint = choice.constrain(text_format(fields)?, &conversation.tools, one_call)?;
    let stream = fields.bool("stream")?.unwrap_or(false);
    let writer = ResponseWriter::new(echo(fields, &request), request.logprobs.is_some());
    let options = Options { request, n: 1, stream, prediction: None, constraint };
    Ok((ChatRequest { conversation, options, one_call }, writer))
}

/// What a response repeats of its request.
fn echo(fields: Fields<'_>, request: &Request) -> Map<String, Value> {
    let or = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let echoed = json!({
        "background": false,
        "instructions": or("instructions", Value::Null),
        "max_output_tokens": or("max_output_tokens", Value::Null),
        "metadata": or("metadata", json!({})),
        "parallel_tool_calls": or("parallel_tool_calls", true.into()),
        "previous_response_id": null,
        "reasoning": or("reasoning", json!({"effort": null, "summary": null})),
        "store": false,
        "temperature": or("temperature", json!(1.0)),
        "text": or("text", json!({"format": {"type": "text"}})),
        "tool_choice": or("tool_choice", "auto".into()),
        "tools": or("tools", json!([])),
        "top_logprobs": request.logprobs.unwrap_or(0),
        "top_p": or("top_p", json!(1.0)),
        "truncation": "disabled",
        "user": or("user", Value::Null),
    });
    if let Value::Object(echoed) = echoed { echoed } else { Map::new() }
}

fn logprobs(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let mut wanted = false;
    for (at, item) in fields.array("include")?.unwrap_or_default().iter().enumerate() {
        // The others name what tools of the server would give, and encrypted reasoning; there is none of either.
        let Some(name) = item.as_str() else {
            let message = format!("must be a string, got {}", describe(item));
            return Err(ApiError::bad_value(format!("include[{at}]"), message));
        };
        wanted |= name == LOGPROBS;
    }
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX as i64)?.unwrap_or(0);
    match (wanted, top) {
        (true, top) => Ok(Some(top as usize)),
        (false, 0) => Ok(None),
        (false, _) => {
            let message = format!("is only allowed when 'include' has \"{LOGPROBS}\"");
            Err(ApiError::bad_value("top_logprobs", message))
        }
    }
}

/// The functions that the model may call, as templates read them. Tools that OpenAI's
/// servers run, and those of a client that are not functions, are not offered to the model: agents list them in every
/// request, whether or not the server has them.
fn tools(fields: Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let mut functions = Vec::new();
    for (at, tool) in fields.array("tools")?.unwrap_or_default().iter().enumerate() {
        let path = format!("tools[{at}]");
        let tool = Fields::at(&path, tool)?;
        match tool.string("type")? {
            Some("function") => functions.push(function(tool)?),
            Some(other) => {
                tracing::debug!(kind = other, "a tool that is not a function is not offered to the model")
            }
            None => return Err(ApiError::missing(tool.path_of("type"), "write \"function\"")),
        }
    }
    Ok(functions)
}

fn function(tool: Fields<'_>) -> Result<Value, ApiError> {
    let name = tool.string("name")?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| ApiError::missing(tool.path_of("name"), "give the function a name"))?;
    let mut function = Map::from_iter([("name".to_owned(), name.into())]);
    if let Some(description) = tool.string("description")? {
        function.insert("description".into(), description.into());
    }
    if let Some(parameters) = tool.object("parameters")? {
        function.insert("parameters".into(), parameters.clone().into());
    }
    Ok(json!({"type": "function", "function": function}))
}

fn template_vars(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut vars = Map::new();
    let Some(reasoning) = fields.get("reasoning") else { return Ok(vars) };
    if let Some(effort) = Fields::at("reasoning", reasoning)?.string("effort")? {
        vars.insert("reasoning_effort".into(), effort.into());
        if effort == "none" {
            vars.insert("enable_thinking".into(), false.into());
        }
    }
    Ok(vars)
}

/// What the text of the response must be.
fn text_format(fields: Fields<'_>) -> Result<Option<Constrained>, ApiError> {
    let Some(text) = fields.get("text") else { return Ok(None) };
    let text = Fields::at("text", text)?;
    if text.string("verbosity")?.is_some_and(|verbosity| verbosity != "medium") {
        let message = "can only be \"medium\": ask for short or long responses in a message";
        return Err(ApiError::unsupported("text.verbosity", message));
    }
    constraint::text_format(text)
}
