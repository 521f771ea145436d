//! Files from Hugging Face repositories, through the `hf-hub` crate.
//!
//! The crate downloads into its own folder (`hf-partial`), where an interrupted download is kept and
//! resumed by range requests. A finished file is verified and moved to
//! `hf/owner/repo/revision/file`, where no network is needed to find it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::HfFile;
use super::downloads::{Downloads, Progress, publish};
use super::error::ReferenceError;
use crate::gguf::split_names;

/// Retries after a broken connection, each of which resumes the previous attempt. They are made here because
/// the crate's own (0.4.3) append the whole file to a partial file of an earlier process, and report a
/// successful last attempt as a failure.
const RETRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(300);

pub(super) fn resolve(wanted: &HfFile, downloads: &Downloads) -> Result<PathBuf, ReferenceError> {
    let files = split_names(&wanted.file).unwrap_or_else(|| vec![wanted.file.clone()]);
    for file in files {
        fetch(&HfFile { file, ..wanted.clone() }, downloads)?;
    }
    Ok(place(wanted, downloads))
}

fn place(wanted: &HfFile, downloads: &Downloads) -> PathBuf {
    let HfFile { owner, repo, revision, file } = wanted;
    downloads.dir.join("hf").join(owner).join(repo).join(revision).join(file)
}

fn fetch(wanted: &HfFile, downloads: &Downloads) -> Result<(), ReferenceError> {
    let path = place(wanted, downloads);
    if path.exists() {
        return Ok(());
    }
    let reference = wanted.to_string();
    // One lock per repository: the crate's folder is per repository, and is removed at the end.
    let _lock = downloads.lock(&format!("hf:{}/{}", wanted.owner, wanted.repo))?;
    if path.exists() {
        return Ok(());
    }
    let cache = downloads.dir.join("hf-partial");
    let failed = |error| failure(&reference, &cache, error);
    let repo = open_repo(wanted, downloads, &cache).map_err(failed)?;
    let pointer = download(&repo, wanted, downloads, &cache).map_err(failed)?;
    let blob = pointer.canonicalize().map_err(ReferenceError::io(&pointer, "find"))?;
    let sha256 = blob.file_name().and_then(|name| name.to_str()).filter(|name| is_sha256(name));
    publish(&reference, &blob, &path, sha256)?;
    let folder = partial_folder(wanted, &cache);
    fs::remove_dir_all(&folder).map_err(ReferenceError::io(&folder, "delete"))
}

fn open_repo(wanted: &HfFile, downloads: &Downloads, cache: &Path) -> Result<ApiRepo, ApiError> {
    let mut builder =
        ApiBuilder::from_cache(Cache::new(cache.to_path_buf())).with_token(downloads.hf_token.clone());
    if let Some(endpoint) = &downloads.hf_endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let id = format!("{}/{}", wanted.owner, wanted.repo);
    Ok(builder.build()?.repo(Repo::with_revision(id, RepoType::Model, wanted.revision.clone())))
}

fn download(
    repo: &ApiRepo,
    wanted: &HfFile,
    downloads: &Downloads,
    cache: &Path,
) -> Result<PathBuf, ApiError> {
    let mut retries = 0;
    loop {
        match repo.download_with_progress(&wanted.file, Told::new(&downloads.progress)) {
            Err(error) if retries < RETRIES && is_stale(&error) => {
                fs::remove_dir_all(partial_folder(wanted, cache))?;
            }
            Err(error) if retries < RETRIES && is_broken(&error) => {
                std::thread::sleep(RETRY_PAUSE * (retries + 1));
            }
            other => return other,
        }
        retries += 1;
    }
}

/// Whether a partial file cannot be resumed: it is longer than the file, or complete already.
fn is_stale(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || status(error) == Some(416)
}

/// Whether the error is a broken connection.
fn is_broken(error: &ApiError) -> bool {
    matches!(error, ApiError::IoError(error) if !is_full(error))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The crate's name for a repository's folder.
fn partial_folder(wanted: &HfFile, cache: &Path) -> PathBuf {
    cache.join(format!("models--{}--{}", wanted.owner, wanted.repo))
}

/// The entity tag of a file in large-file storage is its sha256, and the crate names the file by it.
fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::Status(status, _) => Some(status),
            ureq::Error::Transport(_) => None,
        },
        _ => None,
    }
}

fn failure(reference: &str, cache: &Path, error: ApiError) -> ReferenceError {
    let error = match error {
        ApiError::IoError(source) if is_full(&source) => {
            return ReferenceError::io(cache, "write to")(source);
        }
        other => other,
    };
    let advice = match status(&error) {
        Some(401 | 403) => "set HF_TOKEN to a token that may read the repository",
        Some(404) => "check the owner, repository, revision and file",
        Some(_) => "try again later",
        None => "check the network connection and HF_ENDPOINT; what was downloaded is kept and continued",
    };
    ReferenceError::Hf { reference: reference.to_owned(), message: error.to_string(), advice }
}

/// Forwards the crate's progress.
struct Told {
    progress: Arc<dyn Progress>,
    bytes: u64,
}

impl Told {
    fn new(progress: &Arc<dyn Progress>) -> Self {
        Told { progress: Arc::clone(progress), bytes: 0 }
    }
}

impl hf_hub::api::Progress for Told {
    fn init(&mut self, size: usize, filename: &str) {
        self.bytes = 0;
        self.progress.start(filename, Some(size as u64));
    }

    fn update(&mut self, size: usize) {
        self.bytes += size as u64;
        self.progress.at(self.bytes);
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}
