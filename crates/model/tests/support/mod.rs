//! What several test files need: where the real model is.

use std::path::PathBuf;

use foretoken_model::reference::{Downloads, ModelRef};

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
