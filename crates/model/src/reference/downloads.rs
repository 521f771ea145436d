//! The cache folder and what all sources share: settings, progress, one download at a time per model, and the
//! last step that makes a file visible.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::error::ReferenceError;

/// Receives the progress of a download. Methods are called from one thread at a time.
pub trait Progress: Send + Sync {
    /// A download starts or restarts: its name, and its size in bytes if known.
    fn start(&self, what: &str, total: Option<u64>);
    /// Bytes downloaded so far.
    fn at(&self, bytes: u64);
    /// The download has ended, successfully or not.
    fn finish(&self);
}

/// Ignores progress.
impl Progress for () {
    fn start(&self, _what: &str, _total: Option<u64>) {}
    fn at(&self, _bytes: u64) {}
    fn finish(&self) {}
}

/// Settings of downloads.
#[derive(Clone)]
pub struct Downloads {
    /// The cache folder; created on demand.
    pub dir: PathBuf,
    /// Another endpoint for `hf:` references: a mirror, or a test server.
    pub hf_endpoint: Option<String>,
    /// The token for gated repositories.
    pub hf_token: Option<String>,
    /// The Python interpreter that has pip.
    pub python: String,
    /// Receiver of progress.
    pub progress: Arc<dyn Progress>,
}

impl Downloads {
    /// Downloads into `dir`, with default settings.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Downloads {
            dir: dir.into(),
            hf_endpoint: None,
            hf_token: None,
            python: "python3".to_owned(),
            progress: Arc::new(()),
        }
    }

    /// Like [`Downloads::new`], with `HF_ENDPOINT` and `HF_TOKEN` taken from the environment as other tools do.
    pub fn from_env(dir: impl Into<PathBuf>) -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Downloads { hf_endpoint: read("HF_ENDPOINT"), hf_token: read("HF_TOKEN"), ..Downloads::new(dir) }
    }

    /// Locks the model's download across threads and processes, until dropped.
    pub(super) fn lock(&self, reference: &str) -> Result<File, ReferenceError> {
        let dir = self.dir.join("locks");
        make_dir(&dir)?;
        let path = dir.join(reference.replace(['/', ':'], "--"));
        let file = File::create(&path).map_err(ReferenceError::io(&path, "create"))?;
        file.lock().map_err(ReferenceError::io(&path, "lock"))?;
        Ok(file)
    }
}

pub(super) fn make_dir(dir: &Path) -> Result<(), ReferenceError> {
    fs::create_dir_all(dir).map_err(ReferenceError::io(dir, "create the folder"))
}

/// Checks the checksum of a finished file, if one is known, then renames it to its final name. A file with a wrong
/// checksum is deleted.
pub(super) fn publish(
    reference: &str,
    partial: &Path,
    path: &Path,
    sha256: Option<&str>,
) -> Result<(), ReferenceError> {
    if let Some(expected) = sha256 {
        let found = sha256_of(partial)?;
        if found != expected {
            fs::remove_file(partial).map_err(ReferenceError::io(partial, "delete"))?;
            let (reference, expected) = (reference.to_owned(), expected.to_owned());
            return Err(ReferenceError::Checksum { reference, expected, found });
        }
    }
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let file = File::open(partial).map_err(ReferenceError::io(partial, "open"))?;
    file.sync_all().map_err(ReferenceError::io(partial, "write"))?;
    fs::rename(partial, path).map_err(ReferenceError::io(path, "rename the finished download to"))
}

fn sha256_of(path: &Path) -> Result<String, ReferenceError> {
    let mut file = File::open(path).map_err(ReferenceError::io(path, "open"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut buffer).map_err(ReferenceError::io(path, "read"))?;
        if len == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..len]);
    }
}
