//! The routes, with and without `/v1` in front (DeepSeek's base URL has no version).
//!
//! A handler reads the request, tokenises on the blocking pool, and leaves the rest to [`crate::run`].

mod accounts;
mod cache;
mod chat;
mod completions;
mod explain;
mod health;
mod llama_cpp;
mod metrics;
mod models;
mod ollama;
mod page;
mod tokens;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use foretoken_engine::{Calls, Constraint, Function, Reasoning};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::decompression::RequestDecompressionLayer;

use crate::answer::ToolFormat;
use crate::auth::require_key;
use crate::backend::{Codec, Generator};
use crate::body::require_known_encoding;
use crate::error::ApiError;
use crate::generation::Options;
use crate::host_check::require_own_host;
use crate::protocol::anthropic::Anthropic;
use crate::protocol::constraint::Constrained;
use crate::protocol::openai_chat::OpenAiChat;
use crate::protocol::openai_responses::OpenAiResponses;
use crate::protocol::shape_errors;
use crate::request_log::log_request;
use crate::state::{Backend, Shared};

/// A route: method, path, handler.
type Route = (&'static str, &'static str, fn() -> MethodRouter<Arc<Shared>>);

/// Routes of the API, with and without `/v1` in front.
const API: &[Route] = &[
    ("POST", "/chat/completions", || post(chat::complete::<OpenAiChat>)),
    ("POST", "/responses", || post(chat::complete::<OpenAiResponses>)),
    ("POST", "/messages", || post(chat::complete::<Anthropic>)),
    ("POST", "/messages/count_tokens", || post(chat::count_tokens)),
    ("POST", "/completions", || post(completions::complete)),
    ("GET", "/models", || get(models::list)),
    ("GET", "/models/{*id}", || get(models::one)),
    ("POST", "/tokenize", || post(tokens::tokenize)),
    ("POST", "/detokenize", || post(tokens::detokenize)),
    ("GET", "/props", || get(llama_cpp::props)),
    ("GET", "/slots", || get(llama_cpp::slots)),
    ("POST", "/apply-template", || post(llama_cpp::apply_template)),
    ("GET", "/version", || get(health::version)),
    ("GET", "/user/balance", || get(accounts::balance)),
    ("GET", "/usage", || get(accounts::usage)),
    ("POST", "/cache/explain", || post(explain::dry_run)),
    ("GET", "/cache", || get(cache::info)),
    ("DELETE", "/cache", || delete(cache::clear)),
    ("GET", "/cache/entries", || get(cache::entries)),
    ("POST", "/cache/verify", || post(cache::verify)),
    ("POST", "/cache/prewarm", || post(cache::prewarm)),
    ("POST", "/cache/pin", || post(cache::pin)),
    ("POST", "/cache/unpin", || post(cache::unpin)),
];
/// Ollama's routes, which have no version.
const OLLAMA: &[Route] = &[
    ("POST", "/api/chat", || post(ollama::chat)),
    ("POST", "/api/generate", || post(ollama::generate)),
    ("GET", "/api/tags", || get(ollama::tags)),
    ("POST", "/api/show", || post(ollama::show)),
    ("GET", "/api/ps", || get(ollama::ps)),
    ("GET", "/api/version", || get(ollama::version)),
];
/// Routes that never need a key.
const OPEN: &[Route] = &[
    ("GET", HEALTH, || get(health::health)),
    ("GET", PING, || get(health::health)),
    ("POST", PING, || post(health::health)),
    ("GET", "/", || get(page::index)),
    ("GET", "/page/{file}", || get(page::file)),
];
/// Routes that need a key unless [`ServerConfig::metrics_open`](crate::ServerConfig::metrics_open).
const METRICS_ROUTES: &[Route] = &[("GET", METRICS, || get(metrics::page))];

/// The path of the health check.
pub(crate) const HEALTH: &str = "/health";
/// vLLM's name for the health check, for hosts that expect it.
pub(crate) const PING: &str = "/ping";
/// The path of the metrics.
pub(crate) const METRICS: &str = "/metrics";

/// Method and path of every route.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, String)> {
    let api = API
        .iter()
        .flat_map(|(method, path, _)| [(*method, (*path).to_owned()), (*method, format!("/v1{path}"))]);
    api.chain(
        [OLLAMA, OPEN, METRICS_ROUTES]
            .concat()
            .into_iter()
            .map(|(method, path, _)| (method, path.to_owned())),
    )
}

fn router_of(routes: &[Route]) -> Router<Arc<Shared>> {
    routes.iter().fold(Router::new(), |router, (_, path, handler)| router.route(path, handler()))
}

/// All routes and layers.
pub(crate) fn router(shared: Arc<Shared>, cors: Option<CorsLayer>) -> Router {
    let api = router_of(API);
    let mut keyed = Router::new().nest("/v1", api.clone()).merge(api).merge(router_of(OLLAMA));
    let mut open = router_of(OPEN);
    match shared.config.metrics_open {
        true => open = open.merge(router_of(METRICS_ROUTES)),
        false => keyed = keyed.merge(router_of(METRICS_ROUTES)),
    }
    let keyed = keyed.route_layer(from_fn_with_state(Arc::clone(&shared), require_key));
    let mut router = keyed
        .merge(open)
        .fallback(unknown)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(RequestDecompressionLayer::new())
        .layer(from_fn(require_known_encoding))
        .layer(CatchPanicLayer::custom(panicked));
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router
        .layer(from_fn_with_state(Arc::clone(&shared), require_own_host))
        .layer(from_fn(shape_errors))
        .layer(from_fn_with_state(Arc::clone(&shared), log_request))
        .with_state(shared)
}

/// The CORS layer for configured origins.
///
/// # Errors
/// The first origin that is not a valid header value.
pub(crate) fn cors(origins: &[String]) -> Result<Option<CorsLayer>, String> {
    if origins.is_empty() {
        return Ok(None);
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let parse = |origin: &String| HeaderValue::from_str(origin).map_err(|_| origin.clone());
        AllowOrigin::list(origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?)
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        // `*` does not cover "Authorization".
        .allow_headers(AllowHeaders::mirror_request());
    Ok(Some(layer))
}

async fn unknown(request: Request) -> ApiError {
    ApiError::unknown_url(request.method().as_str(), request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path())
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has logged the location.
    ApiError::internal("the server failed on this request; see its log").into_response()
}

/// Runs slow work (templates, tokenising) on the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let failed = |_| ApiError::internal("the server failed on this request; see its log");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Tokenises the text of `prediction` for the drafters.
async fn predict(codec: &Arc<dyn Codec>, options: &mut Options) -> Result<(), ApiError> {
    let Some(text) = options.prediction.take() else { return Ok(()) };
    let codec = Arc::clone(codec);
    options.request.prediction = blocking(move || codec.encode(&text, false, false)).await?;
    Ok(())
}

/// Compiles the request's constraint, which applies after `reasoning`.
async fn constrain(backend: &Backend, options: &mut Options, reasoning: Reasoning) -> Result<(), ApiError> {
    let Some(Constrained { constraint, param }) = options.constraint.take() else { return Ok(()) };
    let format = backend.served.tool_format.name;
    if matches!(constraint, Constraint::Calls(_)) && format != ToolFormat::hermes().name {
        let message = format!(
            "cannot be enforced beside 'tools': this model writes tool calls in the form {format:?}, and only calls in \
             the form {:?} are enforced; leave out 'strict' and what forces a call",
            ToolFormat::hermes().name
        );
        return Err(ApiError::unsupported(param, message));
    }
    let generator = Arc::clone(&backend.served.generator);
    let grammar = blocking(move || {
        generator.compile(&constraint).map_err(|error| match unenforceable_tool(&*generator, &constraint) {
            Some(name) => {
                ApiError::bad_value("tools", format!("has a tool {name:?} whose parameters {error}"))
            }
            None => ApiError::bad_value(param, error.to_string()),
        })
    });
    let grammar = grammar.await??;
    options.request.grammar = Some(grammar.after(reasoning));
    Ok(())
}

/// The tool whose parameters keep calls from being compiled.
fn unenforceable_tool(generator: &dyn Generator, constraint: &Constraint) -> Option<String> {
    let Constraint::Calls(calls) = constraint else { return None };
    let alone = |function: &Function| {
        Constraint::Calls(Calls { functions: vec![function.clone()], many: false, free: false, or: None })
    };
    let bad = calls.functions.iter().find(|function| generator.compile(&alone(function)).is_err())?;
    Some(bad.name.clone())
}

/// Rejects a prompt that is empty, longer than configured, or longer than the context.
fn check_prompt(
    shared: &Shared,
    backend: &Backend,
    param: &'static str,
    tokens: &[u32],
) -> Result<(), ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::bad_value(param, "must not be empty"));
    }
    let limit = shared.config.prompt_limit_tokens.unwrap_or(usize::MAX);
    let ctx = backend.served.ctx;
    if tokens.len() > limit.min(ctx) {
        let option = if limit < ctx { "--max-prompt" } else { "--ctx" };
        let message = format!(
            "the prompt has {} tokens and this server takes at most {}; shorten the prompt, or start the server with a \
             larger {option}",
            tokens.len(),
            limit.min(ctx)
        );
        return Err(ApiError::context_length(param, message));
    }
    Ok(())
}
