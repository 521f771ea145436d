//! `hf:` references against a mock hub.

use std::sync::Arc;

use foretoken_model::reference::{Downloads, ReferenceError};
use tempfile::TempDir;

use crate::hub::Hub;
use crate::{RecordedProgress, cached, resolve};

fn downloads(hub: &Hub) -> (TempDir, Downloads) {
    let dir = tempfile::tempdir().unwrap();
    let downloads = Downloads { hf_endpoint: Some(hub.endpoint.clone()), ..Downloads::new(dir.path()) };
    (dir, downloads)
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

#[test]
fn a_file_is_fetched_once() {
    let hub = Hub::start().file("/owner/repo/resolve/main/model.gguf", &content(5_000));
    let (_dir, downloads) = downloads(&hub);
    let path = resolve("hf:owner/repo/model.gguf", &downloads).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content(5_000));
    let requests = hub.request_count();
    assert_eq!(resolve("hf:owner/repo/model.gguf", &downloads).unwrap(), path);
    assert_eq!(hub.request_count(), requests);
}

#[test]
fn a_revision_and_folders_are_part_of_the_address() {
    let hub = Hub::start().file("/owner/repo/resolve/v2/q4/model.gguf", b"two");
    let (_dir, downloads) = downloads(&hub);
    let path = resolve("hf:owner/repo@v2/q4/model.gguf", &downloads).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"two");
    assert_eq!(cached(&downloads), ["hf:owner/repo@v2/q4/model.gguf"]);
}

#[test]
fn a_download_resumes_after_a_broken_connection() {
    let hub = Hub::start().file("/o/r/resolve/main/m.gguf", &content(10_000)).truncating(&[4_000]);
    let (_dir, downloads) = downloads(&hub);
    let path = resolve("hf:o/r/m.gguf", &downloads).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content(10_000));
    assert_eq!(hub.ranges(), ["bytes=0-", "bytes=4000-"]);
}

#[test]
fn a_failed_download_is_resumed_by_the_next() {
    let hub = Hub::start().file("/o/r/resolve/main/m.gguf", &content(10_000)).truncating(&[1_000; 4]);
    let (_dir, downloads) = downloads(&hub);
    let error = resolve("hf:o/r/m.gguf", &downloads).unwrap_err().to_string();
    assert!(error.contains("is kept and continued"), "{error}");
    assert_eq!(cached(&downloads), [""; 0]);
    let path = resolve("hf:o/r/m.gguf", &downloads).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content(10_000));
    assert_eq!(hub.ranges().last().unwrap(), "bytes=4000-");
}

#[test]
fn a_partial_file_that_cannot_be_resumed_is_downloaded_again() {
    let hub = Hub::start().file("/o/r/resolve/main/m.gguf", &content(10_000));
    let (_dir, downloads) = downloads(&hub);
    let blobs = downloads.dir.join("hf-partial/models--o--r/blobs");
    for left in [10_000, 10_001] {
        std::fs::create_dir_all(&blobs).unwrap();
        let part = blobs.join(crate::hub::sha256(&content(10_000))).with_extension("part");
        std::fs::write(part, vec![0; left]).unwrap();
        let path = resolve("hf:o/r/m.gguf", &downloads).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content(10_000));
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_file_with_the_wrong_checksum_is_deleted() {
    let hub = Hub::start().tagged("/o/r/resolve/main/m.gguf", b"tampered", &crate::hub::sha256(b"original"));
    let (_dir, downloads) = downloads(&hub);
    let error = resolve("hf:o/r/m.gguf", &downloads).unwrap_err();
    assert!(
        matches!(&error, ReferenceError::Checksum { found, .. } if *found == crate::hub::sha256(b"tampered"))
    );
    assert_eq!(cached(&downloads), [""; 0]);
}

#[test]
fn a_file_with_the_wrong_checksum_can_be_downloaded_again() {
    let path = "/o/r/resolve/main/m.gguf";
    let hub = Hub::start().tagged(path, b"tampered", &crate::hub::sha256(b"original"));
    let (_dir, downloads) = downloads(&hub);
    resolve("hf:o/r/m.gguf", &downloads).unwrap_err();
    let _hub = hub.file(path, b"original");
    assert_eq!(std::fs::read(resolve("hf:o/r/m.gguf", &downloads).unwrap()).unwrap(), b"original");
}

#[test]
fn a_file_that_does_not_exist_says_what_to_check() {
    let hub = Hub::start();
    let (_dir, downloads) = downloads(&hub);
    let error = resolve("hf:o/r/m.gguf", &downloads).unwrap_err().to_string();
    assert!(error.starts_with("cannot fetch hf:o/r/m.gguf") && error.contains("404"), "{error}");
    assert!(error.contains("check the owner, repository, revision and file"), "{error}");
}

#[test]
fn an_unreachable_hub_says_what_to_check() {
    let dir = tempfile::tempdir().unwrap();
    let downloads =
        Downloads { hf_endpoint: Some("http://127.0.0.1:1".to_owned()), ..Downloads::new(dir.path()) };
    let error = resolve("hf:o/r/m.gguf", &downloads).unwrap_err().to_string();
    assert!(error.contains("check the network connection"), "{error}");
}

#[test]
fn all_files_of_a_split_model_are_fetched() {
    let name = |n| format!("/o/r/resolve/main/m-0000{n}-of-00003.gguf");
    let hub = (1..=3).fold(Hub::start(), |hub, n| hub.file(&name(n), format!("part {n}").as_bytes()));
    let (_dir, downloads) = downloads(&hub);
    let first = resolve("hf:o/r/m-00001-of-00003.gguf", &downloads).unwrap();
    let last = first.with_file_name("m-00003-of-00003.gguf");
    assert_eq!(std::fs::read(last).unwrap(), b"part 3");
}

#[test]
fn progress_ends_at_the_size_of_the_file() {
    let hub = Hub::start().file("/o/r/resolve/main/m.gguf", &content(10_000)).truncating(&[4_000]);
    let (_dir, mut downloads) = downloads(&hub);
    let told = RecordedProgress::log();
    downloads.progress = Arc::<RecordedProgress>::clone(&told);
    resolve("hf:o/r/m.gguf", &downloads).unwrap();
    let lines = told.lines();
    assert_eq!(lines[0], "start m.gguf Some(10000)");
    assert_eq!(lines[lines.len() - 2..], ["at 10000", "finish"]);
}

#[test]
fn concurrent_requests_share_one_download() {
    let hub = Hub::start().file("/o/r/resolve/main/m.gguf", &content(100_000));
    let (_dir, downloads) = downloads(&hub);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(resolve("hf:o/r/m.gguf", &downloads).unwrap().exists()));
        }
    });
    assert_eq!(hub.ranges(), ["bytes=0-"]);
}
