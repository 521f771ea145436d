//! An in-memory file system with injectable faults, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::file_system::{FileMeta, FileSystem};

/// The method of [`FileSystem`] about to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the verb of the same name")]
pub enum Verb {
    Read,
    Write,
    Rename,
    Remove,
    List,
    Meta,
    Touch,
    CreateFolders,
}

/// An injected fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// The method does nothing and fails.
    Fails(io::ErrorKind),
    /// A write keeps only this many bytes and reports success, as after a power cut.
    Tears(usize),
}

type Rule = Box<dyn FnMut(Verb, &Path) -> Option<Injected> + Send>;

#[derive(Debug, Clone)]
struct RamFile {
    bytes: Vec<u8>,
    modified: SystemTime,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, RamFile>,
    folders: BTreeSet<PathBuf>,
    rule: Option<Rule>,
}

/// Files in memory. As on disk, a file can only be created in an existing folder.
#[derive(Default)]
pub struct RamFileSystem {
    state: Mutex<State>,
}

impl RamFileSystem {
    /// Calls `rule` before every method from now on to decide whether it fails.
    pub fn inject(&self, rule: impl FnMut(Verb, &Path) -> Option<Injected> + Send + 'static) {
        self.state().rule = Some(Box::new(rule));
    }

    /// Removes the fault rule.
    pub fn heal(&self) {
        self.state().rule = None;
    }

    /// Every file below `folder`, in order of their names.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        self.state().files.keys().filter(|path| path.starts_with(folder)).cloned().collect()
    }

    /// Changes a file's bytes without calling the rule; creates it if missing.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let new = || RamFile { bytes: Vec::new(), modified: SystemTime::UNIX_EPOCH };
        change(&mut state.files.entry(path.to_path_buf()).or_insert_with(new).bytes);
    }

    /// Removes a folder with everything in it.
    pub fn remove_folder(&self, folder: &Path) {
        let mut state = self.state();
        state.files.retain(|path, _| !path.starts_with(folder));
        state.folders.retain(|path| !path.starts_with(folder));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, verb: Verb, path: &Path) -> io::Result<(MutexGuard<'_, State>, Option<usize>)> {
        let mut state = self.state();
        match state.rule.as_mut().and_then(|rule| rule(verb, path)) {
            Some(Injected::Fails(kind)) => Err(kind.into()),
            Some(Injected::Tears(bytes)) => Ok((state, Some(bytes))),
            None => Ok((state, None)),
        }
    }
}

fn missing<T>(found: Option<T>) -> io::Result<T> {
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn parent_exists(state: &State, path: &Path) -> io::Result<()> {
    missing(path.parent().filter(|parent| state.folders.contains(*parent)).map(|_| ()))
}

impl FileSystem for RamFileSystem {
    fn read(&self, path: &Path, head: &mut [u8], body: &mut [u8]) -> io::Result<u64> {
        let (state, _) = self.enter(Verb::Read, path)?;
        let bytes = &missing(state.files.get(path))?.bytes;
        let in_head = bytes.len().min(head.len());
        head[..in_head].copy_from_slice(&bytes[..in_head]);
        let rest = &bytes[in_head..];
        let in_body = rest.len().min(body.len());
        body[..in_body].copy_from_slice(&rest[..in_body]);
        Ok(bytes.len() as u64)
    }

    fn write(&self, path: &Path, head: &[u8], body: &[u8]) -> io::Result<()> {
        let (mut state, torn) = self.enter(Verb::Write, path)?;
        parent_exists(&state, path)?;
        if state.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut bytes = [head, body].concat();
        bytes.truncate(torn.unwrap_or(usize::MAX));
        state.files.insert(path.to_path_buf(), RamFile { bytes, modified: SystemTime::UNIX_EPOCH });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Verb::Rename, from)?;
        parent_exists(&state, to)?;
        let file = missing(state.files.remove(from))?;
        state.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Verb::Remove, path)?;
        missing(state.files.remove(path)).map(|_| ())
    }

    fn list(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()> {
        let (state, _) = self.enter(Verb::List, folder)?;
        missing(state.folders.get(folder))?;
        let inside = |path: &&PathBuf| path.parent() == Some(folder);
        let names = state.files.keys().filter(inside).chain(state.folders.iter().filter(inside));
        names.filter_map(|path| path.file_name()).for_each(|name| each(&name.to_string_lossy()));
        Ok(())
    }

    fn meta(&self, path: &Path) -> io::Result<FileMeta> {
        let (state, _) = self.enter(Verb::Meta, path)?;
        if state.folders.contains(path) {
            return Ok(FileMeta { bytes: 0, modified: SystemTime::UNIX_EPOCH });
        }
        let file = missing(state.files.get(path))?;
        Ok(FileMeta { bytes: file.bytes.len() as u64, modified: file.modified })
    }

    fn touch(&self, path: &Path, to: SystemTime) -> io::Result<()> {
        let (mut state, _) = self.enter(Verb::Touch, path)?;
        missing(state.files.get_mut(path))?.modified = to;
        Ok(())
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Verb::CreateFolders, path)?;
        state.folders.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }
}
