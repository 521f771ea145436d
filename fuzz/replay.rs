//! Replays a fuzz target's committed corpus on the stable toolchain: included by the crates' `tests/fuzz`.

use std::path::Path;

/// Gives every file of `fuzz/corpus/TARGET` to the target's entry function, which panics on a fault.
pub(crate) fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} has {} files", folder.display(), files.len());
    for file in files {
        // Shown where the entry function panics.
        eprintln!("replaying {}", file.display());
        entry(&std::fs::read(&file).unwrap());
    }
}
