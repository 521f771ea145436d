//! Any bytes as a block file.
#![no_main]

#[path = "../../crates/cache/tests/fuzz/block.rs"]
mod block;

libfuzzer_sys::fuzz_target!(|data: &[u8]| block::run(data));
