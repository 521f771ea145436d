//! Every model family against Hugging Face `transformers` in f32, on tiny random models.
//!
//! The fixtures, what each is there for and the script that makes them are in `fixtures/families`. Sequences
//! are longer than two blocks, and in the scaled models longer than the original context.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foretoken_kernels::{Compute, Isa};
use foretoken_model::Model;
use foretoken_model::gguf::Gguf;
use foretoken_model::step::{SeqStep, WantLogits};
use serde::Deserialize;

/// Largest error allowed, relative to the largest expected logit of the fixture. Storing K and V as f16 alone
/// causes 5e-4 in the worst of them; the least significant of their features, when wrong, causes 2e-1.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Fixture {
    vocab: usize,
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    tokens: Vec<u32>,
    /// Positions whose logits are stored.
    rows: Vec<usize>,
}

fn path(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(format!("{name}.{extension}"))
}

/// The stored logits, one slice of values for all kept rows in order.
fn expected(name: &str) -> Vec<f32> {
    let bytes = fs::read(path(name, "f32")).expect("the fixture's logits");
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

/// Logits of every row of one sequence, read in one step.
fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut blocks = support::blocks(model, tokens.len());
    let mut kv = support::view(model, &mut blocks);
    let mut scratch = model.scratch();
    let step = SeqStep { tokens, parents: None, committed: 0, kv: &mut kv, logits: WantLogits::All };
    let logits = model.forward(&mut scratch, &mut [step]);
    (0..logits.len()).map(|row| logits.row(row).to_vec()).collect()
}

fn assert_agrees(name: &str) {
    let fixture: Fixture =
        serde_json::from_slice(&fs::read(path(name, "json")).expect("the fixture")).expect("its JSON");
    let gguf = Arc::new(Gguf::open(path(name, "gguf")).expect("the fixture's weights"));
    let compute = Arc::new(Compute::new(Isa::detect(), 2).expect("the detected instruction set"));
    let model = Model::load(gguf, compute).expect("a family that is supported");

    let expected = expected(name);
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let mut rows = expected.chunks_exact(fixture.vocab);
    for sequence in &fixture.sequences {
        let logits = logits(&model, &sequence.tokens);
        for &row in &sequence.rows {
            let expected = rows.next().expect("logits for every kept row");
            assert_eq!(logits[row].len(), expected.len(), "{name}: size of the vocabulary");
            // A NaN anywhere must fail too, so the comparison is not `max`.
            let near = |(a, b): (&f32, &f32)| ((a - b).abs() / scale) < TOLERANCE;
            let far = logits[row].iter().zip(expected).position(|pair| !near(pair));
            if let Some(id) = far {
                let (a, b) = (logits[row][id], expected[id]);
                let n = sequence.tokens.len();
                panic!(
                    "{name}: position {row} of {n} tokens, token {id}: {a}, expected {b}, largest {scale}"
                );
            }
        }
    }
    assert!(rows.next().is_none(), "{name}: more stored rows than the fixture names");
}

#[test]
fn llama() {
    assert_agrees("llama");
}

#[test]
fn llama_with_llama3_scaling() {
    assert_agrees("llama-rope-llama3");
}

#[test]
fn llama_with_linear_scaling() {
    assert_agrees("llama-rope-linear");
}

#[test]
fn llama_with_yarn() {
    assert_agrees("llama-rope-yarn");
}

#[test]
fn llama_with_biases_and_its_own_head() {
    assert_agrees("llama-bias-untied");
}

#[test]
fn qwen2() {
    assert_agrees("qwen2");
}

#[test]
fn qwen2_with_its_own_head() {
    assert_agrees("qwen2-untied");
}

#[test]
fn qwen3() {
    assert_agrees("qwen3");
}

#[test]
fn qwen3_with_yarn() {
    assert_agrees("qwen3-rope-yarn");
}
