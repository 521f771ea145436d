//! Head files: a small GGUF with the tensors of one layer, the rows of its cut and how it was trained.
//!
//! The layer is named as the one after the model's last, matrices are Q8_0 and norms F32; the output matrix is not in
//! the file, since it is rows of the model's own. `foretoken.head.model` has the model's fingerprint. The invariant: a file that
//! [`read`] returns is of this model and has every tensor in its shape.

use std::path::Path;

use foretoken_kernels::{GgmlType, quant};
use foretoken_model::ModelConfig;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use foretoken_model::gguf::{Gguf, Value};
use foretoken_model::trained_head::{self, MODEL_KEY, ROWS_KEY};
use half::f16;

use crate::cut::Cut;
use crate::error::{TrainError, io};
use crate::shape::HeadShape;

/// Values per block of Q8_0.
const BLOCK: usize = 32;

/// How a head was trained.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingFacts {
    /// Tokens of the answers that it was trained on.
    pub tokens: usize,
    /// Answers that it was trained on.
    pub prompts: usize,
    /// The seed.
    pub seed: u64,
    /// Updates of the weights.
    pub updates: usize,
    /// Steps of the recursion.
    pub depths: usize,
    /// The day, as text.
    pub date: String,
    /// Of held-out texts, by depth: acceptance of greedy and of sampled draft tokens, given that those before were.
    pub greedy: Vec<f64>,
    /// See `greedy`.
    pub sampled: Vec<f64>,
}

/// A head from a file.
pub struct HeadFile {
    /// Its shape.
    pub shape: HeadShape,
    /// Its weights, dequantised, in the order of [`HeadShape::tensors`].
    pub weights: Vec<Vec<f32>>,
    /// The rows of the output.
    pub cut: Cut,
}

/// The bytes of a head's file.
pub fn bytes(
    trunk: &Gguf,
    shape: &HeadShape,
    weights: &[Vec<f32>],
    cut: &Cut,
    facts: &TrainingFacts,
) -> Vec<u8> {
    let arch = shape.arch.as_str();
    let mut writer = GgufWriter::new()
        .meta("general.architecture", arch)
        .meta("general.type", "adapter")
        .meta(MODEL_KEY, trained_head::fingerprint_text(trunk.fingerprint()).as_str())
        .meta(ROWS_KEY, Meta::Array(4, cut.rows().iter().map(|&row| Meta::U32(row)).collect()));
    // The model's own hyperparameters, so that the file says what it is a layer of.
    let (prefix, own) = (format!("{arch}."), ["block_count", "nextn_predict_layers", "feed_forward_length"]);
    for (key, value) in trunk.metadata() {
        let Some(suffix) = key.strip_prefix(&prefix) else { continue };
        if let Some(value) = value.ok().and_then(scalar).filter(|_| !own.contains(&suffix)) {
            writer = writer.meta(key, value);
        }
    }
    writer = writer
        .meta(&format!("{arch}.block_count"), shape.layer as u32 + 1)
        .meta(&format!("{arch}.nextn_predict_layers"), 1u32)
        .meta(&format!("{arch}.feed_forward_length"), shape.feed_forward as u32)
        .meta("foretoken.train.tokens", Meta::U64(facts.tokens as u64))
        .meta("foretoken.train.prompts", facts.prompts as u32)
        .meta("foretoken.train.seed", Meta::U64(facts.seed))
        .meta("foretoken.train.updates", facts.updates as u32)
        .meta("foretoken.train.steps", facts.depths as u32)
        .meta("foretoken.train.date", facts.date.as_str())
        .meta("foretoken.train.acceptance_greedy", Meta::f32s(facts.greedy.iter().map(|&p| p as f32)))
        .meta("foretoken.train.acceptance_sampled", Meta::f32s(facts.sampled.iter().map(|&p| p as f32)));
    for (tensor, weights) in shape.tensors().iter().zip(weights) {
        let name = format!("blk.{}.{}.weight", shape.layer, tensor.name);
        writer = if tensor.is_norm() {
            writer.tensor_f32(&name, &[tensor.cols as u64], weights)
        } else {
            let dims = [tensor.cols as u64, tensor.rows as u64];
            writer.tensor(&name, &dims, GgmlType::Q8_0.id(), q8_0(weights))
        };
    }
    writer.finish()
}

/// Writes a file in one piece: as a temporary one beside it, which then takes its name.
///
/// # Errors
/// A folder that can't be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, bytes).map_err(io("write", path))?;
    std::fs::rename(&partial, path).map_err(io("write", path))
}

/// Reads the head of a model.
///
/// # Errors
/// A file of another model, or without a tensor or a key that a head has.
pub fn read(path: &Path, trunk: &Gguf, config: &ModelConfig) -> Result<HeadFile, TrainError> {
    let gguf = Gguf::open(path)?;
    let fail = |message: String| TrainError::File { path: path.into(), message };
    if !trained_head::is_trained(&gguf) {
        return Err(fail(format!("is not a trained head: it has no '{MODEL_KEY}'")));
    }
    trained_head::check_model(&gguf, trunk).map_err(|error| fail(error.to_string()))?;
    let rows = gguf.get_u32_array(ROWS_KEY)?.ok_or_else(|| fail(format!("has no '{ROWS_KEY}'")))?;
    let cut = Cut::from_rows(rows, config.vocab).map_err(fail)?;
    let feed_forward = gguf.get_u32(&format!("{}.feed_forward_length", config.arch))?.map(|n| n as usize);
    let shape = HeadShape::of(trunk, config, feed_forward)?;
    let tensor = |tensor: crate::shape::TensorShape| {
        let name = format!("blk.{}.{}.weight", shape.layer, tensor.name);
        let dims = if tensor.is_norm() { vec![tensor.cols] } else { vec![tensor.cols, tensor.rows] };
        let info = gguf.tensor(&name).filter(|info| info.dims() == dims);
        let info = info.ok_or_else(|| fail(format!("has no tensor '{name}' of shape {dims:?}")))?;
        let mut weights = vec![0f32; info.elements()];
        quant::dequantize(info.ty, gguf.bytes(info), &mut weights);
        Ok(weights)
    };
    let weights = shape.tensors().into_iter().map(tensor).collect::<Result<_, TrainError>>()?;
    Ok(HeadFile { shape, weights, cut })
}

/// A metadata value to write, if it is neither an array nor of a type that hyperparameters don't have.
fn scalar(value: Value<'_>) -> Option<Meta> {
    Some(match value {
        Value::U32(n) => Meta::U32(n),
        Value::I32(n) => Meta::I32(n),
        Value::U64(n) => Meta::U64(n),
        Value::F32(x) => Meta::F32(x),
        Value::Bool(flag) => Meta::Bool(flag),
        Value::Str(text) => Meta::Str(text.into()),
        _ => return None,
    })
}

/// Q8_0 as ggml's reference rounds: the scale is the largest magnitude over 127.
fn q8_0(weights: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(weights.len() / BLOCK * 34);
    for block in weights.chunks_exact(BLOCK) {
        let scale = block.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend(f16::from_f32(scale).to_le_bytes());
        out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
    }
    out
}

/// What a head's weights are after [`bytes`] and [`read`].
pub fn as_read(shape: &HeadShape, weights: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let of_tensor = |(tensor, weights): (crate::shape::TensorShape, &Vec<f32>)| {
        if tensor.is_norm() {
            return weights.clone();
        }
        let mut out = vec![0f32; weights.len()];
        quant::dequantize(GgmlType::Q8_0, &q8_0(weights), &mut out);
        out
    };
    shape.tensors().into_iter().zip(weights).map(of_tensor).collect()
}
