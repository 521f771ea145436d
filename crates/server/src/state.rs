//! State shared by all requests: configuration, lifecycle phase, the model once it is loaded, metrics, ids.
//!
//! The invariant: phases only advance, loading → up → draining → over, and a request is only started in `up`.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::accounts::{AccountRegistry, Ledger};
use crate::backend::Served;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::ids::Ids;
use crate::metrics::{HttpMetrics, ModelMetrics};
use crate::stable_prompt::StablePrompt;

/// Lifecycle phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Accepting requests, once the model is loaded.
    Up,
    /// Finishing running requests.
    Draining,
    /// Remaining requests are aborted.
    Over,
}

/// The model with the names it answers to.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) served: Served,
    /// The first is the id in `/v1/models`.
    pub(crate) names: Vec<String>,
    pub(crate) system_fingerprint: String,
    /// Control tokens of its tool calls.
    pub(crate) call_tokens: Arc<[u32]>,
    pub(crate) metrics: ModelMetrics,
    pub(crate) ledger: Arc<Ledger>,
}

impl Backend {
    pub(crate) fn id(&self) -> &str {
        &self.names[0]
    }

    /// Accepts one of the served names, or none.
    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(name) if !self.names.iter().any(|served| served == name) => {
                Err(ApiError::model_not_found(name, &self.names))
            }
            _ => Ok(()),
        }
    }
}

/// Shared by all requests.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) registry: Arc<AccountRegistry>,
    pub(crate) stable_prompt: StablePrompt,
    pub(crate) http: HttpMetrics,
    backend: OnceLock<Arc<Backend>>,
    phase: watch::Sender<Phase>,
    pub(crate) ids: Arc<Ids>,
}

impl Shared {
    pub(crate) fn new(config: ServerConfig, registry: AccountRegistry, stable_prompt: StablePrompt) -> Self {
        Shared {
            config,
            registry: Arc::new(registry),
            stable_prompt,
            http: HttpMetrics::new(),
            backend: OnceLock::new(),
            phase: watch::Sender::new(Phase::Up),
            ids: Arc::new(Ids::new()),
        }
    }

    /// Installs the model. A second call changes nothing.
    pub(crate) fn install(&self, served: Served) {
        let mut names = self.config.model_names.clone();
        if names.is_empty() {
            names.push(served.name.clone());
        }
        let digits: String = served.fingerprint.chars().take(12).collect();
        let ledger = Arc::new(Ledger::open(Arc::clone(&self.registry), Arc::clone(&served.store)));
        let metrics = ModelMetrics::new(&names[0], Arc::clone(&served.generator), Arc::clone(&ledger));
        let system_fingerprint = format!("fp_{digits}");
        let control = served.tool_format.markers().filter_map(|text| served.codec.control_token(text));
        let call_tokens = control.collect();
        let backend = Backend { names, system_fingerprint, call_tokens, metrics, ledger, served };
        if self.backend.set(Arc::new(backend)).is_err() {
            tracing::warn!("a model is already installed; ignoring the second one");
        }
        // A signal may have come while the model was loading.
        if self.phase() != Phase::Up {
            self.drain();
        }
    }

    /// The model, whatever the phase.
    pub(crate) fn installed(&self) -> Option<&Arc<Backend>> {
        self.backend.get()
    }

    /// The model, if new requests are accepted.
    pub(crate) fn backend(&self) -> Result<&Arc<Backend>, ApiError> {
        if self.phase() != Phase::Up {
            return Err(ApiError::draining());
        }
        self.backend.get().ok_or_else(ApiError::loading)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Rejects new requests from now on.
    pub(crate) fn drain(&self) {
        self.advance(Phase::Draining);
        if let Some(backend) = self.backend.get() {
            backend.served.generator.drain();
        }
    }

    /// Aborts running requests.
    pub(crate) fn cut_off(&self) {
        self.advance(Phase::Over);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time_s() -> u64 {
    unix_time_ms() / 1000
}

/// Milliseconds since 1970.
pub(crate) fn unix_time_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
