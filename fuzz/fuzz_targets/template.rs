//! Any chat template with any conversation.
#![no_main]

#[path = "../../crates/model/tests/fuzz/template.rs"]
mod template;

libfuzzer_sys::fuzz_target!(|data: &[u8]| template::run(data));
