//! `/v1/chat/completions`: the request, and the choices of its response.

use std::sync::Arc;

use foretoken_engine::{TOP_LOGPROBS_MAX, TokenEvent};
use foretoken_model::chat::ChatInput;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::logprobs::chat_entry;
use super::messages;
use super::request_fields::{self, Route};
use super::sampling::Shared;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::reasoning::{Part, Splitter};
use crate::run::Writer;
use crate::state;
use crate::tool_calls::{self, ToolParser};

/// A validated chat request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    /// Everything but the conversation.
    pub(crate) shared: Shared,
    /// Input of the chat template.
    pub(crate) input: ChatInput,
    /// Parse tool calls in the response.
    pub(crate) parse_calls: bool,
    /// Return the first call only.
    pub(crate) one_call: bool,
}

impl ChatRequest {
    pub(crate) fn read(fields: Fields<'_>, config: &ServerConfig, vocab: usize) -> Result<Self, ApiError> {
        request_fields::check(fields, Route::Chat)?;
        let input = read_conversation(fields)?;
        let mut shared = Shared::read(fields, config, vocab)?;
        shared.request.logprobs = logprobs(fields)?;
        let one_call = !fields.bool("parallel_tool_calls")?.unwrap_or(true);
        Ok(ChatRequest { parse_calls: input.tools.is_some(), one_call, shared, input })
    }
}

/// The part of a body that the chat template uses.
pub(crate) fn read_conversation(fields: Fields<'_>) -> Result<ChatInput, ApiError> {
    Ok(ChatInput {
        messages: messages::read(fields)?,
        tools: tools(fields)?,
        add_generation_prompt: fields.bool("add_generation_prompt")?.unwrap_or(true),
        extra: template_vars(fields)?,
    })
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

/// The tools for the template; `None` if there are none or `tool_choice` is "none".
fn tools(fields: Fields<'_>) -> Result<Option<Value>, ApiError> {
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
    let offered = (!tools.is_empty()).then(|| Value::Array(tools.to_vec()));
    match fields.get("tool_choice") {
        None => Ok(offered),
        Some(Value::String(choice)) if choice == "auto" => Ok(offered),
        Some(Value::String(choice)) if choice == "none" => Ok(None),
        Some(_) => Err(ApiError::unsupported(
            "tool_choice",
            "can only be \"auto\" or \"none\": a call cannot be forced yet; ask for it in a message",
        )),
    }
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

/// State of one chat choice.
#[derive(Debug)]
struct Choice {
    splitter: Splitter,
    calls: Option<ToolParser>,
    started: bool,
    calls_begun: usize,
    reasoning: String,
    content: String,
    tool_calls: Vec<Value>,
    logprobs: Vec<Value>,
    reasoning_logprobs: Vec<Value>,
}

/// Writes chat choices.
#[derive(Debug)]
pub(crate) struct ChatWriter {
    shared: Arc<state::Shared>,
    choices: Vec<Choice>,
    with_logprobs: bool,
    one_call: bool,
    reasoning_tokens: usize,
}

impl ChatWriter {
    pub(crate) fn new(shared: Arc<state::Shared>, request: &ChatRequest, opens_reasoning: bool) -> Self {
        let choice = || Choice {
            splitter: Splitter::new(opens_reasoning),
            calls: request.parse_calls.then(ToolParser::new),
            started: false,
            calls_begun: 0,
            reasoning: String::new(),
            content: String::new(),
            tool_calls: Vec::new(),
            logprobs: Vec::new(),
            reasoning_logprobs: Vec::new(),
        };
        ChatWriter {
            shared,
            choices: std::iter::repeat_with(choice).take(request.shared.n).collect(),
            with_logprobs: request.shared.request.logprobs.is_some(),
            one_call: request.one_call,
            reasoning_tokens: 0,
        }
    }

    /// Splits text into reasoning, content and calls.
    fn sort(&mut self, at: usize, text: Option<&str>) {
        let choice = &mut self.choices[at];
        let mut parts = Vec::new();
        match text {
            Some(text) => choice.splitter.push(text, &mut parts),
            None => choice.splitter.finish(&mut parts),
        }
        let mut pieces = Vec::new();
        for part in parts {
            match (part, &mut choice.calls) {
                (Part::Reasoning(text), _) => choice.reasoning.push_str(&text),
                (Part::Content(text), None) => choice.content.push_str(&text),
                (Part::Content(text), Some(parser)) => parser.push(&text, &mut pieces),
            }
        }
        if let (None, Some(parser)) = (text, &mut choice.calls) {
            parser.finish(&mut pieces);
        }
        for piece in pieces {
            match piece {
                tool_calls::Part::Text(text) => choice.content.push_str(&text),
                tool_calls::Part::Call(_) if self.one_call && choice.calls_begun > 0 => {}
                tool_calls::Part::Call(call) => {
                    choice.tool_calls.push(json!({
                        "index": choice.calls_begun,
                        "id": self.shared.fresh_id("call_"),
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }));
                    choice.calls_begun += 1;
                }
            }
        }
    }

    /// Takes the pending logprobs; with `reasoning_only`, those of the content stay pending.
    fn take_logprobs(&mut self, at: usize, reasoning_only: bool) -> Value {
        let choice = &mut self.choices[at];
        if !self.with_logprobs {
            return Value::Null;
        }
        let content = if reasoning_only { Vec::new() } else { std::mem::take(&mut choice.logprobs) };
        let reasoning = std::mem::take(&mut choice.reasoning_logprobs);
        let mut logprobs = json!({"content": content, "refusal": null});
        if !reasoning.is_empty() {
            logprobs["reasoning_content"] = reasoning.into();
        }
        logprobs
    }
}

impl Writer for ChatWriter {
    fn push(&mut self, at: usize, token: &TokenEvent) {
        let before = self.choices[at].splitter.is_reasoning();
        self.sort(at, Some(&token.text));
        let choice = &mut self.choices[at];
        // The tags themselves count as reasoning tokens.
        let reasoning = before || choice.splitter.is_reasoning();
        self.reasoning_tokens += usize::from(reasoning);
        if let Some(logprob) = &token.logprob {
            let list = if reasoning { &mut choice.reasoning_logprobs } else { &mut choice.logprobs };
            list.push(chat_entry(logprob));
        }
    }

    fn finish(&mut self, at: usize, text: &str) {
        self.sort(at, Some(text));
        self.sort(at, None);
    }

    fn finish_reason(&self, at: usize, stopped: bool) -> &'static str {
        match (stopped, self.choices[at].calls_begun) {
            (true, 0) => "stop",
            (true, _) => "tool_calls",
            (false, _) => "length",
        }
    }

    fn chunks(&mut self, at: usize) -> Vec<Value> {
        let mut chunks = Vec::new();
        let choice = &mut self.choices[at];
        if !choice.started {
            choice.started = true;
            let delta = json!({"role": "assistant", "content": ""});
            chunks.push(json!({"index": at, "delta": delta, "logprobs": null, "finish_reason": null}));
        }
        if !choice.reasoning.is_empty() {
            // In a chunk of its own: clients expect one or the other.
            let delta = json!({"reasoning_content": std::mem::take(&mut choice.reasoning)});
            let logprobs = self.take_logprobs(at, true);
            chunks.push(json!({"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": null}));
        }
        let choice = &mut self.choices[at];
        let mut delta = Map::new();
        if !choice.content.is_empty() {
            delta.insert("content".into(), std::mem::take(&mut choice.content).into());
        }
        if !choice.tool_calls.is_empty() {
            delta.insert("tool_calls".into(), std::mem::take(&mut choice.tool_calls).into());
        }
        if !delta.is_empty() {
            let logprobs = self.take_logprobs(at, false);
            chunks.push(json!({"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": null}));
        }
        chunks
    }

    fn last_chunk(&mut self, at: usize, finish_reason: &str) -> Value {
        let choice = &self.choices[at];
        let left = !choice.logprobs.is_empty() || !choice.reasoning_logprobs.is_empty();
        let logprobs = if left { self.take_logprobs(at, false) } else { Value::Null };
        json!({"index": at, "delta": {}, "logprobs": logprobs, "finish_reason": finish_reason})
    }

    fn choice(&mut self, at: usize, finish_reason: &str) -> Value {
        let logprobs = self.take_logprobs(at, false);
        let choice = &mut self.choices[at];
        let mut message = json!({"role": "assistant", "content": std::mem::take(&mut choice.content)});
        if !choice.reasoning.is_empty() {
            message["reasoning_content"] = std::mem::take(&mut choice.reasoning).into();
        }
        if !choice.tool_calls.is_empty() {
            let mut calls = std::mem::take(&mut choice.tool_calls);
            // Only streamed calls have an index.
            calls.iter_mut().filter_map(Value::as_object_mut).for_each(|call| {
                call.shift_remove("index");
            });
            message["tool_calls"] = calls.into();
            if message["content"] == "" {
                message["content"] = Value::Null;
            }
        }
        json!({"index": at, "message": message, "logprobs": logprobs, "finish_reason": finish_reason})
    }

    fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }
}
