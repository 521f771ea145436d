//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use foretoken_engine::Reasoning;

use super::{blocking, check_prompt, constrain, explain, predict};
use crate::answer::Format;
use crate::backend::Codec;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::explain::{Source, SourcedPrompt, several};
use crate::protocol::openai_completions::{CompletionRequest, CompletionWriter, Prompt};
use crate::protocol::speculation;
use crate::request_log::Trace;
use crate::run::{Job, respond};
use crate::state::Shared;

const PROMPT_PARAM: &str = "prompt";

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
    let codec = Arc::clone(&backend.served.codec);
    let mut request = CompletionRequest::read(fields, &shared.config, codec.vocab_size())?;
    caller.mark(fields, &mut request.options.request)?;
    predict(&codec, &mut request.options).await?;
    constrain(backend, &mut request.options, Reasoning::Never).await?;
    let CompletionRequest { options, prompts, echo, include_usage } = request;
    let prompts = blocking(move || -> Vec<_> {
        prompts.into_iter().map(|prompt| read_prompt(&*codec, prompt, echo)).collect()
    })
    .await?;
    let mut requests = Vec::with_capacity(prompts.len() * options.n);
    let mut echoes = Vec::with_capacity(requests.capacity());
    let mut cache_report = None;
    if explain::wanted(fields)? {
        let [(tokens, _)] = &prompts[..] else { return Err(several(prompts.len())) };
        check_prompt(&shared, backend, PROMPT_PARAM, tokens)?;
        let sourced = SourcedPrompt { tokens: tokens.clone(), source: Source::Prompt };
        cache_report = Some(explain::report(backend, &options.request, sourced).await?);
    }
    for (tokens, echo) in prompts {
        check_prompt(&shared, backend, PROMPT_PARAM, &tokens)?;
        requests.extend(options.requests_for(&tokens));
        echoes.resize(requests.len(), echo);
    }
    let with = (options.request.logprobs.is_some(), speculation::shows(fields)?);
    let writer = CompletionWriter::new(echoes, with, include_usage);
    let job = Job {
        requests,
        n: options.n,
        stream: options.stream,
        format: Format::default(),
        id_prefix: "cmpl-",
        prompt_param: PROMPT_PARAM,
        payer,
        cache_report,
    };
    respond(&shared, backend, trace, job, writer).await
}

/// Token ids of a prompt, and the text to prepend to its responses.
pub(super) fn read_prompt(codec: &dyn Codec, prompt: Prompt, echo: bool) -> (Vec<u32>, String) {
    match prompt {
        Prompt::Text(text) => {
            let tokens = codec.encode(&text, true, true);
            (tokens, if echo { text } else { String::new() })
        }
        Prompt::Tokens(tokens) => {
            let text = if echo { codec.decode(&tokens) } else { String::new() };
            (tokens, text)
        }
    }
}
