//! Law 1: a token's logits depend on the tokens before it and on the file, and on nothing else.
//!
//! The reference is always the simplest way: one thread, one token per step, one sequence. Everything else must give
//! the same bits: chunks of any size, draft trees, other sequences in the step, more threads, other instruction sets.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foretoken_kernels::{Compute, Isa};
use foretoken_model::gguf::Gguf;
use foretoken_model::step::{Logits, SeqStep, WantLogits};
use foretoken_model::{LoadOptions, Model};
use proptest::prelude::*;
use support::{blocks, smollm2_path, view};

type Bits = Vec<u32>;

fn load(path: &Path, isa: Isa, threads: usize) -> Model {
    let compute = Compute::new(isa, threads).expect("an instruction set that is available");
    Model::load(Arc::new(Gguf::open(path).expect("a GGUF file")), Arc::new(compute)).expect("a model")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families")
}

fn tiny(name: &str, isa: Isa, threads: usize) -> Model {
    load(&fixtures().join(format!("{name}.gguf")), isa, threads)
}

/// Every tiny model, by name.
fn all_tiny() -> Vec<String> {
    let files = std::fs::read_dir(fixtures()).expect("the fixtures");
    let paths = files.map(|file| file.expect("a fixture").path());
    let models = paths.filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_str().expect("an ASCII name").to_string();
    let mut names: Vec<String> = models.map(stem).collect();
    names.sort();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// One tiny model for each kind of layer: dense, windows, soft caps, latent attention, sinks, experts.
fn kinds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["qwen3", "gemma3", "gemma2", "deepseek3", "gpt-oss", "deepseek3-experts"])
}

fn bits(logits: &[f32]) -> Bits {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// A row's logits, and the hidden row that a draft head would take as input.
fn row_bits(logits: &Logits, row: usize) -> Bits {
    bits(logits.row(row)).into_iter().chain(bits(logits.hidden(row))).collect()
}

/// One sequence with KV of its own.
struct Seq {
    tokens: Vec<u32>,
    blocks: Vec<Vec<u8>>,
    committed: usize,
}

impl Seq {
    fn new(model: &Model, tokens: &[u32]) -> Seq {
        Seq { tokens: tokens.to_vec(), blocks: blocks(model, tokens.len()), committed: 0 }
    }
}

/// Computes the next `rows[i]` tokens of each sequence in one step and returns every row's logits.
fn step(model: &Model, seqs: &mut [Seq], rows: &[usize]) -> Vec<Vec<Bits>> {
    let mut parts: Vec<_> = seqs
        .iter_mut()
        .zip(rows)
        .filter(|(_, rows)| **rows > 0)
        .map(|(Seq { tokens, blocks, committed }, &rows)| {
            let new = &tokens[*committed..*committed + rows];
            let at = *committed;
            *committed += rows;
            (new, at, view(model, blocks))
        })
        .collect();
    let mut steps: Vec<_> = parts
        .iter_mut()
        .map(|(tokens, committed, kv)| SeqStep {
            tokens,
            parents: None,
            committed: *committed,
            hidden: None,
            kv,
            logits: WantLogits::All,
        })
        .collect();
    let mut scratch = model.scratch();
    let logits = model.forward(&mut scratch, &mut steps);
    let mut next = 0;
    rows.iter()
        .map(|&rows| {
            let of_seq = (next..next + rows).map(|row| row_bits(logits, row)).collect();
            next += rows;
            of_seq
        })
        .collect()
}

/// Logits after each token, in the simplest way.
fn one_by_one(model: &Model, tokens: &[u32]) -> Vec<Bits> {
    let mut seqs = [Seq::new(model, tokens)];
    tokens.iter().flat_map(|_| step(model, &mut seqs, &[1]).remove(0)).collect()
}

/// Logits after each token, read in chunks.
fn chunked(model: &Model, tokens: &[u32], chunk: usize) -> Vec<Bits> {
    let mut seqs = [Seq::new(model, tokens)];
    let mut all = Vec::new();
    while all.len() < tokens.len() {
        let rows = chunk.min(tokens.len() - all.len());
        all.extend(step(model, &mut seqs, &[rows]).remove(0));
    }
    all
}

fn tokens(len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 31 + i * 7 + 11) % vocab) as u32).collect()
}

#[test]
fn the_real_model_gives_the_same_bits_in_any_chunks_on_any_instructions_and_threads() {
    let path = smollm2_path();
    let reference_model = load(&path, Isa::detect(), 1);
    let prompt = tokens(90, 40_000);
    let reference = one_by_one(&reference_model, &prompt);
    for isa in Isa::available() {
        for threads in [1, 2] {
            // Scalar code is slow: one thread, a shorter prompt.
            let (len, chunks): (usize, &[usize]) =
                if isa == Isa::Scalar { (20, &[7]) } else { (90, &[2, 3, 5, 17, 90]) };
            let model = load(&path, isa, threads);
            for &chunk in chunks {
                let got = chunked(&model, &prompt[..len], chunk);
                let differs = got.iter().zip(&reference).position(|(a, b)| a != b);
                assert_eq!(
                    differs, None,
                    "first row that differs: {isa}, {threads} threads, chunks of {chunk}"
                );
            }
        }
    }
}

#[test]
fn the_real_model_gives_the_same_bits_beside_other_sequences() {
    let model = load(&smollm2_path(), Isa::detect(), 2);
    let (a, b) = (tokens(70, 40_000), tokens(130, 30_000));
    let (alone_a, alone_b) = (chunked(&model, &a, 70), chunked(&model, &b, 130));
    let mut seqs = [Seq::new(&model, &a), Seq::new(&model, &b)];
    let mut together = [Vec::new(), Vec::new()];
    for rows in [[1, 100], [60, 1], [1, 1], [8, 28]] {
        for (all, new) in together.iter_mut().zip(step(&model, &mut seqs, &rows)) {
            all.extend(new);
        }
    }
    assert!(together[0] == alone_a, "the first sequence differs beside the second");
    assert!(together[1] == alone_b, "the second sequence differs beside the first");
}

#[test]
fn every_tiny_model_gives_the_same_bits_in_any_chunks_on_any_instructions_and_threads() {
    let prompt = tokens(100, 250);
    for name in all_tiny() {
        let reference = one_by_one(&tiny(&name, Isa::Scalar, 1), &prompt);
        for isa in Isa::available() {
            for (threads, chunk) in [(1, 100), (2, 7), (2, 64)] {
                let got = chunked(&tiny(&name, isa, threads), &prompt, chunk);
                let differs = got.iter().zip(&reference).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{name}: {isa}, {threads} threads, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn experts_that_are_read_when_they_are_needed_give_the_bits_of_experts_in_memory() {
    let prompt = tokens(100, 250);
    for name in ["qwen2moe", "qwen3moe", "gpt-oss", "deepseek3-experts"] {
        let expected = one_by_one(&tiny(name, Isa::detect(), 1), &prompt);
        // None to spare: each layer keeps what one row visits; then a few more.
        for expert_ram in [0, 40_000] {
            let path = fixtures().join(format!("{name}.gguf"));
            let compute = Arc::new(Compute::new(Isa::detect(), 2).expect("the detected instruction set"));
            let options = LoadOptions { expert_ram: Some(expert_ram), ..LoadOptions::default() };
            let gguf = Arc::new(Gguf::open(&path).expect("a GGUF file"));
            let model = Model::load_with(gguf, options, compute).expect("a model");
            for chunk in [1, 100] {
                let got = chunked(&model, &prompt, chunk);
                let differs = got.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{name}: {expert_ram} bytes of experts, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn every_tiny_model_gives_the_same_bits_beside_another_sequence() {
    let (a, b) = (tokens(70, 250), tokens(130, 240));
    for name in all_tiny() {
        let model = tiny(&name, Isa::detect(), 2);
        let alone = [chunked(&model, &a, 70), chunked(&model, &b, 130)];
        let mut seqs = [Seq::new(&model, &a), Seq::new(&model, &b)];
        let mut together = [Vec::new(), Vec::new()];
        for rows in [[1, 100], [60, 1], [1, 1], [8, 28]] {
            for (all, new) in together.iter_mut().zip(step(&model, &mut seqs, &rows)) {
                all.extend(new);
            }
        }
        assert!(together == alone, "{name}: a sequence differs beside another");
    }
}

#[test]
fn every_tiny_model_gives_each_path_of_a_draft_tree_its_bits() {
    let parents = [-1, 0, 0, 1, 3, -1, 5, 2, 4, 8];
    for name in all_tiny() {
        let model = tiny(&name, Isa::detect(), 2);
        for context in [0, 59, 130] {
            let differs = first_row_off_its_path(&model, context, &tokens(parents.len(), 199), &parents);
            assert_eq!(differs, None, "{name}: row of the tree after {context} tokens");
        }
    }
}

/// Each row's path from the root, as row indices.
fn paths(parents: &[i32]) -> Vec<Vec<usize>> {
    let mut paths: Vec<Vec<usize>> = Vec::new();
    for (row, &parent) in parents.iter().enumerate() {
        let mut path = usize::try_from(parent).map_or(Vec::new(), |parent| paths[parent].clone());
        path.push(row);
        paths.push(path);
    }
    paths
}

/// Runs a draft tree of `new` tokens after a context, and compares each row with decoding its path one by one.
fn first_row_off_its_path(model: &Model, context: usize, new: &[u32], parents: &[i32]) -> Option<usize> {
    let prompt = tokens(context, 250);
    let mut all = prompt.clone();
    all.extend(new);
    let mut seqs = [Seq::new(model, &all)];
    if context > 0 {
        step(model, &mut seqs, &[context]);
    }
    let mut kv = view(model, &mut seqs[0].blocks);
    let seq = SeqStep {
        tokens: new,
        parents: Some(parents),
        committed: context,
        hidden: None,
        kv: &mut kv,
        logits: WantLogits::All,
    };
    let mut scratch = model.scratch();
    let logits = model.forward(&mut scratch, &mut [seq]);
    paths(parents).into_iter().enumerate().position(|(row, path)| {
        let mut tokens = prompt.clone();
        tokens.extend(path.iter().map(|&row| new[row]));
        let expected = one_by_one(model, &tokens).pop().expect("at least one token");
        row_bits(logits, row) != expected
    })
}

/// A context and a random tree below it: each row's parent is an earlier row or the context.
fn trees() -> impl Strategy<Value = (usize, Vec<(u32, i32)>)> {
    let node = |row: usize| (0u32..250, -1..row as i32);
    (0usize..140, 1usize..14)
        .prop_flat_map(move |(context, rows)| (Just(context), (0..rows).map(node).collect::<Vec<_>>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chunking_gives_the_same_bits(
        name in kinds(),
        len in 1usize..150,
        chunk in 1usize..80,
        threads in 1usize..3,
        isa in prop::sample::select(Isa::available()),
    ) {
        let prompt = tokens(len, 250);
        let reference = one_by_one(&tiny(name, Isa::Scalar, 1), &prompt);
        prop_assert!(chunked(&tiny(name, isa, threads), &prompt, chunk) == reference);
    }

    #[test]
    fn a_draft_tree_gives_the_bits_of_each_of_its_paths(
        name in kinds(),
        (context, tree) in trees(),
        threads in 1usize..3,
        isa in prop::sample::select(Isa::available()),
    ) {
        let model = tiny(name, isa, threads);
        let (new, parents): (Vec<u32>, Vec<i32>) = tree.into_iter().unzip();
        let differs = first_row_off_its_path(&model, context, &new, &parents);
        prop_assert_eq!(differs, None, "row of {:?} after {}", parents, context);
    }
}
