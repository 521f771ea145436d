//! Reads requests for answers.

use foretoken_engine::{Request, Sampling, TOP_LOGPROBS_MAX};
use serde_json::{Map, Value};

use super::messages;
use crate::conversation::{Conversation, Role, Turn};
use crate::error::ApiError;
use crate::generation::{ChatRequest, Options};
use crate::protocol::constraint::ollama_format;
use crate::protocol::fields::{Fields, describe};
use crate::protocol::openai::options::stop;
use crate::protocol::openai_chat::check_tools;
use crate::protocol::request_fields::{self, Route};
use crate::protocol::tool_choice::ToolChoice;
use crate::protocol::{refuse_reports, speculation};

/// Levels of `think`.
const LEVELS: [&str; 4] = ["low", "medium", "high", "max"];

/// A request of `/api/chat`.
pub(super) fn read_chat(fields: Fields<'_>) -> Result<ChatRequest, ApiError> {
    request_fields::check(fields, Route::OllamaChat)?;
    let mut conversation = Conversation {
        turns: messages::read(fields)?,
        tools: check_tools(fields)?.to_vec(),
        begin_answer: true,
        template_vars: template_vars(fields)?,
        ..Conversation::default()
    };
    if conversation.turns.is_empty() {
        return Err(ApiError::bad_value("messages", "must hold at least one message"));
    }
    // As Ollama does, an answer that was begun is continued.
    conversation.continue_last();
    let mut options = options(fields)?;
    let choice = ToolChoice::default();
    options.constraint = choice.constrain(options.constraint, &conversation.tools, false)?;
    Ok(ChatRequest { conversation, options, one_call: false })
}

/// A request of `/api/generate`.
pub(super) fn read_generate(fields: Fields<'_>) -> Result<ChatRequest, ApiError> {
    request_fields::check(fields, Route::OllamaGenerate)?;
    let prompt = fields.string("prompt")?;
    let prompt = prompt.ok_or_else(|| ApiError::missing("prompt", "send the text to be answered"))?;
    let system = fields.string("system")?.filter(|text| !text.is_empty());
    let raw = fields.bool("raw")?.unwrap_or(false);
    if raw && system.is_some() {
        let message = "cannot be combined with 'raw', which uses the prompt as it is";
        return Err(ApiError::bad_value("system", message));
    }
    let mut turns: Vec<Turn> = system.map(|text| Turn::text(Role::System, text)).into_iter().collect();
    turns.push(Turn::text(Role::User, prompt));
    let conversation = Conversation {
        turns,
        begin_answer: true,
        template_vars: template_vars(fields)?,
        raw: raw.then(|| prompt.to_owned()),
        ..Conversation::default()
    };
    Ok(ChatRequest { conversation, options: options(fields)?, one_call: false })
}

fn options(fields: Fields<'_>) -> Result<Options, ApiError> {
    refuse_reports(fields)?;
    let mut request = Request {
        logprobs: logprobs(fields)?,
        speculation: speculation::read(fields)?,
        ..Request::default()
    };
    if let Some(options) = fields.get("options") {
        read_options(Fields::at("options", options)?, &mut request)?;
    }
    let stream = fields.bool("stream")?.unwrap_or(true);
    Ok(Options { request, n: 1, stream, prediction: None, constraint: ollama_format(fields)? })
}

fn read_options(options: Fields<'_>, request: &mut Request) -> Result<(), ApiError> {
    request_fields::check(options, Route::OllamaOptions)?;
    let default = Sampling::default();
    let number = |name: &str, default: f32| Ok::<_, ApiError>(options.number(name)?.unwrap_or(default));
    let sampling = Sampling {
        temperature: number("temperature", default.temperature)?,
        top_k: options.integer("top_k", -1..=i64::from(i32::MAX))?.map_or(default.top_k, |k| k.max(0) as u32),
        top_p: number("top_p", default.top_p)?,
        min_p: number("min_p", default.min_p)?,
        presence_penalty: number("presence_penalty", default.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", default.frequency_penalty)?,
        repetition_penalty: number("repeat_penalty", default.repetition_penalty)?,
        repetition_window: match options.integer("repeat_last_n", -1..=i64::from(i32::MAX))? {
            Some(-1) => usize::MAX,
            Some(window) => window as usize,
            None => default.repetition_window,
        },
        seed: options.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        ..default
    };
    let invalid = |param: &str| match param {
        "repetition_penalty" => options.path_of("repeat_penalty"),
        param => options.path_of(param),
    };
    sampling.validate().map_err(|error| ApiError::bad_value(invalid(error.param), error.message))?;
    request.sampling = sampling;
    // -1 is no limit, and -2 fills the context.
    request.max_tokens = match options.integer("num_predict", -2..=i64::MAX)? {
        Some(0) => {
            let message = "must be at least 1, or -1 for no limit, got 0";
            return Err(ApiError::bad_value(options.path_of("num_predict"), message));
        }
        Some(tokens @ 1..) => Some(usize::try_from(tokens).unwrap_or(usize::MAX)),
        _ => None,
    };
    request.stop = stop(options, "stop")?;
    Ok(())
}

fn logprobs(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX as i64)?;
    Ok(wanted.then_some(top.unwrap_or(0) as usize))
}

/// Variables for the template: whether to reason, and how much.
fn template_vars(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut vars = Map::new();
    let thinks = match fields.get("think") {
        None => return Ok(vars),
        Some(Value::Bool(thinks)) => *thinks,
        Some(Value::String(level)) if LEVELS.contains(&level.as_str()) => {
            vars.insert("reasoning_effort".into(), level.as_str().into());
            true
        }
        Some(other) => {
            let levels = LEVELS.join("\", \"");
            let message = format!("must be true, false, or one of \"{levels}\", got {}", describe(other));
            return Err(ApiError::bad_value("think", message));
        }
    };
    // Qwen's templates use the first name, DeepSeek's the second.
    vars.insert("enable_thinking".into(), thinks.into());
    vars.insert("thinking".into(), thinks.into());
    Ok(vars)
}
