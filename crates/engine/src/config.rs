//! Configuration of an engine, and why it may be refused. Plain data.

use std::path::PathBuf;
use std::sync::Arc;

use foretoken_cache::disk::file_system::{FileSystem, RealFileSystem};
use foretoken_cache::store::Store;
use foretoken_cache::{SharedConfig, SharedError};
use foretoken_model::Model;

use crate::api::Speculation;

/// Which requests may be answered from the response store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Responses {
    /// None; nothing is stored.
    Off,
    /// Deterministic ones: temperature 0, or a seed.
    #[default]
    Deterministic,
    /// Sampled ones too.
    Always,
}

/// Sizes and bounds of an engine.
#[derive(Clone)]
pub struct EngineConfig {
    /// Tokens of prompt and answer together, at most.
    pub ctx: usize,
    /// Bytes for KV blocks; must hold at least one whole context.
    pub kv_bytes: usize,
    /// Tokens in one step, at most.
    pub step_tokens: usize,
    /// Running sequences, at most.
    pub running_max: usize,
    /// Running sequences of one tenant, at most; `None` is as many as run in all. While others wait, a tenant has no
    /// more than its share anyway.
    pub running_per_tenant_max: Option<usize>,
    /// Waiting requests, at most; one caller may fill four fifths of it, one tenant about two thirds.
    pub queue: usize,
    /// Where and up to how many bytes blocks are kept on disk; `None` keeps them in memory only.
    pub disk: Option<(PathBuf, u64)>,
    /// The file system of `disk` and `drafts`; tests pass one that injects faults.
    pub file_system: Arc<dyn FileSystem>,
    /// The shared tier, if there is one.
    pub shared: Option<SharedConfig>,
    /// The response store, to replay and draft from; `None` keeps no answers.
    pub store: Option<Arc<Store>>,
    /// Default speculation settings of requests.
    pub speculation: Speculation,
    /// Tokens of past prompts and answers that are kept to draft from; 64 bytes each at most.
    pub draft_memory: usize,
    /// Where and up to how many bytes drafter state is kept on disk; `None` keeps it in memory only.
    pub drafts: Option<(PathBuf, u64)>,
    /// Which requests may be answered from the response store.
    pub responses: Responses,
    /// A smaller model with the same vocabulary that drafts, and the bytes for its KV blocks.
    pub draft_model: Option<(Arc<Model>, usize)>,
    /// Tokens for which an answer may repeat the same short cycle before it is ended as too long; 0 is without end. Requests
    /// that ignore the model's end are left alone.
    pub loop_tokens: u32,
    /// Percentage of the blocks that may be pinned in all that one tenant may pin.
    pub pin_share: u8,
    /// Prompt prefixes that all tenants share, as tokens; only their whole blocks are shared.
    pub shared_prompts: Vec<Vec<u32>>,
    /// The secret that all block keys are derived from. Blocks on disk are found again only under the same secret.
    pub secret: [u8; 32],
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            ctx: 8192,
            kv_bytes: 1 << 30,
            step_tokens: 512,
            running_max: 32,
            running_per_tenant_max: None,
            queue: 256,
            disk: None,
            file_system: Arc::new(RealFileSystem),
            shared: None,
            store: None,
            speculation: Speculation::default(),
            draft_memory: 1_000_000,
            drafts: None,
            draft_model: None,
            responses: Responses::default(),
            loop_tokens: 1000,
            pin_share: 100,
            shared_prompts: Vec::new(),
            secret: [0; 32],
        }
    }
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The KV budget does not hold one context.
    #[error(
        "a context of {ctx} tokens needs {} MiB for its KV and --cache-ram allows {} MiB; \
         raise --cache-ram or lower --ctx",
        needed.div_ceil(1 << 20),
        budget >> 20
    )]
    KvBudget {
        /// Tokens of a context.
        ctx: usize,
        /// Bytes that one context needs.
        needed: usize,
        /// Bytes allowed.
        budget: usize,
    },
    /// A bound of zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The shared store's client could not be set up.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// The thread could not be started.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
}
