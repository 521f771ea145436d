//! Any text and any token ids.
#![no_main]

#[path = "../../crates/model/tests/fuzz/tokenizer.rs"]
mod tokenizer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tokenizer::run(data));
