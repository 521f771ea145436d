//! The fuzz targets of this crate: their entry functions, and their corpora replayed on stable. The targets
//! themselves are in `fuzz/`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests; it does not see that helpers are part of them
#![allow(clippy::duplicate_mod)] // each target is a file of its own in `fuzz/` too, and brings what it needs

mod block;
#[path = "../../../../fuzz/replay.rs"]
mod replay;
mod shared;

#[test]
fn the_block_corpus_replays() {
    replay::replay("fuzz_target_block", block::run);
}

#[test]
fn the_shared_corpus_replays() {
    replay::replay("fuzz_target_shared", shared::run);
}
