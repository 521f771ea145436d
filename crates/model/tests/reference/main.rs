//! Model references: what is fetched, what is refused, and what the cache folder holds afterwards.
#![allow(clippy::unwrap_used)]

mod hf;
mod hub;
mod pypi;

use std::sync::{Arc, Mutex};

use foretoken_model::reference::{Downloads, ModelRef, Progress, ReferenceError, cached_models};

/// Records progress.
#[derive(Default)]
struct RecordedProgress(Mutex<Vec<String>>);

impl Progress for RecordedProgress {
    fn start(&self, what: &str, total: Option<u64>) {
        self.0.lock().unwrap().push(format!("start {what} {total:?}"));
    }

    fn at(&self, bytes: u64) {
        self.0.lock().unwrap().push(format!("at {bytes}"));
    }

    fn finish(&self) {
        self.0.lock().unwrap().push("finish".to_owned());
    }
}

impl RecordedProgress {
    fn log() -> Arc<RecordedProgress> {
        Arc::new(RecordedProgress::default())
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn resolve(reference: &str, downloads: &Downloads) -> Result<std::path::PathBuf, ReferenceError> {
    reference.parse::<ModelRef>().unwrap().resolve(downloads)
}

/// The references of the cached models.
fn cached(downloads: &Downloads) -> Vec<String> {
    cached_models(&downloads.dir).unwrap().iter().map(|model| model.reference.to_string()).collect()
}

#[test]
fn a_path_is_itself() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let downloads = Downloads::new("unused");
    assert_eq!(resolve(file.path().to_str().unwrap(), &downloads).unwrap(), file.path());
}

#[test]
fn a_path_that_does_not_exist_names_the_alternatives() {
    let error = resolve("smollm3", &Downloads::new("unused")).unwrap_err().to_string();
    assert!(error.starts_with("smollm3: no such file") && error.contains("smollm2"), "{error}");
}

#[test]
fn a_cache_folder_that_does_not_exist_holds_no_models() {
    assert_eq!(cached(&Downloads::new("no/such/folder")), [""; 0]);
}
