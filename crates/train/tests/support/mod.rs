//! Tiny models and texts for several test files.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::Arc;

use foretoken_kernels::{Compute, Isa};
use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use foretoken_model::{LoadOptions, Model, Prediction, trained_head};
use foretoken_train::recorded::Record;
use foretoken_train::shape::HeadShape;
use foretoken_train::trunk::Trunk;

pub(crate) fn open(name: &str) -> Arc<Gguf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families");
    Arc::new(Gguf::open(folder.join(format!("{name}.gguf"))).expect("the fixture"))
}

pub(crate) fn load(gguf: Arc<Gguf>, prediction: Prediction) -> Arc<Model> {
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("this machine's instructions"));
    let options = LoadOptions { prediction, ..LoadOptions::default() };
    Arc::new(Model::load_with(gguf, options, compute).expect("its weights"))
}

pub(crate) fn trunk(name: &str) -> Trunk {
    Trunk::new(load(open(name), Prediction::Off), 192).expect("memory for a short text")
}

pub(crate) fn shape(trunk: &Trunk) -> HeadShape {
    HeadShape::of(trunk.model().gguf(), trunk.model().config(), None).expect("a family that is supported")
}

/// Texts of `len` tokens whose next token mostly depends on the one before; every fourth is held out.
pub(crate) fn records(count: u32, len: u32) -> Vec<Record> {
    let tokens = |text: u32| {
        let token = move |state: &mut u32, at: u32| {
            *state = (*state * 5 + 3 + u32::from(at % 7 == text % 7)) % 40;
            Some(*state + 10)
        };
        (0..len).scan(text, token).collect::<Vec<_>>()
    };
    let record = |text| Record {
        job: text,
        greedy: text % 2 == 0,
        held_out: text % 4 > 1,
        prompt: 6,
        tokens: tokens(text),
    };
    (0..count).map(record).collect()
}

/// A trained head's file with F32 tensors.
pub(crate) fn head_in_f32(trunk: &Trunk, shape: &HeadShape, weights: &[Vec<f32>], rows: &[u32]) -> Arc<Gguf> {
    let model = trained_head::fingerprint_text(trunk.model().gguf().fingerprint());
    let mut writer = GgufWriter::new()
        .meta("general.architecture", shape.arch.as_str())
        .meta(trained_head::MODEL_KEY, model.as_str())
        .meta(trained_head::ROWS_KEY, Meta::Array(4, rows.iter().map(|&row| Meta::U32(row)).collect()));
    for (tensor, weights) in shape.tensors().iter().zip(weights) {
        let name = format!("blk.{}.{}.weight", shape.layer, tensor.name);
        let dims = [tensor.cols as u64, tensor.rows as u64];
        writer = writer.tensor_f32(&name, if tensor.is_norm() { &dims[..1] } else { &dims }, weights);
    }
    Arc::new(Gguf::from_bytes("a head in memory", writer.finish()).expect("a sound file"))
}
