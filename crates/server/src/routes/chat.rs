//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use foretoken_model::chat::ChatInput;

use super::{blocking, check_prompt, explain, predict};
use crate::backend::{ChatPrompt, Codec};
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::explain::{Source, SourcedPrompt};
use crate::protocol::chat::{ChatRequest, ChatWriter};
use crate::request_log::Trace;
use crate::run::{Job, Shape, respond};
use crate::state::Shared;

const SHAPE: Shape = Shape {
    id_prefix: "chatcmpl-",
    object: "chat.completion",
    chunk_object: "chat.completion.chunk",
    prompt_param: "messages",
};

pub(super) async fn complete(
    State(shared): State<Arc<Shared>>,
    Extension(trace): Extension<Arc<Trace>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let backend = shared.backend()?;
    let fields = body.fields();
    let payer = caller.payer(fields)?;
    backend.ledger.admit(payer.account)?;
    backend.check_model(fields.string("model")?)?;
    let mut request = ChatRequest::read(fields, &shared.config, backend.served.codec.vocab_size())?;
    caller.mark(fields, &mut request.shared.request)?;
    let input = std::mem::take(&mut request.input);
    let source = explain::wanted(fields)?.then(|| Source::Chat(input.clone()));
    let prompt = render(&backend.served.codec, input).await?;
    predict(&backend.served.codec, &mut request.shared).await?;
    check_prompt(&shared, backend, SHAPE.prompt_param, &prompt.tokens)?;
    let cache_report = match source {
        Some(source) => {
            let sourced = SourcedPrompt { tokens: prompt.tokens.clone(), source };
            Some(explain::report(backend, &request.shared.request, sourced).await?)
        }
        None => None,
    };
    let job = Job {
        requests: request.shared.requests_for(&prompt.tokens).collect(),
        n: request.shared.n,
        stream: request.shared.stream,
        shape: SHAPE,
        payer,
        cache_report,
    };
    let writer = ChatWriter::new(Arc::clone(&shared), &request, prompt.opens_reasoning);
    respond(&shared, backend, trace, job, writer).await
}

/// The prompt that the template makes of a conversation.
pub(super) async fn render(codec: &Arc<dyn Codec>, input: ChatInput) -> Result<ChatPrompt, ApiError> {
    let codec = Arc::clone(codec);
    blocking(move || codec.render(&input)).await?.map_err(ApiError::template)
}
