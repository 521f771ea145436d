//! Any bytes as an entry of the shared store, or of a block file on disk.
#![no_main]

#[path = "../../crates/cache/tests/fuzz/shared.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::run(data));
