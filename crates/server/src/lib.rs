//! The APIs of OpenAI, DeepSeek, Anthropic and Ollama over HTTP.
//!
//! `routes` dispatches a request, `request_log` counts and logs it, `host_check` and `auth` admit it, `body` parses it, and
//! a dialect in `protocol` reads it into a `conversation`. A [`Codec`] turns its text into token ids; `run` submits one
//! engine request per answer to a [`Generator`]; `answer` finds reasoning, text and tool calls in what comes back, and the
//! dialect writes them, whole or as a stream (`sse`, `ndjson`).
//!
//! This crate does not schedule, sample or load anything, and it is stateless between requests except for counters
//! and the ledger in `accounts`. The invariant: every error response is an [`ApiError`] in the dialect's shape, and a client that
//! disconnects cancels its sequences.
#![forbid(unsafe_code)]

mod accounts;
mod answer;
mod auth;
mod backend;
mod body;
mod cache_control;
mod cache_metrics;
pub mod cache_report;
mod caller;
mod config;
mod conversation;
mod draft_metrics;
mod error;
pub mod explain;
mod generation;
mod host_check;
mod ids;
mod metrics;
mod metrics_format;
mod ndjson;
mod page;
mod protocol;
mod report;
mod request_log;
mod routes;
mod run;
mod shutdown;
mod sse;
mod stable_prompt;
mod state;
mod tenants;
mod totals;

use std::future::IntoFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::time::timeout;

pub use accounts::{
    AccountError, GROUPINGS, NamedKey, Period, PeriodError, Prepaid, PriceHours, PriceHoursError, Prices,
    Rates, Report, Usd, UsdError, grouping, usd,
};
pub use answer::ToolFormat;
pub use backend::{ChatPrompt, Codec, Generator, ModelFacts, Served};
pub use cache_control::CacheControl;
pub use config::{ApiKey, ApiKeyError, BoundPort, ServerConfig, TenantBy};
pub use error::ApiError;
pub use protocol::request_fields;
pub use shutdown::{Shutdown, Trigger};
pub use stable_prompt::{SESSION_PATTERN, VOLATILE_PATTERN};

/// Time to flush open connections after running responses were aborted.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A CORS origin that is not a valid header value.
    #[error("--cors-origin: '{0}' is not an origin; write it like https://example.org")]
    Origin(String),
    /// A pattern that is not a regular expression.
    #[error("{0}")]
    Pattern(String),
    /// Inconsistent prices or accounts.
    #[error("{0}")]
    Accounts(String),
    /// The listening socket failed.
    #[error("the listening socket failed")]
    Socket(#[source] io::Error),
}

/// The HTTP side of a server. Clones share everything.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<state::Shared>,
    router: Router,
}

impl Server {
    /// Builds the routes. Until [`Server::ready`] is called, requests get 503.
    ///
    /// # Errors
    /// A setting that cannot be used.
    pub fn new(config: ServerConfig) -> Result<Self, ServeError> {
        let cors = routes::cors(&config.cors_origins).map_err(ServeError::Origin)?;
        let registry = accounts::AccountRegistry::new(&config).map_err(ServeError::Accounts)?;
        let stable_prompt = stable_prompt::StablePrompt::new(&config).map_err(ServeError::Pattern)?;
        let shared = Arc::new(state::Shared::new(config, registry, stable_prompt));
        let router = routes::router(Arc::clone(&shared), cors);
        Ok(Server { shared, router })
    }

    /// Installs the model; requests are accepted from now on.
    pub fn ready(&self, served: Served) {
        self.shared.install(served);
    }

    /// The router, for calls without a socket or to be mounted elsewhere.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Method and path of every route.
    pub fn routes() -> impl Iterator<Item = (&'static str, String)> {
        routes::all()
    }

    /// Rejects new requests from now on; running ones continue.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Serves until `shutdown` is requested, then finishes running responses for at most the configured grace
    /// period, or until shutdown is requested a second time.
    ///
    /// # Errors
    /// The listening socket failed.
    pub async fn serve(self, listener: TcpListener, mut shutdown: Shutdown) -> Result<(), ServeError> {
        let mut first = shutdown.clone();
        let shared = Arc::clone(&self.shared);
        let grace = Duration::from_secs(shared.config.grace_s);
        let serving = axum::serve(listener, self.router)
            .with_graceful_shutdown(async move {
                first.requested(1).await;
                tracing::info!("shutting down: rejecting new requests, finishing running ones");
                shared.drain();
            })
            .into_future();
        let grace_over = async {
            shutdown.requested(1).await;
            tokio::select! {
                () = tokio::time::sleep(grace) => tracing::warn!("grace period expired, aborting running requests"),
                () = shutdown.requested(2) => tracing::warn!("second shutdown signal, aborting running requests"),
            }
        };
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => return served.map_err(ServeError::Socket),
            () = grace_over => self.shared.cut_off(),
        }
        match timeout(FLUSH_TIMEOUT, serving).await {
            Ok(served) => served.map_err(ServeError::Socket),
            Err(_) => Ok(()),
        }
    }
}
