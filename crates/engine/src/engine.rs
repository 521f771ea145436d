//! The engine's handle and its thread.
//!
//! One thread owns every sequence and steps at its own pace; callers submit through a bounded inbox and
//! receive events through channels of their own. Nothing else is shared but a snapshot of counters.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Instant;

use foretoken_cache::disk::file_system::FileSystem;
use foretoken_cache::store::Store;
use foretoken_cache::{
    CacheConfig, CacheStats, Capacity, ContextCache, DiskConfig, DiskTier, DraftFiles, DraftFilesConfig,
    DraftFilesStats, Fingerprint, RecomputeCost, Scope, ServerSecret, SharedConfig, SharedPrefix, SharedTier,
    SystemClock,
};
use foretoken_kernels::{NUMERICS_VERSION, advise_huge_pages};
use foretoken_model::Model;
use foretoken_model::tokenizer::Tokenizer;

use crate::api::{
    Answer, EngineStats, InvalidParam, MAX_DRAFT_LIMIT, Policy, Request, Speculation, SubmitError,
    TOP_LOGPROBS_MAX,
};
use crate::capacity::{block_layout, context_bytes, split};
use crate::config::{EngineConfig, EngineError, Responses};
use crate::fairness::Owner;
use crate::grammar::{Constraint, Grammar, GrammarError, Grammars};
use crate::inbox::Inbox;
use crate::job::Job;
use crate::loop_guard::LoopGuard;
use crate::replay::{self, Keep};
use crate::scheduler::Limits;
use crate::shared::Shared;
use crate::speculate::drafts::DraftsConfig;
use crate::speculate::{DRAFT_STEP_TOKENS, DraftModel, Mutex as Lock, Tenants};
use crate::step_loop::{CloseOnDrop, Parts, StepLoop};

/// Divisor of the disk budget that gives the draft model's own disk budget.
pub const DRAFT_DISK_SHARE: u64 = 8;

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
    tokenizer: Arc<Tokenizer>,
    store: Option<Arc<Store>>,
    responses: Responses,
    speculation: Speculation,
    tenants: Arc<Lock<Tenants>>,
    files: Option<Arc<DraftFiles>>,
    pin_share: u8,
    loop_tokens: u32,
    step_tokens: usize,
    draft_model: Option<Arc<DraftModel>>,
    grammars: Grammars,
    thread: Lock<Option<JoinHandle<()>>>,
}

/// A cache for a model's blocks.
fn open_cache(
    model: &Model,
    ram: Capacity,
    disk: Option<(PathBuf, u64)>,
    file_system: Arc<dyn FileSystem>,
    shared: Option<SharedConfig>,
) -> Result<ContextCache, EngineError> {
    let clock = Arc::new(SystemClock::new());
    let disk = disk
        .map(|(folder, bytes)| DiskTier::open(DiskConfig::new(folder, bytes), file_system, clock.clone()));
    let shared = shared.map(|shared| SharedTier::open(shared, clock.clone())).transpose()?;
    let layout = block_layout(&model.kv_layout());
    let cost = RecomputeCost::default();
    Ok(ContextCache::new(CacheConfig { layout, ram, advise: advise_huge_pages, cost }, disk, shared, clock)?)
}

/// Opens the configured draft model, with caches of its own.
fn open_draft_model(config: &EngineConfig) -> Result<Option<Arc<DraftModel>>, EngineError> {
    let Some((model, kv_bytes)) = config.draft_model.clone() else { return Ok(None) };
    // A draft model that one context does not fit beside gets what that needs.
    let kv = model.kv_layout();
    let bytes = kv_bytes.max(context_bytes(&kv, config.ctx, DRAFT_STEP_TOKENS));
    let ram = split(&kv, bytes, config.ctx, DRAFT_STEP_TOKENS).unwrap_or(Capacity { blocks: 0, windowed: 0 });
    let share = |(folder, bytes): &(PathBuf, u64)| (folder.with_extension("draft"), bytes / DRAFT_DISK_SHARE);
    let disk = config.disk.as_ref().map(share);
    let cache = open_cache(&model, ram, disk, Arc::clone(&config.file_system), None)?;
    let fingerprint = fingerprint(&model);
    Ok(Some(Arc::new(DraftModel::new(model, cache, ServerSecret::new(config.secret), fingerprint))))
}

/// Blocks of a model that fit in memory.
fn capacity(model: &Model, config: &EngineConfig) -> Result<Capacity, EngineError> {
    let bounds = [
        ("ctx", config.ctx),
        ("step_tokens", config.step_tokens),
        ("running_max", config.running_max),
        ("running_per_tenant_max", config.running_per_tenant_max.unwrap_or(1)),
        ("queue", config.queue),
    ];
    if let Some((name, _)) = bounds.into_iter().find(|&(_, bound)| bound == 0) {
        return Err(EngineError::Zero(name));
    }
    split(&model.kv_layout(), config.kv_bytes, config.ctx, config.step_tokens)
        .map_err(|needed| EngineError::KvBudget { ctx: config.ctx, needed, budget: config.kv_bytes })
}

/// Everything about a model that determines the bytes of its blocks.
fn fingerprint(model: &Model) -> Fingerprint {
    let layout = format!("{:?} f16", model.kv_layout());
    let file = model.gguf().fingerprint();
    let head = model.prediction_gguf().map(|gguf| gguf.fingerprint());
    let mut parts: Vec<(&str, &[u8])> =
        vec![("file", &file), ("layout", layout.as_bytes()), ("numerics", NUMERICS_VERSION.as_bytes())];
    if let Some(head) = &head {
        parts.push(("head", head));
    }
    Fingerprint::of(&parts)
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
    /// An invalid configuration, or a thread that cannot be started.
    pub fn start(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Result<Engine, EngineError> {
        let ram = capacity(&model, &config)?;
        let draft_model = open_draft_model(&config)?;
        let file_system = Arc::clone(&config.file_system);
        let cache = open_cache(&model, ram, config.disk, config.file_system, config.shared)?;
        let cache = Arc::new(cache);
        let shared = Arc::new(Shared::new(Inbox::new(config.queue)));
        let (secret, fingerprint) = (ServerSecret::new(config.secret), fingerprint(&model));
        let files = config.drafts.map(|(folder, bytes)| {
            let config = DraftFilesConfig::new(folder, bytes);
            Arc::new(DraftFiles::open(config, fingerprint, file_system, Arc::new(SystemClock::new())))
        });
        let tenants = Arc::new(Lock::new(Tenants::new(files.clone(), config.draft_memory)));
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
            tokenizer: Arc::clone(&tokenizer),
            store: config.store.clone(),
            responses: config.responses,
            speculation: config.speculation,
            tenants: Arc::clone(&tenants),
            files: files.clone(),
            pin_share: config.pin_share,
            loop_tokens: config.loop_tokens,
            step_tokens: config.step_tokens,
            draft_model: draft_model.clone(),
            grammars: Grammars::new(Arc::clone(&tokenizer), model.config().vocab),
            thread: Lock::default(),
        };
        let drafts = DraftsConfig {
            default: config.speculation,
            step_tokens: config.step_tokens,
            files,
            tenants,
            draft_model,
        };
        let parts = Parts {
            limits: Limits {
                step_tokens: config.step_tokens,
                running_max: config.running_max,
                per_tenant_max: config.running_per_tenant_max.unwrap_or(config.running_max),
            },
            blocks: ram.blocks,
            store: config.store,
            model,
            tokenizer,
            cache,
            drafts,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _closes_when_it_dies = CloseOnDrop(shared);
            StepLoop::new(parts).run();
        })?;
        *handle.thread.lock() = Some(thread);
        Ok(Engine { handle: Arc::new(handle) })
    }

    /// Takes no more requests, and waits until those that it has are answered and its thread has ended: then nobody uses
    /// the model's threads or writes files any more. Dropping an engine does not wait.
    pub fn stop(self) {
        self.handle.shared.inbox.close();
        let thread = self.handle.thread.lock().take();
        if let Some(thread) = thread {
            // A panic there was reported by the panic hook, and its requests have ended with an error.
            thread.join().ok();
        }
    }

    /// Compiles a constraint for requests to carry. Takes milliseconds: not for threads that must not block.
    ///
    /// # Errors
    /// What cannot be enforced, and why.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        self.handle.grammars.compile(constraint)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// A full queue, a prompt that is too long, or an invalid parameter.
    pub fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        let handle = &*self.handle;
        self.check(&request)?;
        let policy = request.speculation.over(handle.speculation).policy;
        let scope = handle.secret.scope(&request.tenant, handle.fingerprint);
        let room = handle.ctx - request.prompt.len();
        let answer_max = request.max_tokens.map_or(room, |max| max.min(room));
        let len_max = request.prompt.len() + answer_max;
        let mut keep = Keep::default();
        if let Some(store) = handle.store.as_ref().filter(|_| !request.forgettable)
            && let Some(key) = replay::key(&scope, &request, policy, len_max, handle.responses)
        {
            if request.cache.read
                && !self.is_draining()
                && let Some(response) = store.response(&key, &request.prompt)
            {
                handle.shared.replayed.fetch_add(1, Relaxed);
                return Ok(replay::replay(
                    &handle.tokenizer,
                    request,
                    &response,
                    handle.shared.snapshot().cost,
                ));
            }
            if request.cache.write {
                keep = Keep::new(Arc::clone(store), key, &request);
            }
        }
        // One event per token, one for the end.
        let (events, answer) = Answer::channel(answer_max + 1);
        let retry_after_s = self.retry_after_s();
        let caller = handle.secret.scope(&request.caller, handle.fingerprint).id();
        let owner = Owner { caller, tenant: scope.id() };
        let scope = self.scope(&request.tenant, &request.prompt);
        let drafts = request.speculation.over(handle.speculation).enabled;
        let matcher = request.grammar.as_ref().map(|grammar| Box::new(grammar.matcher(drafts)));
        let guarded = handle.loop_tokens > 0 && !request.ignore_eos;
        let loop_guard = guarded.then(|| LoopGuard::new(handle.loop_tokens));
        let job = Job {
            request,
            len_max,
            events,
            arrived: Instant::now(),
            scope,
            owner,
            matcher,
            loop_guard,
            keep,
        };
        handle.shared.in_flight.fetch_add(1, Relaxed);
        handle.shared.inbox.push(owner, job, retry_after_s).inspect_err(|_| {
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
        let shared = &self.handle.shared;
        let stats = shared.snapshot().stats;
        EngineStats {
            waiting: shared.inbox.len() + stats.waiting,
            replayed_total: shared.replayed.load(Relaxed),
            ..stats
        }
    }

    /// Figures of the context cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.handle.cache.stats()
    }

    /// Waits until cached blocks and drafter state are written to disk or dropped.
    pub fn flush_cache(&self) {
        self.handle.cache.flush();
        self.handle.tenants.lock().save(true);
        if let Some(files) = &self.handle.files {
            files.flush();
        }
        if let Some(draft_model) = &self.handle.draft_model {
            draft_model.flush();
        }
    }

    /// Deletes a tenant's past prompts and answers, or everyone's: stored responses and all drafter
    /// state. Running requests continue with what they hold. Waits for the database.
    pub fn forget(&self, tenant: Option<&str>) {
        let handle = &*self.handle;
        let scope = tenant.map(|tenant| handle.secret.scope(tenant, handle.fingerprint).id());
        let files = handle.tenants.lock().forget(scope);
        if let Some(files) = files {
            files.clear(scope);
        }
        if let Some(store) = &handle.store {
            store.forget_responses(scope);
        }
    }

    /// Percentage of the pinnable blocks that one tenant may pin.
    pub(crate) fn pin_share(&self) -> u8 {
        self.handle.pin_share
    }

    /// Rows of a step, at most.
    pub(crate) fn step_tokens(&self) -> usize {
        self.handle.step_tokens
    }

    /// Figures of the drafters' files, if there is a folder for them.
    pub(crate) fn draft_files_stats(&self) -> Option<DraftFilesStats> {
        self.handle.files.as_ref().map(|files| files.stats())
    }

    pub(crate) fn cache(&self) -> &ContextCache {
        &self.handle.cache
    }

    pub(crate) fn store(&self) -> Option<&Store> {
        self.handle.store.as_deref()
    }

    pub(crate) fn draft_model(&self) -> Option<&DraftModel> {
        self.handle.draft_model.as_deref()
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

    /// The scope that a request's block keys are derived from.
    pub(crate) fn scope(&self, tenant: &str, prompt: &[u32]) -> Scope {
        let own = self.handle.secret.scope(tenant, self.handle.fingerprint);
        let mut prefixes = self.handle.shared_prefixes.iter();
        let shared = prefixes.find(|prefix| prompt.starts_with(prefix.tokens()));
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
        if let Some(id) = request.prediction.iter().find(|&&id| id as usize >= vocab) {
            return invalid("prediction", format!("token {id} is outside the vocabulary of {vocab}"));
        }
        if request.prediction.len() > ctx {
            return invalid("prediction", format!("must have at most {ctx} tokens, what the context holds"));
        }
        if request.speculation.max_draft.is_some_and(|max| max > MAX_DRAFT_LIMIT) {
            return invalid("speculation.max_draft", format!("must be at most {MAX_DRAFT_LIMIT}"));
        }
        if let Some(Policy::Agreement(thresholds)) = request.speculation.policy {
            thresholds.validate()?;
        }
        if request.prompt.len() >= ctx {
            return Err(SubmitError::PromptTooLong { prompt: request.prompt.len(), ctx });
        }
        Ok(())
    }

    /// Estimated time until a full queue has room, in seconds.
    fn retry_after_s(&self) -> u64 {
        let request_s = self.handle.shared.snapshot().request_s;
        ((request_s / self.handle.running_max as f64).ceil() as u64).clamp(1, 60)
    }
}
