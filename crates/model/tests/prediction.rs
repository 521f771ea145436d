//! The head for multi-token prediction: against an implementation in torch, and law 1 for what it keeps in blocks.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foretoken_kernels::kv::BLOCK_TOKENS;
use foretoken_kernels::{Compute, Isa, math};
use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use foretoken_model::step::{SeqStep, WantLogits};
use foretoken_model::trained_head::{MODEL_KEY, ROWS_KEY};
use foretoken_model::{HeadInput, LoadOptions, Model, ModelError, Prediction};
use serde::Deserialize;
use support::{blocks, view};

/// As in `families.rs`.
const TOLERANCE: f32 = 1e-3;
/// Rows have their numbers side by side with what the norm before them magnifies; logits are sums over them.
const ROW_TOLERANCE: f32 = 2e-3;

fn path(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(format!("{name}.{extension}"))
}

fn open(name: &str) -> Arc<Gguf> {
    Arc::new(Gguf::open(path(name, "gguf")).expect("the fixture's weights"))
}

fn load(name: &str, prediction: Prediction, isa: Isa, threads: usize) -> Model {
    let compute = Compute::new(isa, threads).expect("an instruction set that is available");
    let options = LoadOptions { prediction, ..LoadOptions::default() };
    Model::load_with(open(name), options, Arc::new(compute)).expect("a model that is supported")
}

fn own(name: &str) -> Model {
    load(name, Prediction::Own, Isa::detect(), 2)
}

/// A sequence, read in steps.
struct Reading<'m> {
    model: &'m Model,
    blocks: Vec<Vec<u8>>,
    committed: usize,
    /// The hidden row of each committed token.
    hidden: Vec<Vec<f32>>,
}

impl<'m> Reading<'m> {
    fn new(model: &'m Model, room: usize) -> Self {
        Reading { model, blocks: blocks(model, room), committed: 0, hidden: Vec::new() }
    }

    fn read(&mut self, tokens: &[u32]) {
        self.step(tokens, None, true);
        self.committed += tokens.len();
    }

    /// One step; adds the hidden row of each of its rows. `know`: whether the step is told the hidden row before it.
    fn step(&mut self, tokens: &[u32], parents: Option<&[i32]>, know: bool) {
        let mut kv = view(self.model, &mut self.blocks);
        let hidden = self.committed.checked_sub(1).filter(|_| know).map(|last| &self.hidden[last][..]);
        let committed = self.committed;
        let step = SeqStep { tokens, parents, committed, hidden, kv: &mut kv, logits: WantLogits::Last };
        let mut scratch = self.model.scratch();
        let logits = self.model.forward(&mut scratch, &mut [step]);
        let rows: Vec<Vec<f32>> = (0..tokens.len()).map(|row| logits.hidden(row).to_vec()).collect();
        self.hidden.truncate(committed);
        self.hidden.extend(rows);
    }

    /// The head's logits and hidden rows after `token`, and then after its own draft tokens.
    fn drafts(&mut self, token: u32, count: usize) -> Vec<(Vec<f32>, Vec<f32>)> {
        let mut kv = view(self.model, &mut self.blocks);
        let mut scratch = self.model.scratch();
        let (mut token, mut hidden) = (token, self.hidden[self.committed - 1].clone());
        let mut all = Vec::new();
        for slot in self.committed..self.committed + count {
            let seq = HeadInput { token, hidden: &hidden, slot, kv: &mut kv };
            let logits = self.model.predict(&mut scratch, &mut [seq]);
            let (row, next) = (logits.row(0).to_vec(), logits.hidden(0).to_vec());
            token = draft(self.model, &row);
            all.push((row, next.clone()));
            hidden = next;
        }
        all
    }
}

/// The token with the head's largest logit.
fn draft(model: &Model, logits: &[f32]) -> u32 {
    let at = math::argmax(model.compute(), logits);
    model.predicted_tokens().map_or(at as u32, |tokens| tokens[at])
}

/// What the implementation in torch gives; `fixtures/families/README.md` has the format.
#[derive(Deserialize)]
struct Expected {
    hidden: usize,
    vocab: usize,
    tokens: Vec<u32>,
    next: u32,
    drafts: Vec<u32>,
    logit_slots: Vec<usize>,
}

/// An F32 vector of a file.
fn vector(gguf: &Gguf, name: &str) -> Vec<f32> {
    let bytes = gguf.bytes(gguf.tensor(name).expect("a tensor of the fixture"));
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

fn normed(rows: &[f32], weight: &[f32]) -> Vec<f32> {
    let norm = |row: &[f32]| {
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let factor = 1.0 / (squares / row.len() as f32 + 1e-6).sqrt();
        row.iter().zip(weight).map(|(x, weight)| x * factor * weight).collect::<Vec<f32>>()
    };
    rows.chunks_exact(weight.len()).flat_map(norm).collect()
}

fn assert_near(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    // A NaN anywhere must fail too, so the comparison is not `max`.
    let near = |(a, b): (&f32, &f32)| (a - b).abs() / scale < tolerance;
    if let Some(at) = got.iter().zip(expected).position(|pair| !near(pair)) {
        panic!("{what}, number {at}: {}, expected {}, largest {scale}", got[at], expected[at]);
    }
}

/// A head in `model`, or in a file of its own, gives the rows, logits and drafts that are stored under `name`.
fn assert_agrees(name: &str, model: &Model, head_norm: &[f32]) {
    let json = fs::read(path(name, "json")).expect("the fixture");
    let expected: Expected = serde_json::from_slice(&json).expect("its JSON");
    let numbers = fs::read(path(name, "f32")).expect("the fixture's rows");
    let numbers: Vec<f32> =
        numbers.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
    let (n, width, vocab) = (expected.tokens.len(), expected.hidden, expected.vocab);
    let (decoder_rows, rest) = numbers.split_at(n * width);
    let (head_rows, rest) = rest.split_at((n - 1) * width);
    let (slot_logits, rest) = rest.split_at(expected.logit_slots.len() * vocab);
    let (draft_rows, draft_logits) = rest.split_at(expected.drafts.len() * width);

    // Slot by slot: the decoder reads up to the token before, and the head takes the token.
    let mut reading = Reading::new(model, n + expected.drafts.len());
    let (mut rows, mut logits) = (Vec::new(), Vec::new());
    for slot in 1..n {
        reading.read(&expected.tokens[slot - 1..slot]);
        let (of_slot, row) = reading.drafts(expected.tokens[slot], 1).remove(0);
        rows.extend(row);
        if expected.logit_slots.contains(&slot) {
            logits.extend(of_slot);
        }
    }
    assert_near("the head's rows", &rows, &normed(head_rows, head_norm), ROW_TOLERANCE);
    assert_near("the head's logits", &logits, slot_logits, TOLERANCE);

    reading.read(&expected.tokens[n - 1..]);
    let output_norm = vector(model.gguf(), "output_norm.weight");
    let decoder_rows = normed(decoder_rows, &output_norm);
    assert_near("the decoder's rows", &reading.hidden.concat(), &decoder_rows, ROW_TOLERANCE);
    let drafts = reading.drafts(expected.next, expected.drafts.len());
    let rows: Vec<f32> = drafts.iter().flat_map(|(_, row)| row.clone()).collect();
    let logits: Vec<f32> = drafts.iter().flat_map(|(logits, _)| logits.clone()).collect();
    assert_near("the drafting rows", &rows, &normed(draft_rows, head_norm), ROW_TOLERANCE);
    assert_near("the drafting logits", &logits, draft_logits, TOLERANCE);
    let drafts: Vec<u32> = drafts.iter().map(|(logits, _)| draft(model, logits)).collect();
    assert_eq!(drafts, expected.drafts);
}

#[test]
fn a_head_that_shares_embedding_norm_and_output_gives_what_the_paper_s_formula_gives() {
    let shared = || vector(&open("deepseek3-mtp"), "output_norm.weight");
    assert_agrees("heads/deepseek3-mtp", &own("deepseek3-mtp"), &shared());
    for file in ["heads/deepseek3-mtp-head", "heads/deepseek3-mtp-head-with-shared"] {
        let model = load("heads/deepseek3-mtp-decoder", Prediction::File(open(file)), Isa::detect(), 2);
        assert_agrees("heads/deepseek3-mtp", &model, &shared());
    }
}

#[test]
fn a_head_with_embedding_norm_and_output_of_its_own_gives_what_the_paper_s_formula_gives() {
    let model = own("heads/deepseek3-mtp-own");
    let norm = vector(model.gguf(), "blk.2.nextn.shared_head_norm.weight");
    assert_agrees("heads/deepseek3-mtp-own", &model, &norm);
}

#[test]
fn a_trained_head_gives_what_the_paper_s_formula_gives_for_the_tokens_that_it_knows() {
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<u32>,
    }
    let head = open("heads/llama-trained");
    let norm = vector(&head, "blk.2.nextn.shared_head_norm.weight");
    let model = load("llama", Prediction::File(head), Isa::detect(), 2);
    let json = fs::read(path("heads/llama-trained", "json")).expect("the fixture");
    let Rows { rows } = serde_json::from_slice(&json).expect("its JSON");
    assert_eq!(model.predicted_tokens(), Some(&rows[..]));
    assert_agrees("heads/llama-trained", &model, &norm);
}

#[test]
fn a_trained_head_has_the_same_bits_on_any_instructions_and_in_any_chunks() {
    let text = tokens(150);
    let trained = |isa, threads| load("llama", Prediction::File(open("heads/llama-trained")), isa, threads);
    let expected = plainly(&trained(Isa::Scalar, 1), &text);
    for isa in Isa::available() {
        let model = trained(isa, 2);
        let mut reading = Reading::new(&model, text.len() + 4);
        text[..149].chunks(37).for_each(|chunk| reading.read(chunk));
        assert!(bits(&reading.drafts(text[149], 3)) == expected, "{isa}");
    }
}

#[test]
fn a_trained_head_of_other_weights_is_refused_with_both_fingerprints() {
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("the detected instruction set"));
    let refused = |model: Gguf| {
        let prediction = Prediction::File(open("heads/llama-trained"));
        let options = LoadOptions { prediction, ..LoadOptions::default() };
        let loaded = Model::load_with(Arc::new(model), options, Arc::clone(&compute));
        loaded.err().expect("an error").to_string()
    };
    // The same shapes, and one number changed.
    let mut bytes = fs::read(path("llama", "gguf")).expect("the fixture's weights");
    *bytes.last_mut().expect("weights") ^= 1;
    let changed = Gguf::from_bytes("changed.gguf", bytes).expect("a file as good as before");
    let error = refused(changed);
    let expected = open("heads/llama-trained");
    let expected = expected.get_str(MODEL_KEY).expect("a text").expect("a fingerprint");
    assert!(error.contains("fingerprint of weights is") && error.contains(expected), "{error}");
    let other = refused(Gguf::open(path("qwen3", "gguf")).expect("the fixture's weights"));
    assert!(other.contains("architecture is llama, the model's qwen3"), "{other}");
}

#[test]
fn the_tokens_of_a_trained_head_are_checked() {
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("the detected instruction set"));
    let refused = |rows: &[u32]| {
        let file = GgufWriter::new()
            .meta("general.architecture", "llama")
            .meta(MODEL_KEY, "")
            .meta(ROWS_KEY, Meta::Array(4, rows.iter().copied().map(Meta::U32).collect()))
            .tensor_f32("blk.2.ffn_down.weight", &[32, 64], &[0.0; 32 * 64]);
        let head = Gguf::from_bytes("head.gguf", file.finish()).expect("a GGUF file");
        let options = LoadOptions { prediction: Prediction::File(Arc::new(head)), ..LoadOptions::default() };
        let loaded = Model::load_with(open("llama"), options, Arc::clone(&compute));
        loaded.err().expect("an error").to_string()
    };
    for rows in [&[][..], &[3, 2], &[4, 4]] {
        assert!(refused(rows).contains("ascending"), "{}", refused(rows));
    }
    assert!(
        refused(&[0, 260]).contains("token 260 is outside the vocabulary of 260"),
        "{}",
        refused(&[0, 260])
    );
}

fn tokens(len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 31 + i * 7 + 11) % 250) as u32).collect()
}

fn bits(drafts: &[(Vec<f32>, Vec<f32>)]) -> Vec<u32> {
    drafts.iter().flat_map(|(logits, hidden)| logits.iter().chain(hidden)).map(|x| x.to_bits()).collect()
}

/// The drafts after a text that is read token by token.
fn plainly(model: &Model, text: &[u32]) -> Vec<u32> {
    let (last, before) = text.split_last().expect("a text");
    let mut reading = Reading::new(model, text.len() + 4);
    before.iter().for_each(|&token| reading.read(&[token]));
    bits(&reading.drafts(*last, 3))
}

#[test]
fn drafts_have_the_same_bits_in_any_chunks_on_any_instructions_and_threads() {
    let text = tokens(150);
    let expected = plainly(&load("deepseek3-mtp", Prediction::Own, Isa::Scalar, 1), &text);
    for isa in Isa::available() {
        for (threads, chunk) in [(1, 149), (2, 7), (2, 64)] {
            let model = load("deepseek3-mtp", Prediction::Own, isa, threads);
            let mut reading = Reading::new(&model, text.len() + 4);
            text[..149].chunks(chunk).for_each(|chunk| reading.read(chunk));
            assert!(
                bits(&reading.drafts(text[149], 3)) == expected,
                "{isa}, {threads} threads, chunks of {chunk}"
            );
        }
    }
}

#[test]
fn an_accepted_path_of_a_draft_tree_leaves_what_decoding_leaves() {
    let model = own("deepseek3-mtp");
    let text = tokens(140);
    // Rows 0, 2 and 3 are the text's next tokens.
    let (new, parents) = ([text[120], 7, text[121], text[122], 9], [-1, 0, 0, 2, 3]);
    let mut reading = Reading::new(&model, text.len() + 4);
    reading.read(&text[..120]);
    reading.step(&new, Some(&parents), true);
    let layout = model.kv_layout();
    let mut kv = view(&model, &mut reading.blocks);
    for (at, row) in [(1, 2), (2, 3)] {
        kv.copy_slot(120 + row, 120 + at);
    }
    assert_eq!(kv.layout(), &layout);
    drop(kv);
    let kept: Vec<Vec<f32>> = [0, 2, 3].map(|row| reading.hidden[120 + row].clone()).into();
    reading.hidden.truncate(120);
    reading.hidden.extend(kept);
    reading.committed = 123;
    assert!(bits(&reading.drafts(text[123], 3)) == plainly(&model, &text[..124]));
}

#[test]
fn drafts_are_written_over_and_a_token_read_again_keeps_the_head_s_part() {
    let model = own("deepseek3-mtp");
    let text = tokens(100);
    let expected = plainly(&model, &text);
    let mut reading = Reading::new(&model, text.len() + 8);
    reading.read(&text[..60]);
    // Rejected draft tokens are in the slots that follow.
    reading.drafts(249, 6);
    reading.read(&text[60..90]);
    // As after a hit in the middle of a block: the last token is computed again, without the hidden row before it.
    reading.committed = 89;
    reading.step(&text[89..99], None, false);
    reading.committed = 99;
    assert!(bits(&reading.drafts(text[99], 3)) == expected);
}

#[test]
fn a_head_from_a_file_of_its_own_is_the_head_in_the_model_s() {
    let text = tokens(80);
    let expected = plainly(&own("deepseek3-mtp"), &text);
    let model = load(
        "heads/deepseek3-mtp-decoder",
        Prediction::File(open("heads/deepseek3-mtp-head")),
        Isa::detect(),
        1,
    );
    assert!(plainly(&model, &text) == expected);
    assert!(model.prediction_gguf().is_some());
}

#[test]
fn a_head_is_loaded_where_it_is_wanted_and_belongs() {
    let layers = |model: &Model| model.kv_layout().draft_layers();
    assert_eq!(layers(&own("deepseek3-mtp")), 1);
    assert_eq!(layers(&load("deepseek3-mtp", Prediction::Off, Isa::detect(), 1)), 0);
    assert_eq!(layers(&own("heads/deepseek3-mtp-decoder")), 0);
    let refused = |model: &str, head: &str| {
        let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("the detected instruction set"));
        let options = LoadOptions { prediction: Prediction::File(open(head)), ..LoadOptions::default() };
        Model::load_with(open(model), options, compute).err().expect("an error")
    };
    assert!(matches!(
        refused("heads/deepseek3-mtp-decoder", "heads/deepseek3-mtp-decoder"),
        ModelError::NoHead
    ));
    let other = refused("qwen3", "heads/deepseek3-mtp-head");
    assert!(other.to_string().contains("architecture is deepseek2, the model's qwen3"), "{other}");
}

#[test]
fn the_hidden_rows_of_a_model_without_a_head_are_the_same_tokens() {
    let text = tokens(BLOCK_TOKENS + 5);
    let with = own("deepseek3-mtp");
    let without = load("deepseek3-mtp", Prediction::Off, Isa::detect(), 2);
    let logits = |model: &Model| {
        let mut blocks = blocks(model, text.len());
        let mut kv = view(model, &mut blocks);
        let step = SeqStep {
            tokens: &text,
            parents: None,
            committed: 0,
            hidden: None,
            kv: &mut kv,
            logits: WantLogits::All,
        };
        let mut scratch = model.scratch();
        let logits = model.forward(&mut scratch, &mut [step]);
        (0..logits.len()).flat_map(|row| logits.row(row).iter().map(|x| x.to_bits())).collect::<Vec<u32>>()
    };
    assert!(logits(&with) == logits(&without), "a head changes no logit of the model");
}
