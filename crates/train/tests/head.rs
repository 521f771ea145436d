//! What is trained is what the engine computes: the same weights through candle and through `foretoken-model`.

mod support;

use std::sync::Arc;

use foretoken_kernels::kv::{BLOCK_TOKENS, KvView};
use foretoken_model::gguf::Gguf;
use foretoken_model::step::{SeqStep, WantLogits};
use foretoken_model::{HeadInput, Model, Prediction};
use foretoken_train::cut::Cut;
use foretoken_train::examples::Example;
use foretoken_train::file::{self, TrainingFacts};
use foretoken_train::head::{Head, Start};
use foretoken_train::shape::HeadShape;
use foretoken_train::trunk::Trunk;
use support::{head_in_f32, load, records, shape, trunk};

/// Keys and values are rounded to f16 there and not here.
const TOLERANCE: f32 = 2e-3;

/// The rows of the model's head, for chains of `depths` that start at each token from `first` on and go on with the text.
fn rows_of_model(model: &Model, tokens: &[u32], first: usize, depths: usize) -> Vec<Vec<Vec<f32>>> {
    let layout = model.kv_layout();
    let bytes = layout.block_bytes();
    let mut blocks = vec![vec![0u8; bytes + 64]; tokens.len().div_ceil(BLOCK_TOKENS) + 1];
    let aligned = blocks.iter_mut().map(|block| {
        let start = block.as_ptr().align_offset(64);
        &mut block[start..start + bytes]
    });
    let mut kv = KvView::new(&layout, Vec::new(), aligned.collect());
    let mut scratch = model.scratch();
    let (mut all, mut hidden): (_, Option<Vec<f32>>) = (Vec::new(), None);
    for start in 0..tokens.len() - 1 {
        if start >= first {
            let (mut row, mut chain) = (hidden.clone().expect("a token before it"), Vec::new());
            let chain_tokens = &tokens[start..(start + depths).min(tokens.len() - 1)];
            for (slot, &token) in (start..).zip(chain_tokens) {
                let input = HeadInput { token, hidden: &row, slot, kv: &mut kv };
                row = model.predict(&mut scratch, &mut [input]).hidden(0).to_vec();
                chain.push(row.clone());
            }
            all.push(chain);
        }
        let step = SeqStep {
            tokens: &tokens[start..=start],
            parents: None,
            committed: start,
            hidden: hidden.as_deref(),
            kv: &mut kv,
            logits: WantLogits::None,
        };
        hidden = Some(model.forward(&mut scratch, &mut [step]).hidden(0).to_vec());
    }
    all
}

/// The weights of a head whose embeddings matter beside its hidden rows.
fn weights(shape: &HeadShape, trunk: &Trunk) -> Vec<Vec<f32>> {
    let head = Head::start(shape.clone(), trunk, Start::LastLayer, 3).expect("enough memory");
    let mut weights = head.weights().expect("enough memory");
    let projection = shape.tensors().iter().position(|tensor| tensor.name == "nextn.eh_proj");
    let projection = projection.expect("every head has one");
    weights[projection].iter_mut().for_each(|weight| *weight *= 4.0);
    weights
}

/// The largest difference between the rows that candle and the model compute, over the largest number of the row.
fn difference(
    trunk: &mut Trunk,
    (shape, weights): (&HeadShape, &[Vec<f32>]),
    file: Arc<Gguf>,
    depths: usize,
) -> f32 {
    let head = Head::from_weights(shape.clone(), weights).expect("their sizes");
    let model = load(Arc::clone(trunk.model().gguf()), Prediction::File(file));
    let examples: Vec<Example> = records(2, 80)
        .into_iter()
        .map(|record| {
            let hidden = trunk.hidden(&record.tokens);
            Example { tokens: record.tokens, prompt: record.prompt, greedy: record.greedy, hidden }
        })
        .collect();
    let rows = head.rows(trunk, &examples.iter().collect::<Vec<_>>(), depths).expect("enough memory");
    let (mut chain, mut worst) = (0, 0f32);
    for example in &examples {
        for expected in rows_of_model(&model, &example.tokens, example.prompt, depths) {
            for (depth, expected) in expected.iter().enumerate() {
                let got = &rows[depth][chain * shape.width..][..shape.width];
                let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
                let off = got.iter().zip(expected).map(|(a, b)| (a - b).abs() / largest);
                // A NaN must not be lost.
                worst = off.fold(worst, |max, off| if off <= max { max } else { off });
            }
            chain += 1;
        }
    }
    assert_eq!(chain * shape.width, rows[0].len());
    worst
}

fn assert_agrees(name: &str) {
    let mut trunk = trunk(name);
    let shape = shape(&trunk);
    let weights = weights(&shape, &trunk);
    let file = head_in_f32(&trunk, &shape, &weights, &[1, 2, 3]);
    let off = difference(&mut trunk, (&shape, &weights), file, 3);
    assert!(off < TOLERANCE, "{name}: {off}");
}

#[test]
fn a_written_head_is_loaded_by_the_model_and_computes_what_was_trained() {
    let mut trunk = trunk("llama");
    // Narrower than the model's own feed-forward network.
    let shape = HeadShape::of(trunk.model().gguf(), trunk.model().config(), Some(64)).unwrap();
    let weights = weights(&shape, &trunk);
    let cut = Cut::from_rows(vec![4, 9, 200], shape.vocab).unwrap();
    let bytes = file::bytes(trunk.model().gguf(), &shape, &weights, &cut, &TrainingFacts::default());
    let file = Arc::new(Gguf::from_bytes("head", bytes).unwrap());
    let model = load(Arc::clone(trunk.model().gguf()), Prediction::File(Arc::clone(&file)));
    assert_eq!(model.predicted_tokens(), Some(cut.rows()));
    // Beside Q8_0 the kernels round activations to 8 bits, which candle doesn't.
    let off = difference(&mut trunk, (&shape, &file::as_read(&shape, &weights)), file, 3);
    assert!(off < 0.05, "{off}");
}

#[test]
fn candle_computes_the_head_of_a_llama_model() {
    assert_agrees("llama");
}

#[test]
fn divisors_of_the_rotary_frequencies_are_used() {
    assert_agrees("llama-rope-llama3");
}

#[test]
fn linear_scaling_of_positions_is_used() {
    assert_agrees("llama-rope-linear");
}

#[test]
fn candle_computes_the_head_of_a_qwen2_model() {
    assert_agrees("qwen2");
}

#[test]
fn other_families_and_scalings_are_refused_with_the_reason() {
    for (name, reason) in [("gemma3", "architecture is 'gemma3'"), ("llama-rope-yarn", "'yarn'")] {
        let trunk = trunk(name);
        let refused =
            foretoken_train::shape::HeadShape::of(trunk.model().gguf(), trunk.model().config(), None);
        let error = refused.expect_err("a refusal").to_string();
        assert!(error.contains(reason), "{error}");
    }
}
