//! `foretoken inspect`: metadata, tensors and memory needs of a model file, without loading it.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use foretoken_cache::BLOCK_TOKENS;
use foretoken_engine::{EngineConfig, context_bytes, prefix_disk_bytes};
use foretoken_kernels::PackedMatrix;
use foretoken_kernels::kv::KvLayout;
use foretoken_model::gguf::{Array, Gguf, TensorInfo, Value};
use foretoken_model::{ModelError, Prediction};
use serde_json::{Map, Value as Json, json};

use crate::byte_size::human;
use crate::cli::InspectArgs;
use crate::load;
use crate::output::{self, Table};

/// Array elements shown; vocabularies have hundreds of thousands.
const ELEMENTS_MAX: usize = 4;
/// Characters of a string shown in the table; chat templates have thousands.
const CHARACTERS_MAX: usize = 100;

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let gguf = load::open(&load::resolve(&args.reference, &args.base)?)?;
    let memory = Memory::of(&gguf, args.ctx)?;
    if args.json {
        return output::json(&as_json(&gguf, &memory)?);
    }
    print_files(&gguf)?;
    print_metadata(&gguf)?;
    if args.tensors {
        print_tensors(&gguf)?
    } else {
        print_types(&gguf)?
    }
    print_memory(&memory)
}

/// Memory of the loaded model, in bytes.
struct Memory {
    weights: u64,
    /// Per token and for `ctx` tokens, or why the metadata do not tell.
    kv: Result<Kv, String>,
}

struct Kv {
    per_token: u64,
    windowed: Option<Windowed>,
    ctx: usize,
    total: u64,
    on_disk: u64,
}

impl Memory {
    fn of(gguf: &Gguf, ctx: Option<usize>) -> Result<Self> {
        // An untied embedding table stays in the file; only its rows in use are read.
        let untied = gguf.tensor("output.weight").is_some();
        let mut weights = 0;
        for tensor in gguf.tensors().filter(|t| !(untied && t.name == "token_embd.weight")) {
            weights += packed_bytes(tensor)?;
        }
        let kv = kv(gguf, ctx).map_err(|error| error.to_string());
        Ok(Self { weights, kv })
    }
}

/// Bytes of a tensor in memory.
fn packed_bytes(tensor: &TensorInfo) -> Result<u64> {
    // Norms and biases are not packed.
    if tensor.dims().len() < 2 {
        return Ok(tensor.byte_len() as u64);
    }
    Ok(PackedMatrix::packed_bytes(tensor.ty, tensor.rows(), tensor.cols())? as u64)
}

/// KV memory from the shapes in the metadata.
fn kv(gguf: &Gguf, ctx: Option<usize>) -> Result<Kv, ModelError> {
    let (config, layout) = foretoken_model::describe(gguf, &Prediction::Own)?;
    let ctx = ctx.unwrap_or(config.ctx_train);
    let (block, blocks) = (layout.block_bytes() as u64, ctx.div_ceil(BLOCK_TOKENS) as u64);
    let total = context_bytes(&layout, ctx, EngineConfig::default().step_tokens) as u64;
    let on_disk = prefix_disk_bytes(&layout, ctx) as u64;
    let windowed = Windowed::of(&layout, blocks * block - total);
    Ok(Kv { per_token: block / BLOCK_TOKENS as u64, windowed, ctx, total, on_disk })
}

/// The part of the KV that layers with a sliding window keep. It is only read for the last positions.
struct Windowed {
    per_token: u64,
    /// The largest window.
    window: usize,
    /// Memory that a context of the given length would take in addition if it were kept for every position.
    saved: u64,
}

impl Windowed {
    fn of(layout: &KvLayout, saved: u64) -> Option<Self> {
        let per_token = (layout.windowed_bytes() / BLOCK_TOKENS) as u64;
        (per_token > 0).then(|| Self { per_token, window: layout.window(), saved })
    }
}

fn print_files(gguf: &Gguf) -> Result<()> {
    let mut out = output::stdout();
    for (path, bytes) in gguf.files() {
        writeln!(out, "{}: GGUF version {}, {}", path.display(), gguf.version(), human(bytes))?;
    }
    writeln!(out)?;
    Ok(())
}

fn print_metadata(gguf: &Gguf) -> Result<()> {
    let mut table = Table::new(&["metadata", "value"]);
    for (key, value) in gguf.metadata() {
        let shown = match value {
            Ok(value) => shorten(&shown(&value)),
            Err(error) => format!("unreadable: {error}"),
        };
        table.row(vec![key.to_owned(), shown]);
    }
    table.print()?;
    Ok(writeln!(output::stdout())?)
}

fn print_tensors(gguf: &Gguf) -> Result<()> {
    let mut table = Table::new(&["tensor", "type", "shape", "size"]);
    for tensor in gguf.tensors() {
        let shape: Vec<String> = tensor.dims().iter().map(ToString::to_string).collect();
        let size = human(tensor.byte_len() as u64);
        table.row(vec![tensor.name.clone(), tensor.ty.name().to_owned(), shape.join(" x "), size]);
    }
    table.print()?;
    Ok(writeln!(output::stdout())?)
}

fn print_types(gguf: &Gguf) -> Result<()> {
    let mut table = Table::new(&["type", "tensors", "values", "size"]);
    let mut all = Total::default();
    for (name, total) in types(gguf) {
        table.row(total.row(name));
        all.add(total.tensors, total.values, total.bytes);
    }
    table.row(all.row("all"));
    table.print()?;
    Ok(writeln!(output::stdout())?)
}

fn print_memory(memory: &Memory) -> Result<()> {
    let mut table = Table::new(&["memory needed", "size"]);
    table.row(vec!["weights, packed for the kernels".to_owned(), human(memory.weights)]);
    match &memory.kv {
        Ok(kv) => {
            table.row(vec!["KV per token".to_owned(), human(kv.per_token)]);
            if let Some(Windowed { per_token, window, .. }) = kv.windowed {
                let name = format!("of that, kept for the last {window} tokens only");
                table.row(vec![name, human(per_token)]);
            }
            table.row(vec![format!("KV of {} tokens (--ctx)", kv.ctx), human(kv.total)]);
            if let Some(Windowed { saved, .. }) = kv.windowed {
                table.row(vec!["saved of it by windows".to_owned(), human(saved)]);
                table.row(vec![format!("KV of {} tokens on disk", kv.ctx), human(kv.on_disk)]);
            }
            table.row(vec!["weights and KV".to_owned(), human(memory.weights + kv.total)]);
            table.print()
        }
        Err(reason) => {
            table.print()?;
            Ok(writeln!(output::stdout(), "\nThe memory for KV is unknown: {reason}")?)
        }
    }
}

#[derive(Default)]
struct Total {
    tensors: usize,
    values: u64,
    bytes: u64,
}

impl Total {
    fn add(&mut self, tensors: usize, values: u64, bytes: u64) {
        self.tensors += tensors;
        self.values += values;
        self.bytes += bytes;
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![name.to_owned(), self.tensors.to_string(), self.values.to_string(), human(self.bytes)]
    }
}

fn types(gguf: &Gguf) -> BTreeMap<&'static str, Total> {
    let mut types: BTreeMap<&'static str, Total> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let (values, bytes) = (tensor.elements() as u64, tensor.byte_len() as u64);
        types.entry(tensor.ty.name()).or_default().add(1, values, bytes);
    }
    types
}

/// A value for display; arrays with their first elements and their length.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Str(text) => (*text).to_owned(),
        // Printed as f32: as f64 it would show the digits of the conversion.
        Value::F32(number) => number.to_string(),
        Value::Array(array) => {
            let first: Vec<String> = first_elements(array).iter().map(ToString::to_string).collect();
            let more = if array.len() > first.len() { ", …" } else { "" };
            format!("{} x {}: [{}{more}]", array.len(), array.element_type(), first.join(", "))
        }
        other => as_json_value(other).to_string(),
    }
}

fn shorten(text: &str) -> String {
    let line = text.replace('\n', "\\n");
    match line.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}… ({} characters)", &line[..end], text.chars().count()),
        None => line,
    }
}

fn first_elements(array: &Array<'_>) -> Vec<Json> {
    let read = |element: Result<Value<'_>, _>| element.map_or(Json::Null, |value| as_json_value(&value));
    array.iter().take(ELEMENTS_MAX).map(read).collect()
}

fn as_json_value(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(flag) => json!(flag),
        Value::Str(text) => json!(text),
        Value::F32(number) => json!(number),
        Value::F64(number) => json!(number),
        Value::Array(array) => json!({
            "type": array.element_type().to_string(),
            "length": array.len(),
            "first": first_elements(array),
        }),
        integer => integer.as_integer().map_or(Json::Null, |n| {
            i64::try_from(n)
                .map(Json::from)
                .or_else(|_| u64::try_from(n).map(Json::from))
                .unwrap_or(Json::Null)
        }),
    }
}

fn as_json(gguf: &Gguf, memory: &Memory) -> Result<Json> {
    let mut metadata = Map::new();
    for (key, value) in gguf.metadata() {
        metadata.insert(key.to_owned(), as_json_value(&value?));
    }
    let files: Vec<Json> = gguf
        .files()
        .map(|(path, bytes)| json!({"path": path.display().to_string(), "bytes": bytes}))
        .collect();
    let tensors: Vec<Json> = gguf
        .tensors()
        .map(|t| json!({"name": t.name, "type": t.ty.name(), "dims": t.dims(), "bytes": t.byte_len()}))
        .collect();
    let mut needed = json!({"weights_bytes": memory.weights});
    match &memory.kv {
        Ok(kv) => {
            needed["ctx"] = json!(kv.ctx);
            needed["kv_bytes_per_token"] = json!(kv.per_token);
            needed["kv_bytes"] = json!(kv.total);
            needed["kv_disk_bytes"] = json!(kv.on_disk);
            if let Some(Windowed { per_token, window, saved }) = kv.windowed {
                needed["kv_windowed_bytes_per_token"] = json!(per_token);
                needed["kv_window"] = json!(window);
                needed["kv_windows_save_bytes"] = json!(saved);
            }
            needed["total_bytes"] = json!(memory.weights + kv.total);
        }
        Err(reason) => needed["kv_unknown"] = json!(reason),
    }
    Ok(json!({
        "files": files,
        "version": gguf.version(),
        "metadata": metadata,
        "tensors": tensors,
        "memory": needed,
    }))
}
