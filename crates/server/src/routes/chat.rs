//! Answers to conversations, in any dialect.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::{Value, json};

use foretoken_engine::Reasoning;

use super::{blocking, check_prompt, constrain, explain, predict};
use crate::backend::{ChatPrompt, Codec};
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::explain::{Source, SourcedPrompt};
use crate::generation::ChatRequest;
use crate::protocol::constraint::Constrained;
use crate::protocol::{ChatDialect, anthropic};
use crate::request_log::Trace;
use crate::run::{Job, respond};
use crate::state::Shared;

/// Ends a prompt of a template that closes the reasoning itself, and tokens that hold it and the white space after it.
const CLOSE_REASONING: &str = "</think>";
const PROMPT_TAIL: usize = 16;

pub(super) async fn complete<D: ChatDialect>(
    State(shared): State<Arc<Shared>>,
    Extension(trace): Extension<Arc<Trace>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let backend = shared.backend()?;
    let fields = body.fields();
    let payer = caller.payer(fields)?;
    backend.ledger.admit(payer.account)?;
    backend.check_model(D::model(fields)?)?;
    let codec = &backend.served.codec;
    let (mut request, writer) = D::read(fields, &shared.config, codec.vocab_size())?;
    shared.stable_prompt.apply(&mut request.conversation);
    caller.mark(fields, &mut request.options.request)?;
    let prompt = render(codec, &request.conversation).await?;
    predict(codec, &mut request.options).await?;
    check_prompt(&shared, backend, D::PROMPT_PARAM, &prompt.tokens)?;
    check_constraint(&request)?;
    let reasoning = reasoning(&**codec, &request.conversation, &prompt);
    constrain(backend, &mut request.options, reasoning).await?;
    let cache_report = if explain::wanted(fields)? {
        let source = Source::Chat(request.conversation.to_input());
        let sourced = SourcedPrompt { tokens: prompt.tokens.clone(), source };
        Some(explain::report(backend, &request.options.request, sourced).await?)
    } else {
        None
    };
    if !request.conversation.tools.is_empty() && request.conversation.raw.is_none() {
        request.options.request.shown = Arc::clone(&backend.call_tokens);
    }
    let format = request.format(prompt.opens_reasoning, backend.served.tool_format, &backend.call_tokens);
    let job = Job {
        requests: request.options.requests_for(&prompt.tokens).collect(),
        n: request.options.n,
        stream: request.options.stream,
        format,
        id_prefix: D::ID_PREFIX,
        prompt_param: D::PROMPT_PARAM,
        payer,
        cache_report,
    };
    respond(&shared, backend, trace, job, writer).await
}

/// Refuses a constraint beside what it cannot be combined with.
fn check_constraint(request: &ChatRequest) -> Result<(), ApiError> {
    let Some(Constrained { param, .. }) = &request.options.constraint else { return Ok(()) };
    if request.conversation.prefill.as_ref().is_some_and(|text| !text.trim().is_empty()) {
        let message = "holds for a whole answer, not for one that continues the last message";
        return Err(ApiError::unsupported(param, message));
    }
    Ok(())
}

/// Whether an answer begins with reasoning, which is not constrained.
fn reasoning(codec: &dyn Codec, conversation: &Conversation, prompt: &ChatPrompt) -> Reasoning {
    let off = conversation.template_vars.get("enable_thinking") == Some(&Value::Bool(false));
    let tail = &prompt.tokens[prompt.tokens.len().saturating_sub(PROMPT_TAIL)..];
    if prompt.opens_reasoning {
        Reasoning::Open
    } else if off || conversation.raw.is_some() || codec.decode(tail).trim_end().ends_with(CLOSE_REASONING) {
        Reasoning::Never
    } else {
        Reasoning::Possible
    }
}

/// The prompt that the template makes of a conversation, and the text that the answer begins with.
pub(super) async fn render(
    codec: &Arc<dyn Codec>,
    conversation: &Conversation,
) -> Result<ChatPrompt, ApiError> {
    let codec = Arc::clone(codec);
    let (input, prefill) = (conversation.to_input(), conversation.prefill.clone());
    let raw = conversation.raw.clone();
    blocking(move || {
        if let Some(text) = raw {
            return Ok(ChatPrompt { tokens: codec.encode(&text, true, true), opens_reasoning: false });
        }
        let mut prompt = codec.render(&input).map_err(ApiError::template)?;
        if let Some(text) = prefill {
            if prompt.opens_reasoning {
                let message = "cannot be continued while the model begins with reasoning: turn that off";
                return Err(ApiError::unsupported("messages", message));
            }
            prompt.tokens.extend(codec.encode(&text, false, false));
        }
        Ok(prompt)
    })
    .await?
}

/// Anthropic's `POST /v1/messages/count_tokens`: how many tokens a conversation would have.
pub(super) async fn count_tokens(
    State(shared): State<Arc<Shared>>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let fields = body.fields();
    backend.check_model(fields.string("model")?)?;
    let mut conversation = anthropic::read_conversation(fields)?;
    shared.stable_prompt.apply(&mut conversation);
    let prompt = render(&backend.served.codec, &conversation).await?;
    Ok(Json(json!({"input_tokens": prompt.tokens.len()})))
}
