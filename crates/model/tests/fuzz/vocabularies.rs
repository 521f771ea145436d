//! The small vocabularies of `fixtures/tokenizer`, compiled in: a fuzz target has no folder to look in.

use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::Value;

/// Byte-level BPE with a pre-tokenizer of [`foretoken_model::tokenizer::PRE_TOKENIZERS`].
pub(crate) fn bpe(pre: &str) -> Tokenizer {
    let file = json(include_str!("../fixtures/tokenizer/bpe.json"));
    build(
        vocabulary("gpt2", &file)
            .meta("tokenizer.ggml.pre", Meta::Str(pre.into()))
            .meta("tokenizer.ggml.merges", Meta::strings(strings(&file["merges"]))),
    )
}

/// SentencePiece.
pub(crate) fn spm() -> Tokenizer {
    let file = json(include_str!("../fixtures/tokenizer/spm.json"));
    let scores = Meta::f32s(numbers(&file["scores"]).map(|score| score as f32));
    build(vocabulary("llama", &file).meta("tokenizer.ggml.scores", scores))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("the fixture is JSON")
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn numbers(value: &Value) -> impl Iterator<Item = f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64)
}

fn vocabulary(model: &str, file: &Value) -> GgufWriter {
    GgufWriter::new()
        .meta("general.architecture", Meta::Str("llama".into()))
        .meta("tokenizer.ggml.model", Meta::Str(model.into()))
        .meta("tokenizer.ggml.tokens", Meta::strings(strings(&file["tokens"])))
        .meta("tokenizer.ggml.token_type", Meta::i32s(numbers(&file["types"]).map(|kind| kind as i32)))
}

fn build(writer: GgufWriter) -> Tokenizer {
    let gguf = Gguf::from_bytes("vocabulary.gguf", writer.finish()).expect("the writer writes what opens");
    Tokenizer::from_gguf(&gguf).expect("the fixture is a vocabulary")
}
