//! Reads a chat request.

use foretoken_engine::TOP_LOGPROBS_MAX;
use serde_json::{Map, Value};

use super::messages;
use super::writer::{ChatWriter, With};
use crate::config::ServerConfig;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::generation::ChatRequest;
use crate::protocol::fields::Fields;
use crate::protocol::openai::options::Shared;
use crate::protocol::request_fields::{self, Route};
use crate::protocol::speculation;
use crate::protocol::tool_choice::ToolChoice;

/// The request, and the writer of its answers.
pub(super) fn read(
    fields: Fields<'_>,
    config: &ServerConfig,
    vocab: usize,
) -> Result<(ChatRequest, ChatWriter), ApiError> {
    request_fields::check(fields, Route::Chat)?;
    let conversation = read_conversation(fields)?;
    let Shared { mut options, include_usage, .. } = Shared::read(fields, config, vocab)?;
    options.request.logprobs = logprobs(fields)?;
    let one_call = !fields.bool("parallel_tool_calls")?.unwrap_or(true);
    let choice = ToolChoice::read(fields, true)?;
    options.constraint = choice.constrain(options.constraint, &conversation.tools, one_call)?;
    let with = With { logprobs: options.request.logprobs.is_some(), drafters: speculation::shows(fields)? };
    let writer = ChatWriter::new(options.n, with, include_usage);
    Ok((ChatRequest { conversation, options, one_call }, writer))
}

/// The conversation of a body.
pub(crate) fn read_conversation(fields: Fields<'_>) -> Result<Conversation, ApiError> {
    let (turns, has_prefix) = messages::read(fields)?;
    let mut conversation = Conversation {
        turns,
        tools: ToolChoice::read(fields, true)?.select(check_tools(fields)?.to_vec())?,
        begin_answer: fields.bool("add_generation_prompt")?.unwrap_or(true),
        template_vars: template_vars(fields)?,
        ..Conversation::default()
    };
    let continues = fields.bool("continue_final_message")?.unwrap_or(false);
    if (has_prefix || continues) && !conversation.continue_last() {
        let param = if continues { "continue_final_message" } else { "messages" };
        let message = "needs a last message of the assistant to continue, with text and without tool calls";
        return Err(ApiError::bad_value(param, message));
    }
    Ok(conversation)
}

fn logprobs(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX as i64)?;
    match (wanted, top) {
        (false, Some(1..)) => {
            Err(ApiError::bad_value("top_logprobs", "is only allowed when 'logprobs' is true"))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
    }
}

/// The tools of a body.
pub(crate) fn check_tools<'a>(fields: Fields<'a>) -> Result<&'a [Value], ApiError> {
    let tools = fields.array("tools")?.unwrap_or_default();
    for (at, tool) in tools.iter().enumerate() {
        let path = format!("tools[{at}]");
        let tool = Fields::at(&path, tool)?;
        if tool.string("type")?.unwrap_or("function") != "function" {
            return Err(ApiError::unsupported(tool.path_of("type"), "can only be \"function\""));
        }
        let path = tool.path_of("function");
        let function =
            tool.get("function").ok_or_else(|| ApiError::missing(path.as_str(), "describe the function"))?;
        let function = Fields::at(&path, function)?;
        if function.string("name")?.is_none_or(str::is_empty) {
            return Err(ApiError::missing(function.path_of("name"), "give the function a name"));
        }
    }
    Ok(tools)
}

/// Variables for the template: DeepSeek's `thinking`, OpenAI's `reasoning_effort`, and vLLM's
/// `chat_template_kwargs`, which takes precedence.
fn template_vars(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut vars = Map::new();
    if let Some(effort) = fields.string("reasoning_effort")? {
        vars.insert("reasoning_effort".into(), effort.into());
        if effort == "none" {
            vars.insert("enable_thinking".into(), false.into());
        }
    }
    if let Some(thinking) = fields.get("thinking") {
        let kind = Fields::at("thinking", thinking)?.string("type")?;
        let on = match kind {
            Some("enabled" | "adaptive") => true,
            Some("disabled") => false,
            _ => return Err(ApiError::bad_value("thinking.type", "must be \"enabled\" or \"disabled\"")),
        };
        // Qwen's templates use the first name, DeepSeek's the second.
        vars.insert("enable_thinking".into(), on.into());
        vars.insert("thinking".into(), on.into());
    }
    if let Some(given) = fields.object("chat_template_kwargs")? {
        vars.extend(given.clone());
    }
    Ok(vars)
}
