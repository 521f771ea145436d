//! The fuzz target of this crate: its entry function, and its corpus replayed on stable. The target itself is in
//! `fuzz/`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests; it does not see that helpers are part of them

mod http;
#[path = "../../../../fuzz/replay.rs"]
mod replay;

#[test]
fn the_http_corpus_replays() {
    replay::replay("fuzz_target_http", http::run);
}
