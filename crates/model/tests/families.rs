//! Every model family against Hugging Face `transformers` in f32, on tiny random models.
//!
//! The fixtures, what each is there for and the script that makes them are in `fixtures/families`. Sequences
//! are longer than two blocks, than the windows, and in the scaled models than the original context. Later fixtures
//! have a greedy continuation of 200 tokens too.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foretoken_kernels::{Compute, Isa, math};
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
    greedy: Option<Greedy>,
}

/// A prompt and its continuation by the largest logit.
#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
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
    let step =
        SeqStep { tokens, parents: None, committed: 0, hidden: None, kv: &mut kv, logits: WantLogits::All };
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
    let mut worst = 0f32;
    for sequence in &fixture.sequences {
        let logits = logits(&model, &sequence.tokens);
        for &row in &sequence.rows {
            let expected = rows.next().expect("logits for every kept row");
            assert_eq!(logits[row].len(), expected.len(), "{name}: size of the vocabulary");
            // A NaN anywhere must fail too, so the comparison is not `max`.
            let error = |(a, b): (&f32, &f32)| (a - b).abs() / scale;
            worst = logits[row].iter().zip(expected).map(error).fold(worst, f32::max);
            let near = |pair| error(pair) < TOLERANCE;
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
    eprintln!("{name}: off by {worst:.1e} of the largest logit");
    assert!(rows.next().is_none(), "{name}: more stored rows than the fixture names");
    if let Some(Greedy { prompt, tokens }) = &fixture.greedy {
        let got = continuation(&model, prompt, tokens.len());
        let differs = got.iter().zip(tokens).position(|(got, expected)| got != expected);
        assert_eq!(differs, None, "{name}: first token that differs from the greedy continuation");
    }
}

/// The prompt in one step, then token by token the largest logit.
fn continuation(model: &Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut blocks = support::blocks(model, prompt.len() + count);
    let mut kv = support::view(model, &mut blocks);
    let mut scratch = model.scratch();
    let (mut all, mut committed) = (prompt.to_vec(), 0);
    while all.len() < prompt.len() + count {
        let tokens = &all[committed..];
        let step =
            SeqStep { tokens, parents: None, committed, hidden: None, kv: &mut kv, logits: WantLogits::Last };
        let next = math::argmax(model.compute(), model.forward(&mut scratch, &mut [step]).row(0));
        committed = all.len();
        all.push(next as u32);
    }
    all.split_off(prompt.len())
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

#[test]
fn gemma() {
    assert_agrees("gemma");
}

#[test]
fn gemma2_with_soft_caps() {
    assert_agrees("gemma2");
}

#[test]
fn gemma2_with_a_window_of_a_block() {
    assert_agrees("gemma2-window");
}

#[test]
fn gemma3_with_a_stretched_context() {
    assert_agrees("gemma3");
}

#[test]
fn gemma3_with_two_bases_of_rotation() {
    assert_agrees("gemma3-rope");
}

#[test]
fn phi3_with_a_window() {
    assert_agrees("phi3");
}

#[test]
fn phi3_with_a_long_context() {
    assert_agrees("phi3-longrope");
}

#[test]
fn smollm3() {
    assert_agrees("smollm3");
}

#[test]
fn olmo2() {
    assert_agrees("olmo2");
}

#[test]
fn olmo3() {
    assert_agrees("olmo3");
}

#[test]
fn granite() {
    assert_agrees("granite");
}

#[test]
fn glm4() {
    assert_agrees("glm4");
}

#[test]
fn exaone4() {
    assert_agrees("exaone4");
}

#[test]
fn exaone4_with_windows() {
    assert_agrees("exaone4-hybrid");
}

#[test]
fn seed_oss() {
    assert_agrees("seed-oss");
}

#[test]
fn hunyuan_dense() {
    assert_agrees("hunyuan-dense");
}

#[test]
fn ernie4_5() {
    assert_agrees("ernie4_5");
}

#[test]
fn ministral3() {
    assert_agrees("ministral3");
}

#[test]
fn qwen2_with_experts() {
    assert_agrees("qwen2moe");
}

#[test]
fn qwen3_with_experts() {
    assert_agrees("qwen3moe");
}

#[test]
fn tensors_that_read_the_same_rows_may_be_fused() {
    assert_agrees("qwen3moe-fused");
}

#[test]
fn gpt_oss() {
    assert_agrees("gpt-oss");
}

#[test]
fn gpt_oss_with_a_yarn_whose_ramp_is_not_rounded() {
    assert_agrees("gpt-oss-yarn");
}

#[test]
fn granite_with_experts() {
    assert_agrees("granitemoe");
}

#[test]
fn granite_with_a_shared_expert() {
    assert_agrees("granitemoe-shared");
}

#[test]
fn deepseek_v2_with_experts_of_some_groups() {
    assert_agrees("deepseek2-experts");
}

#[test]
fn deepseek_v3_with_experts_and_a_selection_bias() {
    assert_agrees("deepseek3-experts");
}

#[test]
fn deepseek_v3_without_experts() {
    assert_agrees("deepseek3");
}

#[test]
fn deepseek_v2_lite_without_experts() {
    assert_agrees("deepseek2-lite");
}

#[test]
fn deepseek_with_keys_and_values_in_one_tensor() {
    assert_agrees("deepseek2-joined");
}

#[test]
fn deepseek_v3_beside_a_head() {
    assert_agrees("deepseek3-mtp");
}

#[test]
fn an_unknown_architecture_is_refused_with_the_list() {
    let mut bytes = fs::read(path("qwen3", "gguf")).expect("the fixture's weights");
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|part| part == key).expect("the key") + key.len();
    // The value's type and length come before it.
    bytes[at + 12..at + 17].copy_from_slice(b"qwenX");
    let gguf = Gguf::from_bytes("renamed.gguf", bytes).expect("a sound container");
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("the detected instruction set"));
    let error = Model::load(Arc::new(gguf), compute).err().expect("no such architecture").to_string();
    assert!(error.contains("'qwenX'"), "{error}");
    for arch in ["llama", "gemma3", "phi3", "deepseek2"] {
        assert!(error.contains(arch), "{error}");
    }
}
