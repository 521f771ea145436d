//! Any bytes as a model file.
#![no_main]

#[path = "../../crates/model/tests/fuzz/gguf.rs"]
mod gguf;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gguf::run(data));
