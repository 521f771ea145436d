//! The fuzz targets of this crate: their entry functions, and their corpora replayed on stable. The targets
//! themselves are in `fuzz/`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests; it does not see that helpers are part of them
#![allow(clippy::duplicate_mod)] // each target is a file of its own in `fuzz/` too, and brings what it needs

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
