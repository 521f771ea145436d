//! Opening a file allocates no more than its size justifies, whatever its counts claim. A binary of its own,
//! because the allocator counts the whole process.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Indices, names and error messages may take this much more than the file.
const TIMES_MAX: usize = 16;
const BYTES_EXTRA: usize = 16 << 10;

fn assert_bounded(name: &str, bytes: Vec<u8>) {
    let size = bytes.len();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let opened = Gguf::from_bytes(name, bytes);
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    drop(opened);
    assert!(peak <= size * TIMES_MAX + BYTES_EXTRA, "{name}: {peak} bytes allocated for a file of {size}");
}

#[test]
fn memory_is_bounded_by_the_file() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf");
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        assert_bounded(&path.display().to_string(), std::fs::read(&path).unwrap());
    }
    let mut dense = GgufWriter::new();
    for n in 0..20_000 {
        dense = dense.meta(&format!("{n:x}"), Meta::U8(0)).tensor(&format!("{n:x}"), &[1], 0, vec![0; 4]);
    }
    assert_bounded("dense", dense.finish());
    assert_bounded("strings", GgufWriter::new().meta("s", Meta::strings(vec![""; 200_000])).finish());
}
