//! Models split over several files.

use std::path::{Path, PathBuf};

use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};
use tempfile::TempDir;

fn part(number: u16, count: u16) -> GgufWriter {
    let writer =
        if number == 0 { GgufWriter::new().meta("general.name", "whole") } else { GgufWriter::new() };
    writer
        .meta("split.no", Meta::U16(number))
        .meta("split.count", Meta::U16(count))
        .meta("split.tensors.count", Meta::I32(3))
        .tensor_f32(&format!("t{number}"), &[2], &[f32::from(number), 0.5])
}

fn name(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("model-{number:05}-of-00003.gguf"))
}

/// Three parts, of which `change` may rewrite some.
fn split(change: impl Fn(u16, GgufWriter) -> Option<GgufWriter>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..3 {
        if let Some(writer) = change(number, part(number, 3)) {
            std::fs::write(name(dir.path(), number + 1), writer.finish()).unwrap();
        }
    }
    dir
}

fn refusal(dir: &TempDir) -> String {
    Gguf::open(name(dir.path(), 1)).unwrap_err().to_string()
}

#[test]
fn the_first_part_opens_all() {
    let dir = split(|_, writer| Some(writer));
    let gguf = Gguf::open(name(dir.path(), 1)).unwrap();
    assert_eq!(gguf.get_str("general.name").unwrap(), Some("whole"));
    assert_eq!(gguf.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["t0", "t1", "t2"]);
    let last = gguf.bytes(gguf.tensor("t2").unwrap());
    assert_eq!(last, [2.0f32.to_le_bytes(), 0.5f32.to_le_bytes()].concat());
    assert_eq!(gguf.files().count(), 3);
}

#[test]
fn missing_parts_are_named() {
    let dir = split(|number, writer| (number == 0).then_some(writer));
    let error = refusal(&dir);
    assert!(error.contains("split into 3 files, of which are missing"), "{error}");
    assert!(
        error.contains("model-00002-of-00003.gguf") && error.contains("model-00003-of-00003.gguf"),
        "{error}"
    );
}

#[test]
fn a_later_part_names_the_first() {
    let dir = split(|_, writer| Some(writer));
    let error = Gguf::open(name(dir.path(), 2)).unwrap_err().to_string();
    assert!(
        error.contains("part 2 of a model split into 3") && error.contains("model-00001-of-00003.gguf"),
        "{error}"
    );
}

#[test]
fn a_part_with_another_number_is_refused() {
    let dir = split(|number, writer| Some(if number == 2 { part(1, 3) } else { writer }));
    assert!(refusal(&dir).contains("expected part 3 of 3 (split.no 2), but its split.no is 1"));
}

#[test]
fn a_part_of_another_split_is_refused() {
    let dir = split(|number, writer| Some(if number == 2 { part(2, 4) } else { writer }));
    assert!(refusal(&dir).contains("its split.count is 4"));
}

#[test]
fn a_part_that_is_no_part_is_refused() {
    let dir = split(|number, writer| Some(if number == 1 { GgufWriter::new() } else { writer }));
    assert!(refusal(&dir).contains("its split.no is absent"));
}

#[test]
fn the_number_of_tensors_must_agree() {
    let dir = split(|number, writer| {
        Some(if number == 2 { writer.tensor_f32("extra", &[1], &[0.0]) } else { writer })
    });
    assert!(refusal(&dir).contains("split.tensors.count says 3 but the 3 parts hold 4 tensors"));
}

#[test]
fn a_tensor_in_two_parts_is_refused() {
    let dir = split(|number, writer| {
        Some(if number == 2 {
            GgufWriter::new().meta("split.no", Meta::U16(2)).meta("split.count", Meta::U16(3)).tensor_f32(
                "t1",
                &[1],
                &[0.0],
            )
        } else {
            writer
        })
    });
    let error = refusal(&dir);
    assert!(
        error.contains("00003-of-00003.gguf: tensor `t1`") && error.contains("duplicate name"),
        "{error}"
    );
}

#[test]
fn a_renamed_part_names_the_expected_name() {
    let dir = split(|_, writer| Some(writer));
    let renamed = dir.path().join("model.gguf");
    std::fs::rename(name(dir.path(), 1), &renamed).unwrap();
    let error = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("must end with -00001-of-00003.gguf"), "{error}");
}
