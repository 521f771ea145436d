//! The step loop does no file work: every file of the data folder is read and written by other threads.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use common::{Fixture, collect, request};
use foretoken_cache::disk::file_system::{FileMeta, FileSystem, RealFileSystem};
use foretoken_engine::Request;

/// The machine's file system, which notes the names of threads that read or change files.
#[derive(Default)]
struct Watched {
    armed: AtomicBool,
    threads: Mutex<BTreeSet<String>>,
}

impl Watched {
    fn note(&self) {
        if self.armed.load(Relaxed) {
            let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
            self.threads.lock().unwrap().insert(name);
        }
    }
}

impl FileSystem for Watched {
    fn read(&self, path: &Path, head: &mut [u8], body: &mut [u8]) -> io::Result<u64> {
        self.note();
        RealFileSystem.read(path, head, body)
    }

    fn write(&self, path: &Path, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.note();
        RealFileSystem.write(path, head, body)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note();
        RealFileSystem.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note();
        RealFileSystem.remove(path)
    }

    fn list(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()> {
        self.note();
        RealFileSystem.list(folder, each)
    }

    /// Not noted: whether a block is on disk that is not listed yet is asked for at each lookup.
    fn meta(&self, path: &Path) -> io::Result<FileMeta> {
        RealFileSystem.meta(path)
    }

    fn touch(&self, path: &Path, to: SystemTime) -> io::Result<()> {
        self.note();
        RealFileSystem.touch(path, to)
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        self.note();
        RealFileSystem.create_folders(path)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn more_tenants_than_memory_holds_are_served_without_file_work_on_the_step_loop() {
    let fixture = Fixture::load();
    let dir = tempfile::tempdir().unwrap();
    let watched = Arc::new(Watched::default());
    let drafts = dir.path().join("drafts");
    let budget = 64 << 10;
    for round in 0..2 {
        let engine = fixture.start(|config| {
            config.file_system = watched.clone();
            config.disk = Some((dir.path().join("blocks"), 1 << 30));
            config.drafts = Some((drafts.clone(), budget));
        });
        // Until the first answer the engine reads what was stored.
        collect(engine.submit(request([1, 2, 3], 1, 1)).unwrap());
        watched.armed.store(true, Relaxed);
        for tenant in 0..100 {
            let asked =
                Request { tenant: format!("tenant {tenant}"), ..request((0..70).map(|t| t % 250), 8, 1) };
            collect(engine.submit(asked).unwrap());
        }
        engine.flush_cache();
        watched.armed.store(false, Relaxed);
        // An idle engine measures its cost curve and writes it, so files change until it is gone.
        engine.stop();
        let bytes: u64 = files(&drafts).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!((1..=budget).contains(&bytes), "{bytes} bytes of drafts in round {round}");
    }
    let threads = watched.threads.lock().unwrap();
    assert!(threads.contains("draft-files") && threads.contains("cache-writer"), "{threads:?}");
    assert!(!threads.contains("engine"), "{threads:?}");
}
