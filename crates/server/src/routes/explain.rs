//! `cache: {explain: true}` on a request, and `POST /v1/cache/explain`, which explains and does nothing else.
//!
//! The invariant: a request is compared with what its own tenant may use, and with nothing else.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use foretoken_engine::Request;
use serde_json::Value;

use super::{blocking, check_prompt};
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::explain::{self, Asked};
use crate::protocol::fields::Fields;
use crate::state::{Backend, Shared};

/// Takes the body of a chat or a completion, computes no answer and changes nothing.
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
    let asked = blocking(move || Asked::read(body.object(), &*codec)).await??;
    check_prompt(&shared, backend, param, &asked.tokens)?;
    Ok(Json(report(backend, &request, asked).await?))
}

/// Whether a request asks why it hits as far as it does.
pub(super) fn wanted(fields: Fields<'_>) -> Result<bool, ApiError> {
    let Some(cache) = fields.get("cache") else { return Ok(false) };
    Ok(Fields::at("cache", cache)?.bool("explain")?.unwrap_or(false))
}

/// The `cache` object about a prompt under the tenant and the permissions of `marked`. To be called before the
/// request itself leaves anything in the cache.
pub(super) async fn report(
    backend: &Arc<Backend>,
    marked: &Request,
    asked: Asked,
) -> Result<Value, ApiError> {
    let request = Request {
        prompt: asked.tokens.clone(),
        tenant: marked.tenant.clone(),
        cache: marked.cache,
        ..Request::default()
    };
    let backend = Arc::clone(backend);
    blocking(move || {
        let known = backend.served.generator.explain(&request);
        explain::explain(&*backend.served.codec, &asked, &known, request.cache.read).to_json()
    })
    .await
}
