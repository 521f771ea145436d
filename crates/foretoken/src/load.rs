//! Loading a model: resolve the reference, download, open, pack, start an engine.
//!
//! Shared by all commands that run a model. No inference and no HTTP here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use foretoken_cache::data_folder;
use foretoken_engine::{
    Engine, EngineConfig, MAX_DRAFT_LIMIT, Policy, Source, Speculation, Thresholds, context_bytes,
};
use foretoken_kernels::affinity::physical_cores;
use foretoken_kernels::kv::KvLayout;
use foretoken_kernels::{Compute, Isa};
use foretoken_model::chat::ChatTemplate;
use foretoken_model::gguf::Gguf;
use foretoken_model::reference::{Downloads, ModelRef, cached_models};
use foretoken_model::tokenizer::Tokenizer;
use foretoken_model::{LoadOptions, Model, Prediction, trained_head};

use crate::byte_size::ByteSize;
use crate::cli::{BaseArgs, ContextArgs, ModelArgs, SpeculationArgs};
use crate::download_progress::Bar;
use crate::folder_lock;

/// A packed model with its tokenizer and chat template.
pub(crate) struct Loaded {
    pub(crate) gguf: Arc<Gguf>,
    pub(crate) model: Arc<Model>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: ChatTemplate,
}

/// The data folder.
pub(crate) fn data_dir(base: &BaseArgs) -> Result<PathBuf> {
    let platform = || dirs::data_dir().map(|dir| dir.join("foretoken"));
    base.data_dir
        .clone()
        .or_else(platform)
        .context("this system has no data folder; name one with --data-dir or FORETOKEN_DATA_DIR")
}

/// Download folder and progress display.
pub(crate) fn downloads(base: &BaseArgs) -> Result<Downloads> {
    let dir = data_dir(base)?.join("models");
    Ok(Downloads { progress: Arc::new(Bar::default()), ..Downloads::from_env(dir) })
}

/// Resolves a model reference to a file, downloading it if missing.
pub(crate) fn resolve(reference: &str, base: &BaseArgs) -> Result<PathBuf> {
    let parsed: ModelRef = reference.parse()?;
    if !matches!(parsed, ModelRef::Path(_)) {
        let folder = data_dir(base)?;
        let folder_name = || format!("cannot create the data folder {}", folder.display());
        data_folder::prepare(&folder).with_context(folder_name)?;
    }
    Ok(parsed.resolve(&downloads(base)?)?)
}

/// Opens a GGUF file; the error names it.
pub(crate) fn open(path: &Path) -> Result<Gguf> {
    Gguf::open(path).with_context(|| format!("cannot use the model file {}", path.display()))
}

/// The effective number of compute threads.
pub(crate) fn threads(args: &ModelArgs) -> usize {
    args.threads.unwrap_or_else(|| physical_cores().len())
}

/// Kernels and thread pool for `--isa` and `--threads`.
pub(crate) fn compute(args: &ModelArgs) -> Result<Arc<Compute>> {
    let isa: Isa = match args.isa.as_str() {
        "auto" => Isa::detect(),
        name => name.parse().map_err(|error| anyhow!("--isa: {error}, or auto"))?,
    };
    let threads = threads(args);
    let compute = Compute::new(isa, threads).map_err(|error| {
        let usable: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        anyhow!("{error}; it has {}", usable.join(", "))
    })?;
    tracing::info!(%isa, threads, "kernels chosen");
    Ok(Arc::new(compute))
}

/// Resolves, opens and packs `--model` and its head for multi-token prediction.
pub(crate) fn load(args: &ModelArgs, speculation: &SpeculationArgs) -> Result<Loaded> {
    open_model(args, speculation)?.load()
}

/// Resolves, opens and packs `--model` alone.
pub(crate) fn load_without_head(args: &ModelArgs) -> Result<Loaded> {
    let compute = compute(args)?;
    let mut model = OpenModel::open(resolve(&args.model, &args.base)?, compute)?;
    model.options = LoadOptions { prediction: Prediction::Off, expert_ram: expert_ram(&args.experts)? };
    model.load()
}

/// `--experts`: the bytes of experts to keep in memory, `None` for all.
fn expert_ram(experts: &str) -> Result<Option<usize>> {
    let bytes = match experts {
        "packed" => return Ok(None),
        "mapped" => {
            available_memory()
                .context("--experts mapped: cannot tell how much memory is available; give a size")?
                / 2
        }
        size => {
            size.parse::<ByteSize>().map_err(|error| anyhow!("--experts: {error}; or packed, or mapped"))?.0
        }
    };
    Ok(Some(usize::try_from(bytes).unwrap_or(usize::MAX)))
}

/// Bytes of memory that programs can take without swapping.
fn available_memory() -> Option<u64> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Resolves and opens `--model` and `--mtp`, and chooses kernels: all that can fail before the weights are read.
pub(crate) fn open_model(args: &ModelArgs, speculation: &SpeculationArgs) -> Result<OpenModel> {
    let compute = compute(args)?;
    let expert_ram = expert_ram(&args.experts)?;
    let mut model = OpenModel::open(resolve(&args.model, &args.base)?, compute)?;
    let prediction = prediction(&speculation.mtp, &args.base, &model.path, &model.gguf)?;
    model.options = LoadOptions { prediction, expert_ram };
    Ok(model)
}

/// The head that `--mtp` chooses for the model in `gguf`, whose file is `path`.
pub(crate) fn prediction(mtp: &str, base: &BaseArgs, path: &Path, gguf: &Gguf) -> Result<Prediction> {
    match mtp {
        "auto" => Ok(trained_head_beside(path, gguf)?.map_or(Prediction::Own, Prediction::File)),
        "off" => Ok(Prediction::Off),
        reference => Ok(Prediction::File(Arc::new(open(&resolve(reference, base)?)?))),
    }
}

/// Where the head that was trained for a model is: beside its file.
pub(crate) fn trained_head_path(model: &Path) -> PathBuf {
    model.with_extension("mtp.gguf")
}

/// The head beside a model without one of its own. One of other weights is left alone, with a warning.
fn trained_head_beside(path: &Path, gguf: &Gguf) -> Result<Option<Arc<Gguf>>> {
    let path = trained_head_path(path);
    if !path.is_file() || foretoken_model::describe(gguf, &Prediction::Own)?.1.draft_layers() > 0 {
        return Ok(None);
    }
    let head = open(&path)?;
    if let Err(error) = trained_head::check_model(&head, gguf) {
        tracing::warn!("{} is not used: {error}", path.display());
        return Ok(None);
    }
    Ok(Some(Arc::new(head)))
}

/// A model file whose metadata, tokenizer and chat template are read, and whose weights are not.
pub(crate) struct OpenModel {
    path: PathBuf,
    gguf: Arc<Gguf>,
    options: LoadOptions,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: ChatTemplate,
    compute: Arc<Compute>,
}

impl OpenModel {
    /// With all of a mixture's experts in memory, and no head that is not the file's own.
    fn open(path: PathBuf, compute: Arc<Compute>) -> Result<OpenModel> {
        let gguf = Arc::new(open(&path)?);
        let texts = text(&gguf).with_context(|| format!("cannot use the model file {}", path.display()));
        let (tokenizer, template) = texts?;
        Ok(OpenModel { path, gguf, options: LoadOptions::default(), tokenizer, template, compute })
    }

    /// Checks that `--cache-ram` holds one context.
    pub(crate) fn check_context(&self, args: &ContextArgs) -> Result<()> {
        let (config, layout) = foretoken_model::describe(&self.gguf, &self.options.prediction)
            .with_context(|| format!("cannot use the model file {}", self.path.display()))?;
        let held = tokens_held(&layout, args.cache_ram.0);
        match args.ctx.unwrap_or(config.ctx_train.min(held)) {
            0 if args.ctx.is_some() => bail!("--ctx must be at least 1"),
            ctx if ctx > held || ctx == 0 => bail!(
                "--cache-ram {} holds {held} tokens of this model, --ctx is {ctx}; raise the first or lower the second",
                args.cache_ram
            ),
            _ => Ok(()),
        }
    }

    /// Packs the weights.
    pub(crate) fn load(self) -> Result<Loaded> {
        let OpenModel { path, gguf, options, tokenizer, template, compute } = self;
        let threads = compute.pool().threads();
        let model = std::thread::scope(|scope| {
            // Packing reads every byte anyway; the fingerprint is computed in parallel.
            scope.spawn(|| gguf.hash_on(threads));
            Model::load_with(Arc::clone(&gguf), options, compute)
        });
        let model = model.with_context(|| format!("cannot use the model file {}", path.display()))?;
        Ok(Loaded { gguf, model: Arc::new(model), tokenizer, template })
    }
}

/// The model's tokenizer and chat template, without its weights.
pub(crate) fn text(gguf: &Gguf) -> Result<(Arc<Tokenizer>, ChatTemplate)> {
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf)?);
    if let Some(template) = ChatTemplate::from_gguf(gguf, &tokenizer)? {
        return Ok((tokenizer, template));
    }
    tracing::info!("the model has no chat template; using ChatML");
    let template = ChatTemplate::chatml(&tokenizer)?;
    Ok((tokenizer, template))
}

/// Speculation options to the engine's type.
pub(crate) fn speculation(args: &SpeculationArgs) -> Result<Speculation> {
    let default = Speculation::default();
    let source = |name: &String| {
        let names = Source::ALL.map(Source::name).join(", ");
        Source::named(name)
            .with_context(|| format!("--drafters: there is no drafter `{name}`; there are {names}"))
    };
    if args.max_draft > MAX_DRAFT_LIMIT {
        bail!("--max-draft must be at most {MAX_DRAFT_LIMIT}");
    }
    Ok(Speculation {
        enabled: args.speculation == "on",
        policy: match args.policy.as_str() {
            "lossless" => Policy::Lossless,
            "agreement" => Policy::Agreement(Thresholds::default()),
            _ => Policy::Exact,
        },
        sources: match args.drafters.is_empty() {
            true => default.sources,
            false => args.drafters.iter().map(source).collect::<Result<_>>()?,
        },
        max_draft: args.max_draft,
        funded: args.fund_speculation == "on",
        always: false,
    })
}

impl Loaded {
    /// The effective context length.
    pub(crate) fn ctx(&self, args: &ContextArgs) -> usize {
        let trained = self.model.config().ctx_train;
        let layout = self.model.kv_layout();
        let held = tokens_held(&layout, args.cache_ram.0);
        if let Some(asked) = args.ctx.filter(|&asked| asked > trained) {
            tracing::warn!("--ctx {asked} is more than the {trained} tokens that the model was trained for");
        }
        if args.ctx.is_none() && (1..trained).contains(&held) {
            let whole = context_bytes(&layout, trained, EngineConfig::default().step_tokens) as u64;
            let whole = ByteSize(whole.next_multiple_of(1 << 20));
            tracing::warn!(
                "the context is {held} tokens, not the model's {trained}: --cache-ram {} holds no more; \
                 --cache-ram {whole} holds the whole context, --ctx {held} accepts the shorter one",
                args.cache_ram
            );
        }
        default_ctx(&layout, trained, args)
    }

    /// The `--draft-model`, if any, and the memory for its KV in bytes.
    fn draft_model(&self, base: &BaseArgs, args: &SpeculationArgs) -> Result<Option<(Arc<Model>, usize)>> {
        let Some(reference) = &args.draft_model else { return Ok(None) };
        let path = resolve(reference, base)?;
        let mut draft = OpenModel::open(path, Arc::clone(self.model.compute()))?;
        draft.options.prediction = Prediction::Off;
        let draft = draft.load()?;
        if let Some(difference) = self.tokenizer.difference(&draft.tokenizer) {
            bail!(
                "--draft-model {reference} cannot draft for this model: {difference}; use one of the same family"
            );
        }
        Ok(Some((draft.model, usize::try_from(args.draft_cache_ram.0).unwrap_or(usize::MAX))))
    }

    /// Starts an engine with these context and speculation options.
    pub(crate) fn start_engine(
        &self,
        base: &BaseArgs,
        args: &ContextArgs,
        speculation: &SpeculationArgs,
        bounds: EngineConfig,
    ) -> Result<Engine> {
        let data = data_dir(base)?;
        folder_lock::share(&data, None);
        let config = EngineConfig {
            ctx: self.ctx(args),
            kv_bytes: usize::try_from(args.cache_ram.0).unwrap_or(usize::MAX),
            speculation: self::speculation(speculation)?,
            draft_memory: speculation.draft_memory,
            drafts: match speculation.draft_disk.0 {
                0 => None,
                bytes => Some((data.join("drafts"), bytes)),
            },
            draft_model: self.draft_model(base, speculation)?,
            ..bounds
        };
        Ok(Engine::start(Arc::clone(&self.model), Arc::clone(&self.tokenizer), config)?)
    }
}

/// The context length without a warning: `--ctx`, or the model's as far as `--cache-ram` holds it.
pub(crate) fn default_ctx(layout: &KvLayout, trained: usize, args: &ContextArgs) -> usize {
    args.ctx.unwrap_or(trained.min(tokens_held(layout, args.cache_ram.0)))
}

/// The file of a model reference, if it is on this machine already.
pub(crate) fn local_file(reference: &str, base: &BaseArgs) -> Result<Option<PathBuf>> {
    match reference.parse()? {
        ModelRef::Path(path) => Ok(Some(path).filter(|path| path.is_file())),
        other => {
            let cached = cached_models(&downloads(base)?.dir)?;
            Ok(cached.into_iter().find(|model| model.reference == other).map(|model| model.path))
        }
    }
}

/// Tokens of a context whose KV fits in `bytes`, in whole blocks.
fn tokens_held(layout: &KvLayout, bytes: u64) -> usize {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    foretoken_engine::tokens_held(layout, bytes, EngineConfig::default().step_tokens)
}
