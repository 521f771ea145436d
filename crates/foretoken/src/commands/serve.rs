//! `foretoken serve`: the wiring of model, engine and HTTP.
//!
//! In this order: take the port, check everything that can be checked without weights, open the port (clients now get a
//! 503 that says "loading"), load, print the banner. So a mistake in an option or a file is told before any client is.
//! The banner goes to standard output, everything else to the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use foretoken_cache::data_folder;
use foretoken_cache::disk::quarantine_bytes_max;
use foretoken_cache::store::{DAY_MS, Store, StoreConfig};
use foretoken_cache::{SharedConfig, SystemClock};
use foretoken_engine::{
    Answer, Constraint, DRAFT_DISK_SHARE, Engine, EngineConfig, EngineStats, Explained, Grammar,
    GrammarError, Request, Responses, SubmitError,
};
use foretoken_model::chat::{ChatInput, ChatTemplate, Place, Rendered, TemplateError};
use foretoken_model::tokenizer::Tokenizer;
use foretoken_server::{
    ApiKey, CacheControl, ChatPrompt, Codec, Generator, ModelFacts, NamedKey, Prices, Rates, Served, Server,
    ServerConfig, Shutdown, TenantBy, ToolFormat,
};

use serde_json::Value;

use crate::cli::ServeArgs;
use crate::commands::chat::HISTORY_BYTES_MAX;
use crate::commands::serve_banner::Banner;
use crate::load::{Loaded, OpenModel};
use crate::{cache_secret, folder_lock, load, shared_cache, shared_prompt};

/// Runs the server until a signal ends it.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(args));
    // Do not wait for a model that is still loading.
    runtime.shutdown_background();
    result
}

async fn serve(args: &ServeArgs) -> Result<()> {
    let config = server_config(args)?;
    let server = Server::new(config.clone())?;
    let mut shutdown = Shutdown::on_signals().context("cannot listen to signals")?;
    let wanted = format!("{}:{}", args.host, args.port);
    let port = config.bind().await.with_context(|| format!("cannot listen on {wanted}"))?;
    let checking = {
        let args = args.clone();
        tokio::task::spawn_blocking(move || check(&args))
    };
    let checked = tokio::select! {
        checked = checking => checked??,
        () = shutdown.requested(1) => return Ok(()),
    };
    let listener = port.listen().with_context(|| format!("cannot listen on {wanted}"))?;
    let address = listener.local_addr()?;
    folder_lock::share(&load::data_dir(&args.model.base)?, Some(address));
    tracing::info!("loading {}; requests to http://{address} get 503 until it is ready", args.model.model);
    let serving = tokio::spawn(server.clone().serve(listener, shutdown));
    let loaded = {
        let args = args.clone();
        tokio::task::spawn_blocking(move || load_model(&args, checked))
    };
    let mut serving = std::pin::pin!(serving);
    let (engine, store) = tokio::select! {
        // A signal arrived while the model was loading.
        served = &mut serving => return Ok(served??),
        loaded = loaded => {
            let (served, engine) = loaded??;
            let store = Arc::clone(&served.store);
            server.ready(served);
            (engine, store)
        }
    };
    let data_dir = load::data_dir(&args.model.base)?;
    let model = config.model_names.first().map_or("", String::as_str);
    Banner { args, config: &config, address, model, ctx: engine.ctx(), data_dir: &data_dir }.print();
    serving.await??;
    // Blocks, responses and ledger rows of the last requests may still be in the writers' queues.
    let flush = move || {
        engine.flush_cache();
        store.flush();
    };
    Ok(tokio::task::spawn_blocking(flush).await?)
}

/// What is known to be usable before the port opens.
struct Checked {
    model: OpenModel,
    shared: Option<SharedConfig>,
    shared_prompts: Vec<Vec<u32>>,
}

/// Checks everything that needs no weights: options, model file, context, files that options name.
fn check(args: &ServeArgs) -> Result<Checked> {
    load::speculation(&args.speculation)?;
    let shared = shared_cache::config(&args.shared)?;
    let model = load::open_model(&args.model, &args.speculation)?;
    model.check_context(&args.context)?;
    let prompts = args.shared.shared_prompt.iter();
    let shared_prompts = prompts
        .map(|path| shared_prompt::read(path, &model.template, &model.tokenizer))
        .collect::<Result<_>>()?;
    Ok(Checked { model, shared, shared_prompts })
}

/// Options to the HTTP server's configuration.
fn server_config(args: &ServeArgs) -> Result<ServerConfig> {
    let keys = |words: &[String]| words.iter().map(|key| ApiKey::parse(key)).collect::<Result<_, _>>();
    let named = args.accounts.account.iter().map(|word| word.parse()).collect::<Result<Vec<NamedKey>, _>>();
    let named_keys = named.context("--account")?;
    let mut api_keys: Vec<ApiKey> = keys(&args.api_key).context("--api-key")?;
    api_keys.extend(named_keys.iter().map(|named| named.key));
    let rates = Rates {
        hit: args.accounts.price_hit,
        miss: args.accounts.price_miss,
        output: args.accounts.price_output,
    };
    Ok(ServerConfig {
        host: args.host.clone(),
        port: args.port,
        model_names: if args.alias.is_empty() {
            vec![short_name(&args.model.model)]
        } else {
            args.alias.clone()
        },
        api_keys,
        named_keys,
        prepaid: args.accounts.prepaid.clone(),
        prices: Prices { rates, hours: args.accounts.price_hours.clone() },
        admin_keys: keys(&args.admin_key).context("--admin-key")?,
        metrics_open: args.metrics_open,
        allowed_hosts: args.allowed_host.clone(),
        tenant_by: if args.tenant_by == "key" { TenantBy::Key } else { TenantBy::KeyAndUser },
        session_pattern: args.session_pattern.clone(),
        volatile_pattern: args.volatile_pattern.clone(),
        cors_origins: args.cors_origin.clone(),
        body_limit_bytes: usize::try_from(args.max_body.0).context("--max-body is too large")?,
        prompt_limit_tokens: args.max_prompt,
        max_n: args.max_n,
        request_timeout_s: args.request_timeout,
        grace_s: args.grace,
        ..ServerConfig::default()
    })
}

/// Settings whose default is decided at start, for `--print-config`.
pub(crate) fn computed_settings(args: &ServeArgs) -> Result<Vec<(&'static str, String)>> {
    let data_dir = load::data_dir(&args.model.base)?;
    let mut settings = vec![
        ("model", args.model.model.clone()),
        ("threads", load::threads(&args.model).to_string()),
        ("data-dir", std::path::absolute(&data_dir).unwrap_or(data_dir).display().to_string()),
        ("log", args.model.base.log.clone().unwrap_or_else(|| "info".to_owned())),
    ];
    // Nothing is downloaded to print the settings; a model that is not here yet leaves the context to the start.
    if let Some(path) = load::local_file(&args.model.model, &args.model.base)? {
        let gguf = load::open(&path)?;
        let prediction = load::prediction(&args.speculation.mtp, &args.model.base, &path, &gguf)?;
        let (config, layout) = foretoken_model::describe(&gguf, &prediction)?;
        settings.push(("ctx", load::default_ctx(&layout, config.ctx_train, &args.context).to_string()));
    }
    Ok(settings)
}

/// The last part of a model reference without its extension: the model's name in the API.
fn short_name(reference: &str) -> String {
    let last = reference.rsplit(['/', '\\', ':']).next().unwrap_or(reference);
    last.strip_suffix(".gguf").unwrap_or(last).to_owned()
}

/// Loads the model and starts the engine; takes seconds, so it runs on a blocking thread.
fn load_model(args: &ServeArgs, checked: Checked) -> Result<(Served, Engine)> {
    let start = Instant::now();
    let Checked { model, mut shared, shared_prompts } = checked;
    let data_dir = load::data_dir(&args.model.base)?;
    // Before anything opens in it, the ledger too.
    if let Err(error) = data_folder::prepare(&data_dir) {
        tracing::warn!("cannot use the data folder {}: {error}", data_dir.display());
    }
    let loaded = model.load()?;
    let mut disk = (args.cache_disk.0 > 0).then(|| (data_dir.join("blocks"), args.cache_disk.0));
    let named = args.shared.cache_secret_file.as_deref().map(cache_secret::load).transpose();
    let named = named.context("--cache-secret-file")?;
    let secret = match named.map_or_else(|| cache_secret::load_or_create(&data_dir), Ok) {
        Ok(secret) => secret,
        // A disk that cannot store 32 bytes cannot store blocks either; serve without it.
        Err(error) => {
            tracing::warn!("{error:#}; prompts and answers are cached in memory only");
            (disk, shared) = (None, None);
            cache_secret::fresh().context("cannot read random bytes")?
        }
    };
    let store = Arc::new(open_store(args, &data_dir)?);
    store.record_limits(limits(args));
    let bounds = EngineConfig {
        store: Some(Arc::clone(&store)),
        responses: match args.responses.as_str() {
            "off" => Responses::Off,
            "always" => Responses::Always,
            _ => Responses::Deterministic,
        },
        running_max: args.max_running,
        running_per_tenant_max: args.max_running_per_tenant,
        queue: args.max_waiting,
        step_tokens: args.step_tokens,
        pin_share: args.pin_share,
        loop_tokens: args.loop_tokens,
        disk,
        shared,
        shared_prompts,
        secret,
        ..EngineConfig::default()
    };
    let engine = loaded.start_engine(&args.model.base, &args.context, &args.speculation, bounds)?;
    let (name, ctx) = (loaded.model.config().name.clone(), engine.ctx());
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(model = name, ctx, "ready after {seconds:.2} s");
    let tool_format = tool_format(args, &loaded);
    let served = Served {
        facts: facts(&loaded),
        name,
        fingerprint: loaded.gguf.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect(),
        ctx,
        tool_format,
        store,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        generator: Arc::new(EngineGenerator(engine.clone())),
        codec: Arc::new(TextCodec { tokenizer: loaded.tokenizer, template: loaded.template }),
    };
    Ok((served, engine))
}

/// The form in which the model writes tool calls: the one that was asked for, or the template's.
fn tool_format(args: &ServeArgs, loaded: &Loaded) -> &'static ToolFormat {
    let template = &loaded.template;
    if let Some(format) = ToolFormat::named(&args.tool_format) {
        tracing::info!("tool calls are expected in the form {}, as --tool-format says", format.name);
        return format;
    }
    if !template.reads_tools() {
        let format = ToolFormat::hermes();
        tracing::info!(
            "the chat template has no place for tools; those of a request are described in its system message, and \
             calls are expected in the form {}",
            format.name
        );
        return format;
    }
    let found = ToolFormat::of_template(template.tools_source());
    match found {
        Some(format) => tracing::info!("tool calls are expected in the form {}, the template's", format.name),
        None => tracing::warn!(
            "the chat template writes tool calls in no known form; they are expected in the form {}, see --tool-format",
            ToolFormat::hermes().name
        ),
    }
    found.unwrap_or(ToolFormat::hermes())
}

/// What clients may know of the model file.
fn facts(loaded: &Loaded) -> ModelFacts {
    let (gguf, config) = (&loaded.gguf, loaded.model.config());
    let mut types: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in gguf.tensors() {
        *types.entry(tensor.ty.name()).or_default() += tensor.elements() as u64;
    }
    let most = types.iter().max_by_key(|(_, elements)| **elements);
    let token = |id: Option<u32>| id.map_or("", |id| loaded.tokenizer.token_text(id)).to_owned();
    ModelFacts {
        architecture: config.arch.clone(),
        parameters: types.values().sum(),
        bytes: gguf.files().map(|(_, bytes)| bytes).sum(),
        quantization: most.map_or("", |(name, _)| *name).to_uppercase(),
        layers: config.layers,
        width: config.width,
        ctx_train: config.ctx_train,
        template: loaded.template.source().to_owned(),
        bos: token(loaded.tokenizer.bos()),
        eos: token(loaded.tokenizer.eos()),
    }
}

/// Opens the database. Without accounts and prepaid limits a server runs without its file too.
fn open_store(args: &ServeArgs, data_dir: &Path) -> Result<Store> {
    let config = StoreConfig {
        responses_bytes_max: args.responses_max.0,
        responses_age_ms_max: args.responses_days.saturating_mul(DAY_MS),
        ledger_bytes_max: args.ledger_max.0,
        ledger_age_ms_max: args.ledger_days.saturating_mul(DAY_MS),
        ..StoreConfig::default()
    };
    let clock = Arc::new(SystemClock::new());
    if args.accounts.account.is_empty() && args.accounts.prepaid.is_empty() {
        return Ok(Store::open(data_dir, config, clock));
    }
    Store::try_open(data_dir, config, clock).context(
        "the ledger must be kept, since the server has --account or --prepaid; repair the file, restore a backup, or \
         move it away to start with an empty ledger",
    )
}

/// The byte budgets of the data folder, which `foretoken cache stat` shows.
fn limits(args: &ServeArgs) -> Vec<(String, u64)> {
    let blocks = args.cache_disk.0;
    let drafting = args.speculation.draft_model.is_some();
    let draft_blocks = if drafting { blocks / DRAFT_DISK_SHARE } else { 0 };
    [
        ("blocks", blocks),
        ("draft_blocks", draft_blocks),
        (
            "quarantine",
            quarantine_bytes_max(blocks) + if drafting { quarantine_bytes_max(draft_blocks) } else { 0 },
        ),
        ("drafts", args.speculation.draft_disk.0),
        ("responses", args.responses_max.0),
        ("ledger", args.ledger_max.0),
        ("history", HISTORY_BYTES_MAX),
    ]
    .map(|(kind, bytes)| (kind.to_owned(), bytes))
    .to_vec()
}

/// Adapter: the engine as the server's generator.
struct EngineGenerator(Engine);

impl Generator for EngineGenerator {
    fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        self.0.submit(request)
    }

    fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        self.0.compile(constraint)
    }

    fn explain(&self, request: &Request) -> Explained {
        self.0.explain(request)
    }

    fn stats(&self) -> EngineStats {
        self.0.stats()
    }

    fn cache(&self) -> &dyn CacheControl {
        &self.0
    }

    fn drain(&self) {
        self.0.drain();
    }
}

/// Adapter: tokenizer and chat template as the server's codec.
pub(crate) struct TextCodec {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: ChatTemplate,
}

impl Codec for TextCodec {
    fn encode(&self, text: &str, add_bos: bool, parse_special: bool) -> Vec<u32> {
        self.tokenizer.encode(text, add_bos, parse_special)
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true)
    }

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn control_token(&self, text: &str) -> Option<u32> {
        let is_marker = |&id: &u32| self.tokenizer.is_hidden(id) && !self.tokenizer.is_eog(id);
        self.tokenizer.token_id(text).filter(is_marker)
    }

    fn render(&self, input: &ChatInput) -> Result<ChatPrompt, String> {
        let rendered = self.rendered(input).map_err(|error| error.to_string())?;
        let tokens = self.tokenizer.encode_rendered(&rendered);
        Ok(ChatPrompt { tokens, opens_reasoning: rendered.opens_reasoning() })
    }
}

impl TextCodec {
    /// Renders the conversation, with its tools as text if the template has no place for them.
    fn rendered(&self, input: &ChatInput) -> Result<Rendered, TemplateError> {
        let has_tools = input.tools.as_ref().and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
        if !has_tools || self.template.reads_tools() {
            return self.template.render(input);
        }
        let rendered = self.template.render(&input.with_described_tools(Place::System));
        // Some templates refuse system messages.
        rendered.or_else(|_| self.template.render(&input.with_described_tools(Place::FirstUser)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_name_is_the_last_part_of_the_reference() {
        for (reference, name) in [
            ("smollm2", "smollm2"),
            ("./models/tiny.Q4_0.gguf", "tiny.Q4_0"),
            ("hf:owner/repo/sub/Qwen-Q4_0.gguf", "Qwen-Q4_0"),
            ("pypi:package==1.0/file.gguf", "file"),
        ] {
            assert_eq!(short_name(reference), name);
        }
    }
}
