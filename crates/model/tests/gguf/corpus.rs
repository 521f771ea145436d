//! The hostile files, committed as the fuzzer's seeds, and a valid file mutated at random.
//!
//! `UPDATE_CORPUS=1 cargo test -p foretoken-model --test gguf` writes the seeds again. What the fuzzer finds is in
//! `fuzz/corpus` and is replayed by `tests/fuzz`.

use std::path::PathBuf;

use proptest::prelude::*;

use crate::fuzz::exercise;
use crate::hostile;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf")
}

#[test]
fn the_committed_seeds_are_the_hostile_files() {
    for hostile::Hostile { name, bytes, .. } in hostile::all() {
        let path = folder().join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert!(committed == bytes, "{} is out of date: set UPDATE_CORPUS=1", path.display());
    }
}

#[test]
fn every_file_of_the_corpus_is_refused_with_its_name() {
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let error = exercise(std::fs::read(&path).unwrap()).unwrap_err();
        assert!(error.starts_with("corpus: "), "{}: {error}", path.display());
        replayed += 1;
    }
    assert!(replayed >= hostile::all().len());
}

#[test]
fn the_valid_file_passes_the_same_checks() {
    assert_eq!(exercise(hostile::valid()), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// A file with a few bytes changed and its end truncated either opens and is sound, or is refused by name.
    #[test]
    fn mutated_files_open_soundly_or_are_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        word in prop::option::of((any::<prop::sample::Index>(), prop_oneof![
            Just(u64::MAX), Just(1 << 63), Just(1 << 61), 0u64..512, any::<u64>()
        ])),
        keep in prop_oneof![4 => Just(1.0f64), 1 => 0.0..1.0f64],
    ) {
        let mut bytes = hostile::valid();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some((at, value)) = word {
            let at = at.index(bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        if let Err(error) = exercise(bytes) {
            prop_assert!(error.starts_with("corpus: "), "{error}");
        }
    }
}
