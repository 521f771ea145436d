//! The fuzz targets of this crate: their entry functions, and their corpora replayed on stable. The targets
//! themselves are in `fuzz/`.

mod gguf;
#[path = "../../../../fuzz/replay.rs"]
mod replay;
mod template;
mod tokenizer;

#[test]
fn the_gguf_corpus_replays() {
    replay::replay("fuzz_target_gguf", gguf::run);
}

#[test]
fn the_template_corpus_replays() {
    replay::replay("fuzz_target_template", template::run);
}

#[test]
fn the_tokenizer_corpus_replays() {
    replay::replay("fuzz_target_tokenizer", tokenizer::run);
}
