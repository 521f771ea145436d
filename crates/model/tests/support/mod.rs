//! What several test files need: where the real model is, and KV for a sequence.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::PathBuf;

use foretoken_kernels::kv::{BLOCK_TOKENS, KvView};
use foretoken_model::Model;
use foretoken_model::reference::{Downloads, ModelRef};

/// Bytes of blocks for `tokens` tokens and one block more, each with room to align it.
pub(crate) fn blocks(model: &Model, tokens: usize) -> Vec<Vec<u8>> {
    vec![vec![0; model.kv_layout().block_bytes() + 64]; tokens.div_ceil(BLOCK_TOKENS) + 1]
}

/// The blocks as one sequence's block table.
pub(crate) fn view<'a>(model: &Model, blocks: &'a mut [Vec<u8>]) -> KvView<'a> {
    let layout = model.kv_layout();
    let bytes = layout.block_bytes();
    let aligned = |block: &'a mut Vec<u8>| {
        let start = block.as_ptr().align_offset(64);
        &mut block[start..start + bytes]
    };
    KvView::new(&layout, Vec::new(), blocks.iter_mut().map(aligned).collect())
}

/// The GGUF file of SmolLM2-135M-Instruct: `FORETOKEN_TEST_MODEL`, or the default model, fetched once into
/// the folder that the end-to-end tests use too.
pub(crate) fn smollm2_path() -> PathBuf {
    if let Some(path) = std::env::var_os("FORETOKEN_TEST_MODEL") {
        return path.into();
    }
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-data");
    let dir = std::env::var_os("FORETOKEN_TEST_DATA").map_or(target, PathBuf::from).join("models");
    let reference: ModelRef = "smollm2".parse().expect("a built-in name");
    reference.resolve(&Downloads::new(dir)).unwrap_or_else(|error| panic!("cannot fetch smollm2: {error}"))
}
