//! Lists the models in the cache folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::ReferenceError;
use super::{HfFile, ModelRef, PypiFile};

/// Folders between the cache's `hf` folder and a file: owner, repository, revision and some inside it.
const DEPTH_MAX: usize = 8;

/// A model in the cache folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// The reference that resolves to it.
    pub reference: ModelRef,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// All models in the cache folder `dir`, sorted by path. Empty if the folder does not exist.
pub fn cached_models(dir: &Path) -> Result<Vec<CachedModel>, ReferenceError> {
    let mut models = Vec::new();
    for source in ["hf", "pypi"] {
        collect(&dir.join(source), &mut Vec::new(), source, &mut models)?;
    }
    models.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(models)
}

/// Adds the files below `dir` whose path corresponds to a reference; `steps` is the path from the source's folder to `dir`.
fn collect(
    dir: &Path,
    steps: &mut Vec<String>,
    source: &str,
    models: &mut Vec<CachedModel>,
) -> Result<(), ReferenceError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(ReferenceError::io(dir, "read the folder"))?,
    };
    for entry in entries {
        let entry = entry.map_err(ReferenceError::io(dir, "read the folder"))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(ReferenceError::io(&path, "look at"))?;
        steps.push(entry.file_name().to_string_lossy().into_owned());
        if meta.is_dir() && steps.len() <= DEPTH_MAX {
            collect(&path, steps, source, models)?;
        } else if meta.is_file()
            && let Some(reference) = reference(source, steps)
        {
            models.push(CachedModel { reference, path, bytes: meta.len() });
        }
        steps.pop();
    }
    Ok(())
}

fn reference(source: &str, steps: &[String]) -> Option<ModelRef> {
    match (source, steps) {
        ("hf", [owner, repo, revision, file @ ..]) if !file.is_empty() => Some(ModelRef::Hf(HfFile {
            owner: owner.clone(),
            repo: repo.clone(),
            revision: revision.clone(),
            file: file.join("/"),
        })),
        ("pypi", [requirement, file]) => {
            let (package, version) = requirement.split_once("==")?;
            let (package, version) = (package.to_owned(), version.to_owned());
            Some(ModelRef::Pypi(PypiFile { package, version, file: file.clone() }))
        }
        _ => None,
    }
}
