//! The OpenAI and DeepSeek APIs over HTTP.
//!
//! A request comes in at `routes`, is counted and logged by `track`, let in by `auth`, read by `body` and
//! checked field by field in `protocol`. Its text becomes token ids through a [`Codec`]; `run` hands one
//! engine request per choice to a [`Generator`] and gives the tokens to a writer, which sorts them into
//! reasoning, content and tool calls and fills OpenAI's shapes; the answer leaves at once or through `sse`.
//!
//! This crate does not schedule, sample or load anything, and it keeps no conversation: when a response has
//! been sent, nothing of it is left but counters and a row in the ledger, which `accounts` keeps. The invariant: every response that is not a success has
//! [`ApiError`]'s shape, and every client that goes away frees what computes for it.
#![forbid(unsafe_code)]

mod accounts;
mod auth;
mod backend;
mod body;
mod cache_control;
mod cache_metrics;
pub mod cache_report;
mod caller;
mod config;
mod draft_metrics;
mod error;
pub mod explain;
mod metrics;
mod protocol;
mod reasoning;
mod routes;
mod run;
mod shutdown;
mod sse;
mod state;
mod tenants;
mod tool_calls;
mod track;

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
pub use backend::{ChatPrompt, Codec, Generator, Served};
pub use cache_control::CacheControl;
pub use config::{ApiKey, ApiKeyError, ServerConfig};
pub use error::ApiError;
pub use shutdown::{Shutdown, Trigger};

/// How long connections may take to send their last bytes after their answers were cut off.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An origin that cannot stand in a header.
    #[error("cors_origins: '{0}' is not an origin; write it like https://example.org")]
    Origin(String),
    /// Prices or accounts that contradict themselves.
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
        let book = accounts::Book::new(&config).map_err(ServeError::Accounts)?;
        let shared = Arc::new(state::Shared::new(config, book));
        let router = routes::router(Arc::clone(&shared), cors);
        Ok(Server { shared, router })
    }

    /// Installs the model: from now on requests are answered.
    pub fn ready(&self, served: Served) {
        self.shared.install(served);
    }

    /// The routes, to be called without a socket or mounted elsewhere.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Refuses new requests from now on; running ones go on.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Serves until `shutdown` asks to stop, then finishes running answers for at most the configured grace
    /// period, or until `shutdown` asks again.
    ///
    /// # Errors
    /// The listening socket failed.
    pub async fn serve(self, listener: TcpListener, mut shutdown: Shutdown) -> Result<(), ServeError> {
        let mut first = shutdown.clone();
        let shared = Arc::clone(&self.shared);
        let grace = Duration::from_secs(shared.config.grace_s);
        let serving = axum::serve(listener, self.router)
            .with_graceful_shutdown(async move {
                first.asked(1).await;
                tracing::info!("stopping: no new requests, running answers are finished");
                shared.drain();
            })
            .into_future();
        let patience = async {
            shutdown.asked(1).await;
            tokio::select! {
                () = tokio::time::sleep(grace) => tracing::warn!("the grace period is over"),
                () = shutdown.asked(2) => tracing::warn!("asked to stop again"),
            }
        };
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => return served.map_err(ServeError::Socket),
            () = patience => self.shared.cut_off(),
        }
        match timeout(LAST_BYTES, serving).await {
            Ok(served) => served.map_err(ServeError::Socket),
            Err(_) => Ok(()),
        }
    }
}
