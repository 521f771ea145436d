//! Reads `fixtures/tokenizer` and builds tokenizers from it.
#![allow(dead_code)] // each test file uses its own part

use std::path::Path;

use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::Value;

#[path = "../support/mod.rs"]
mod support;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The lines of the corpus; they may contain line breaks.
pub(crate) fn corpus() -> Vec<String> {
    read("corpus.jsonl").lines().map(|line| json(line).as_str().unwrap_or_default().to_owned()).collect()
}

/// The expected hash for each line; `None` where Unicode versions disagree about it.
pub(crate) fn expected(column: &str) -> Vec<Option<u32>> {
    let table = read("expected.tsv");
    let mut rows = table.lines().map(|row| row.split('\t'));
    let position = rows.next().and_then(|mut names| names.position(|name| name == column));
    let position = position.unwrap_or_else(|| panic!("no column {column}"));
    rows.map(|mut row| row.nth(position).filter(|hash| *hash != "-"))
        .map(|hash| {
            hash.map(|hash| u32::from_str_radix(hash, 16).unwrap_or_else(|error| panic!("{hash}: {error}")))
        })
        .collect()
}

/// FNV-1a over the ids' bytes, as `make.py` computes it.
pub(crate) fn hash(ids: &[u32]) -> u32 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    bytes.fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

pub(crate) fn gguf(writer: GgufWriter) -> Gguf {
    let bytes = writer.meta("general.architecture", Meta::Str("llama".into())).finish();
    Gguf::from_bytes("vocabulary.gguf", bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn vocabulary(model: &str, file: &Value) -> GgufWriter {
    GgufWriter::new()
        .meta("tokenizer.ggml.model", Meta::Str(model.into()))
        .meta("tokenizer.ggml.tokens", Meta::strings(strings(&file["tokens"])))
        .meta("tokenizer.ggml.token_type", Meta::i32s(numbers(&file["types"]).iter().map(|n| *n as i32)))
}

/// The small byte-level vocabulary with the given pre-tokenizer.
pub(crate) fn bpe_gguf(pre: &str) -> Gguf {
    bpe_gguf_with(pre, "<s>", "</s>", &[])
}

/// The same with other BOS and EOS and further control tokens.
pub(crate) fn bpe_gguf_with(pre: &str, bos: &str, eos: &str, control: &[&str]) -> Gguf {
    let mut file = json(&read("bpe.json"));
    for text in [bos, eos].iter().chain(control) {
        if let (false, Value::Array(tokens)) =
            (strings(&file["tokens"]).iter().any(|t| t == text), &mut file["tokens"])
        {
            tokens.push(Value::from(*text));
            file["types"].as_array_mut().into_iter().for_each(|types| types.push(Value::from(3)));
        }
    }
    let tokens = strings(&file["tokens"]);
    let id = |text: &str| tokens.iter().position(|token| token == text).unwrap_or_default() as u32;
    let writer = vocabulary("gpt2", &file)
        .meta("tokenizer.ggml.pre", Meta::Str(pre.into()))
        .meta("tokenizer.ggml.merges", Meta::strings(strings(&file["merges"])))
        .meta("tokenizer.ggml.bos_token_id", Meta::U32(id(bos)))
        .meta("tokenizer.ggml.eos_token_id", Meta::U32(id(eos)));
    gguf(writer)
}

pub(crate) fn build(gguf: &Gguf) -> Tokenizer {
    Tokenizer::from_gguf(gguf).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn bpe(pre: &str) -> Tokenizer {
    build(&bpe_gguf(pre))
}

/// A small SentencePiece-style vocabulary.
pub(crate) fn spm() -> Tokenizer {
    spm_of("llama")
}

/// The same in a file of a model of this name.
pub(crate) fn spm_of(name: &str) -> Tokenizer {
    let file = json(&read("spm.json"));
    let scores = Meta::f32s(numbers(&file["scores"]).iter().map(|n| *n as f32));
    let vocabulary = vocabulary("llama", &file).meta("tokenizer.ggml.scores", scores);
    build(&gguf(vocabulary.meta("general.name", Meta::Str(name.into()))))
}

/// SmolLM2's own.
pub(crate) fn smollm2() -> Tokenizer {
    let path = support::smollm2_path();
    build(&Gguf::open(&path).unwrap_or_else(|error| panic!("{error}")))
}
