//! The engine's handle and its thread.
//!
//! One thread owns every sequence and steps at its own pace; callers reach it through a bounded inbox and
//! hear from it through their own channels. Nothing else is shared but a snapshot of counters.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use foretoken_cache::disk::fs::{FileSystem, RealFileSystem};
use foretoken_cache::store::Store;
use foretoken_cache::{
    BlockLayout, CacheConfig, CacheStats, ContextCache, DiskConfig, DiskTier, Fingerprint, RecomputeCost,
    Scope, ServerSecret, SharedConfig, SharedError, SharedPrefix, SharedTier, SystemClock,
};
use foretoken_kernels::{NUMERICS_VERSION, advise_huge_pages};
use foretoken_model::Model;
use foretoken_model::tokenizer::Tokenizer;

use crate::api::{Answer, EngineStats, InvalidParam, Request, SubmitError, TOP_LOGPROBS_MAX};
use crate::inbox::Inbox;
use crate::scheduler::Limits;
use crate::sequence::Job;
use crate::step_loop::StepLoop;
use crate::table::blocks_for;

/// Which requests may be answered with an earlier answer to the same request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Responses {
    /// None; nothing is stored.
    Off,
    /// Those whose answer would be the same: temperature 0, or a seed.
    #[default]
    Deterministic,
    /// Sampled ones too.
    Always,
}

/// Sizes and bounds of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Tokens of prompt and answer together, at most.
    pub ctx: usize,
    /// Bytes for KV blocks; must hold at least one whole context.
    pub kv_bytes: usize,
    /// Tokens in one step, at most.
    pub step_tokens: usize,
    /// Sequences that run at a time, at most.
    pub running_max: usize,
    /// Requests that wait, at most.
    pub queue: usize,
    /// Where and up to how many bytes blocks are kept on disk; `None` keeps them in memory only.
    pub disk: Option<(PathBuf, u64)>,
    /// What `disk` lies on; tests pass one that fails.
    pub file_system: Arc<dyn FileSystem>,
    /// The store that machines share, if there is one.
    pub shared: Option<SharedConfig>,
    /// Where finished answers are kept, to be replayed and to draft from; `None` keeps none.
    pub store: Option<Arc<Store>>,
    /// Which requests may be answered from there.
    pub responses: Responses,
    /// Beginnings of prompts that all tenants share, as tokens; whole blocks of them count.
    pub shared_prompts: Vec<Vec<u32>>,
    /// What all keys are derived from. Blocks on disk are found again only under the same one.
    pub secret: [u8; 32],
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            ctx: 8192,
            kv_bytes: 1 << 30,
            step_tokens: 512,
            running_max: 32,
            queue: 256,
            disk: None,
            file_system: Arc::new(RealFileSystem),
            shared: None,
            store: None,
            responses: Responses::default(),
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
        "a context of {ctx} tokens needs {needed} bytes of KV and the budget is {budget} bytes; \
         raise --cache-ram or lower --ctx"
    )]
    KvBudget {
        /// Tokens of a context.
        ctx: usize,
        /// Bytes that one context needs.
        needed: usize,
        /// Bytes allowed.
        budget: usize,
    },
    /// A bound of zero, which would stop everything.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The shared store's client could not be set up.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// The thread could not be started.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What handles and the engine's thread share.
pub(crate) struct Shared {
    pub(crate) inbox: Inbox<Job>,
    /// Requests taken and not yet answered or abandoned.
    pub(crate) in_flight: AtomicUsize,
    stats: Mutex<Snapshot>,
}

#[derive(Clone, Copy, Default)]
struct Snapshot {
    stats: EngineStats,
    /// Moving average of how long a request takes once it runs, in seconds.
    request_s: f64,
}

impl Shared {
    pub(crate) fn publish(&self, stats: EngineStats, request_s: f64) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = Snapshot { stats, request_s };
    }

    fn snapshot(&self) -> Snapshot {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on a running engine; clones are handles on the same one. The engine stops when the last one is
/// dropped.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    ctx: usize,
    vocab: usize,
    running_max: usize,
    secret: ServerSecret,
    fingerprint: Fingerprint,
    /// The longest first.
    shared_prefixes: Vec<SharedPrefix>,
    cache: Arc<ContextCache>,
}

/// Everything about a model that decides the bytes of its blocks.
fn fingerprint(model: &Model) -> Fingerprint {
    let layout = format!("{:?} f16", model.kv_layout());
    Fingerprint::of(&[
        ("file", &model.gguf().fingerprint()),
        ("layout", layout.as_bytes()),
        ("numerics", NUMERICS_VERSION.as_bytes()),
    ])
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.inbox.close();
    }
}

impl Engine {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// A configuration that cannot work, or no thread to be had.
    pub fn start(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Result<Engine, EngineError> {
        let bounds = [
            ("ctx", config.ctx),
            ("step_tokens", config.step_tokens),
            ("running_max", config.running_max),
            ("queue", config.queue),
        ];
        if let Some((name, _)) = bounds.into_iter().find(|&(_, bound)| bound == 0) {
            return Err(EngineError::Zero(name));
        }
        let block_bytes = model.kv_layout().block_bytes();
        let capacity = config.kv_bytes / block_bytes;
        let needed = blocks_for(config.ctx);
        if capacity < needed {
            let (needed, budget) = (needed * block_bytes, config.kv_bytes);
            return Err(EngineError::KvBudget { ctx: config.ctx, needed, budget });
        }
        let clock = Arc::new(SystemClock::new());
        let disk = config.disk.map(|(folder, bytes)| {
            DiskTier::open(DiskConfig::new(folder, bytes), config.file_system, clock.clone())
        });
        let shared_tier = config.shared.map(|shared| SharedTier::open(shared, clock.clone())).transpose()?;
        let layout = BlockLayout { bytes: block_bytes };
        let cache = CacheConfig {
            layout,
            ram_blocks: capacity,
            advise: advise_huge_pages,
            cost: RecomputeCost::default(),
        };
        let cache = Arc::new(ContextCache::new(cache, disk, shared_tier, clock)?);
        let shared = Arc::new(Shared {
            inbox: Inbox::new(config.queue),
            in_flight: AtomicUsize::new(0),
            stats: Mutex::new(Snapshot::default()),
        });
        let (secret, fingerprint) = (ServerSecret::new(config.secret), fingerprint(&model));
        let prefixes = config.shared_prompts.iter();
        let mut shared_prefixes: Vec<_> =
            prefixes.filter_map(|tokens| secret.shared_prefix(tokens, fingerprint)).collect();
        shared_prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.tokens().len()));
        let handle = Handle {
            shared: Arc::clone(&shared),
            ctx: config.ctx,
            vocab: model.config().vocab,
            running_max: config.running_max,
            secret,
            fingerprint,
            shared_prefixes,
            cache: Arc::clone(&cache),
        };
        let limits = Limits { step_tokens: config.step_tokens, running_max: config.running_max };
        let step_loop = StepLoop::new(model, tokenizer, cache, capacity, limits, shared);
        std::thread::Builder::new().name("engine".into()).spawn(move || step_loop.run())?;
        Ok(Engine { handle: Arc::new(handle) })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// No room, no room for the prompt, or a parameter that cannot be honoured.
    pub fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        let handle = &*self.handle;
        self.check(&request)?;
        let room = handle.ctx - request.prompt.len();
        let answer_max = request.max_tokens.map_or(room, |max| max.min(room));
        // One event per token, one for the end.
        let (events, answer) = Answer::channel(answer_max + 1);
        let len_max = request.prompt.len() + answer_max;
        let retry_after_s = self.retry_after_s();
        let scope = self.scope(&request);
        let job = Job { request, len_max, events, arrived: Instant::now(), scope };
        handle.shared.in_flight.fetch_add(1, Relaxed);
        handle.shared.inbox.push(job, retry_after_s).inspect_err(|_| {
            handle.shared.in_flight.fetch_sub(1, Relaxed);
        })?;
        Ok(answer)
    }

    /// Tokens of prompt and answer together, at most.
    pub fn ctx(&self) -> usize {
        self.handle.ctx
    }

    /// Counters and gauges as of the last step.
    pub fn stats(&self) -> EngineStats {
        let stats = self.handle.shared.snapshot().stats;
        EngineStats { waiting: self.handle.shared.inbox.len() + stats.waiting, ..stats }
    }

    /// Figures of the context cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.handle.cache.stats()
    }

    /// Waits until what is cached now is on disk, or was dropped.
    pub fn flush_cache(&self) {
        self.handle.cache.flush();
    }

    /// Refuses new requests from now on; those taken are finished.
    pub fn drain(&self) {
        self.handle.shared.inbox.close();
    }

    /// Whether the engine refuses new requests.
    pub fn is_draining(&self) -> bool {
        self.handle.shared.inbox.is_closed()
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.handle.shared.in_flight.load(Relaxed) == 0
    }

    /// Under which names the blocks of a request are kept.
    fn scope(&self, request: &Request) -> Scope {
        let own = self.handle.secret.scope(&request.tenant, self.handle.fingerprint);
        let mut prefixes = self.handle.shared_prefixes.iter();
        let shared = prefixes.find(|prefix| request.prompt.starts_with(prefix.tokens()));
        shared.map_or_else(|| own.clone(), |prefix| own.after(prefix))
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let &Handle { ctx, vocab, .. } = &*self.handle;
        let invalid = |param, message: String| Err(SubmitError::from(InvalidParam { param, message }));
        request.sampling.validate()?;
        if request.prompt.is_empty() {
            return invalid("prompt", "must have at least one token".into());
        }
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= vocab) {
            return invalid("prompt", format!("token {id} is outside the vocabulary of {vocab}"));
        }
        if request.max_tokens == Some(0) {
            return invalid("max_tokens", "must be at least 1".into());
        }
        if request.logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
            return invalid("top_logprobs", format!("must be at most {TOP_LOGPROBS_MAX}"));
        }
        if request.prompt.len() >= ctx {
            return Err(SubmitError::PromptTooLong { prompt: request.prompt.len(), ctx });
        }
        Ok(())
    }

    /// When a place in a full queue may be free, in seconds.
    fn retry_after_s(&self) -> u64 {
        let request_s = self.handle.shared.snapshot().request_s;
        ((request_s / self.handle.running_max as f64).ceil() as u64).clamp(1, 60)
    }
}
