//! Any request to the HTTP API, with a scripted engine behind it.
#![no_main]

#[path = "../../crates/server/tests/fuzz/http.rs"]
mod http;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http::run(data));
