//! `cache: {explain: true}` on a request, and `POST /v1/cache/explain`, the dry run.
//!
//! The invariant: a request is compared only with blocks that its own tenant may use.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use foretoken_engine::Request;
use serde_json::Value;

use super::{blocking, check_prompt};
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::explain::{self, SourcedPrompt};
use crate::protocol::fields::Fields;
use crate::state::{Backend, Shared};

/// Takes the body of a chat or completion request; generates nothing and changes nothing.
pub(super) async fn dry_run(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.backend()?;
    let mut request = Request::default();
    let fields = body.fields();
    backend.check_model(fields.string("model")?)?;
    caller.mark(fields, &mut request)?;
    let param = if fields.get("messages").is_some() { "messages" } else { "prompt" };
    let codec = Arc::clone(&backend.served.codec);
    let stable_prompt = shared.stable_prompt.clone();
    let sourced =
        blocking(move || SourcedPrompt::read_stable(body.object(), &*codec, &stable_prompt)).await??;
    check_prompt(&shared, backend, param, &sourced.tokens)?;
    Ok(Json(report(backend, &request, sourced).await?))
}

/// Whether a request asks for the cache report.
pub(super) fn wanted(fields: Fields<'_>) -> Result<bool, ApiError> {
    let Some(cache) = fields.get("cache") else { return Ok(false) };
    Ok(Fields::at("cache", cache)?.bool("explain")?.unwrap_or(false))
}

/// The `cache` object for a prompt, with the tenant and permissions of `marked`. Must be called before the request
/// itself changes the cache.
pub(super) async fn report(
    backend: &Arc<Backend>,
    marked: &Request,
    sourced: SourcedPrompt,
) -> Result<Value, ApiError> {
    let request = Request {
        prompt: sourced.tokens.clone(),
        tenant: marked.tenant.clone(),
        cache: marked.cache,
        ..Request::default()
    };
    let backend = Arc::clone(backend);
    blocking(move || {
        let known = backend.served.generator.explain(&request);
        explain::explain(&*backend.served.codec, &sourced, &known, request.cache.read).to_json()
    })
    .await
}
