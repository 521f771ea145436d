//! `/v1/cache`: statistics, prewarming, pinning, clearing.
//!
//! Any tenant may prewarm and pin its own prompts and is billed for them as for any prompt. Routes that show or
//! change the cache of other tenants require operator rights.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use foretoken_engine::{CacheUse, Engine, Event, FinishReason, Forgotten, Request, Summary};
use serde_json::{Value, json};

use super::{blocking, chat, check_prompt, completions};
use crate::accounts::{Bill, Payer};
use crate::auth::Admin;
use crate::body::JsonBody;
use crate::cache_report;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::protocol::fields::Fields;
use crate::protocol::openai_chat::read_conversation;
use crate::protocol::openai_completions::prompts;
use crate::request_log::Trace;
use crate::run::submit;
use crate::state::{Backend, Phase, Shared};
use crate::tenants::tenants;

/// Maximum time to live of a pin: one week.
const TTL_S_MAX: i64 = 7 * 86_400;
const TTL_S_DEFAULT: i64 = 3600;
/// Default number of rows in a listing.
const ROWS_DEFAULT: usize = 100;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

pub(super) async fn info(_: Admin, State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let generator = Arc::clone(&backend.served.generator);
    let store = Arc::clone(&backend.served.store);
    let report = blocking(move || {
        let mut report = cache_report::info(&generator.cache().info());
        if let Some(folder) = store.path().and_then(Path::parent) {
            report["folder"] = cache_report::folder(folder, &store);
        }
        report
    });
    Ok(Json(report.await?))
}

pub(super) async fn entries(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    query: Pairs,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let query = query?;
    let [limit] = read(&query, ["limit"])?;
    let limit = match limit.map(|text| text.parse::<usize>()) {
        None => ROWS_DEFAULT,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return Err(ApiError::bad_value("limit", "must be a number of rows")),
    };
    let generator = Arc::clone(&backend.served.generator);
    let (memory, disk) = blocking(move || generator.cache().entries()).await?;
    Ok(Json(cache_report::entries(&memory, &disk, limit)))
}

/// Requires a JSON body, even if empty.
pub(super) async fn verify(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    _: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let generator = Arc::clone(&backend.served.generator);
    let report = blocking(move || generator.cache().verify()).await?;
    Ok(Json(cache_report::verify(&report.unwrap_or_default())))
}

pub(super) async fn clear(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    query: Pairs,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let query = query?;
    let [all, account, user] = read(&query, ["all", "account", "user_id"])?;
    let whose = match (all, account.is_some() || user.is_some()) {
        (Some("true"), false) => None,
        (Some("true"), true) => {
            return Err(ApiError::bad_value("all", "cannot be combined with 'account' or 'user_id'"));
        }
        (Some(_), _) => return Err(ApiError::bad_value("all", "can only be true")),
        (None, true) => Some((account.map(str::to_owned), user.map(str::to_owned))),
        (None, false) => {
            let message = "say what to clear: ?account=NAME, ?user_id=ID, both, or ?all=true";
            return Err(ApiError::missing("all", message));
        }
    };
    let (shared, backend) = (Arc::clone(&shared), Arc::clone(backend));
    let (tenants, cleared) = blocking(move || clear_tenants(&shared, &backend, whose)).await??;
    let ram: usize = cleared.iter().map(|one| one.ram_blocks).sum();
    let disk: u64 = cleared.iter().map(|one| one.disk_blocks).sum();
    Ok(Json(json!({"object": "cache.deleted", "tenants": tenants, "blocks": {"memory": ram, "disk": disk}})))
}

/// Clears an account, a user, or everything; returns the number of tenants and what each had cached.
fn clear_tenants(
    shared: &Shared,
    backend: &Backend,
    whose: Option<(Option<String>, Option<String>)>,
) -> Result<(Option<usize>, Vec<Forgotten>), ApiError> {
    let cache = backend.served.generator.cache();
    let Some((account, user)) = whose else { return Ok((None, vec![cache.clear(None)])) };
    let user = user.map(|user| shared.stable_prompt.user(&user).into_owned());
    let names = tenants(
        (&shared.registry, shared.config.tenant_by),
        backend.ledger.store(),
        account.as_deref(),
        user.as_deref(),
    )?;
    let cleared = names.iter().map(|name| cache.clear(Some(name))).collect();
    Ok((Some(names.len()), cleared))
}

pub(super) async fn prewarm(
    State(shared): State<Arc<Shared>>,
    Extension(trace): Extension<Arc<Trace>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let target = CachePrompt::read(&shared, &caller, body.fields()).await?;
    let summary = target.prefill(&shared, &trace).await?;
    Ok(Json(report("cache.prewarm", &summary)))
}

pub(super) async fn pin(
    State(shared): State<Arc<Shared>>,
    Extension(trace): Extension<Arc<Trace>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let ttl_s = body.fields().integer("ttl_s", 1..=TTL_S_MAX)?.unwrap_or(TTL_S_DEFAULT);
    let target = CachePrompt::read(&shared, &caller, body.fields()).await?;
    let Request { tenant, prompt, .. } = &target.request;
    let cache = target.backend.served.generator.cache();
    cache.can_pin(tenant, prompt).map_err(|refused| ApiError::pin_limit(refused.to_string()))?;
    let summary = target.prefill(&shared, &trace).await?;
    let ttl = Duration::from_secs(ttl_s.unsigned_abs());
    let pinned =
        cache.pin(tenant, prompt, ttl).map_err(|refused| ApiError::pin_limit(refused.to_string()))?;
    let mut report = report("cache.pin", &summary);
    report["pinned_tokens"] = pinned.into();
    report["ttl_s"] = ttl_s.into();
    Ok(Json(report))
}

pub(super) async fn unpin(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let target = CachePrompt::read(&shared, &caller, body.fields()).await?;
    let blocks =
        target.backend.served.generator.cache().unpin(&target.request.tenant, &target.request.prompt);
    Ok(Json(json!({"object": "cache.unpin", "blocks": blocks})))
}

fn report(object: &str, summary: &Summary) -> Value {
    let usage = summary.usage;
    let hit = usage.cache_hit_tokens.min(usage.prompt_tokens);
    json!({
        "object": object,
        "tokens": usage.prompt_tokens,
        "blocks": usage.prompt_tokens.div_ceil(foretoken_cache::BLOCK_TOKENS),
        "hit": hit,
        "computed": usage.prompt_tokens - hit,
    })
}

/// A prompt to be cached.
struct CachePrompt {
    backend: Arc<Backend>,
    payer: Payer,
    request: Request,
    param: &'static str,
}

impl CachePrompt {
    async fn read(shared: &Shared, caller: &Caller, fields: Fields<'_>) -> Result<CachePrompt, ApiError> {
        let backend = shared.backend()?;
        let payer = caller.payer(fields)?;
        backend.ledger.admit(payer.account)?;
        backend.check_model(fields.string("model")?)?;
        let codec = Arc::clone(&backend.served.codec);
        let (param, prompt) = if fields.get("messages").is_some() {
            let mut conversation = read_conversation(fields)?;
            shared.stable_prompt.apply(&mut conversation);
            ("messages", chat::render(&codec, &conversation).await?.tokens)
        } else if fields.get("prompt").is_some() {
            let mut prompts = prompts(fields, codec.vocab_size())?;
            let (Some(prompt), true) = (prompts.pop(), prompts.is_empty()) else {
                return Err(ApiError::bad_value("prompt", "must be one prompt here"));
            };
            ("prompt", blocking(move || completions::read_prompt(&*codec, prompt, false).0).await?)
        } else {
            return Err(ApiError::missing("messages", "send a conversation, or a text as 'prompt'"));
        };
        check_prompt(shared, backend, param, &prompt)?;
        let mut request = Engine::prewarming(prompt, String::new());
        caller.mark(fields, &mut request)?;
        request.cache = CacheUse::default();
        Ok(CachePrompt { backend: Arc::clone(backend), payer, request, param })
    }

    /// Prefills the prompt. The single generated token is discarded and not billed.
    async fn prefill(&self, shared: &Shared, trace: &Arc<Trace>) -> Result<Summary, ApiError> {
        let backend = &self.backend;
        let mut bill = Bill::new(&backend.ledger, self.payer.clone(), backend.id(), trace, 1);
        bill.started(0, &self.request.progress, true);
        let mut answer = submit(backend, self.request.clone(), self.param).await?;
        trace.submitted(self.request.prompt.len());
        let mut phase = shared.watch_phase();
        let end = async {
            loop {
                match answer.recv().await {
                    Some(Event::Tokens(_)) => {}
                    Some(Event::Done(summary)) => return Ok(summary),
                    None => return Err(ApiError::internal("the engine stopped; see the server's log")),
                }
            }
        };
        let limit_s = match shared.config.request_timeout_s {
            0 => u64::MAX >> 32,
            limit_s => limit_s,
        };
        let mut summary = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Over) => return Err(ApiError::draining()),
            ended = tokio::time::timeout(Duration::from_secs(limit_s), end) => {
                ended.map_err(|_| ApiError::timeout(limit_s))??
            }
        };
        if let FinishReason::Error(message) = &summary.reason {
            return Err(ApiError::internal(format!("the prompt could not be prefilled: {message}")));
        }
        trace.finished(&summary);
        summary.usage.completion_tokens = 0;
        bill.ended(0, &summary, true);
        bill.settle();
        Ok(summary)
    }
}

/// The values of query parameters, each at most once.
fn read<'q, const N: usize>(
    query: &'q Query<Vec<(String, String)>>,
    names: [&'static str; N],
) -> Result<[Option<&'q str>; N], ApiError> {
    let mut values = [None; N];
    for (name, value) in &query.0 {
        let Some(at) = names.iter().position(|known| known == name) else {
            let message = format!("is not a parameter of this route; it has {}", names.join(", "));
            return Err(ApiError::bad_value(name.chars().take(40).collect::<String>(), message));
        };
        if values[at].replace(value.as_str()).is_some() {
            return Err(ApiError::bad_value(names[at], "is given twice; write it once"));
        }
    }
    Ok(values)
}
