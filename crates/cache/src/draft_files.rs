//! What drafters learnt, on disk: a successor table per tenant and a cost curve per machine, in a folder per model.
//!
//! One thread does all the file work behind a bounded queue: [`load`](DraftFiles::load), [`save`](DraftFiles::save) and
//! [`write`](DraftFiles::write) only queue, and what does not fit in the queue is dropped and counted. The files of
//! all models together stay within a budget: the least recently used are removed first. The invariant: no method
//! that the step loop calls touches the file system or waits for it.
//!
//! Not for what is in a file: a table checks its own bytes, and a file that is torn, foreign or absent is learnt again.

mod folder;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::clock::Clock;
use crate::disk::file_system::FileSystem;
use crate::faults::{Fault, Faults};
use crate::keys::{Fingerprint, ScopeId};
use crate::successor_table::SuccessorTable;
use folder::Folder;

pub use folder::clear_draft_files;

/// The folder of the drafters' files and its limits.
#[derive(Debug, Clone)]
pub struct DraftFilesConfig {
    /// The folder of all models; created if missing.
    pub folder: PathBuf,
    /// Maximum bytes of all files in it.
    pub budget_bytes: u64,
    /// Maximum contexts of a table that is read.
    pub contexts: usize,
    /// Capacity of the queue.
    pub queue: usize,
}

impl DraftFilesConfig {
    /// A queue of 256 jobs, and tables of 65,536 contexts.
    pub fn new(folder: impl Into<PathBuf>, budget_bytes: u64) -> Self {
        Self { folder: folder.into(), budget_bytes, contexts: 1 << 16, queue: 256 }
    }
}

/// A snapshot of the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftFilesStats {
    /// Files of all models.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Maximum bytes.
    pub budget_bytes: u64,
    /// Files written.
    pub written: u64,
    /// Files removed to stay within the budget.
    pub evicted: u64,
    /// Reads and writes not done because the queue was full.
    pub dropped_queue_full: u64,
    /// Reads and writes that failed.
    pub failed: u64,
}

#[derive(Default)]
struct Counters {
    files: AtomicU64,
    bytes: AtomicU64,
    written: AtomicU64,
    evicted: AtomicU64,
    dropped_queue_full: AtomicU64,
    failed: AtomicU64,
}

type Loaded = Box<dyn FnOnce(Option<SuccessorTable>) + Send>;
type Take = Box<dyn FnOnce() -> SuccessorTable + Send>;

enum Job {
    Load(ScopeId, Loaded),
    Save(ScopeId, Take),
    Write(String, Vec<u8>),
    /// Acknowledged once everything before it is done.
    Clear(Option<ScopeId>, SyncSender<()>),
    Flush(SyncSender<()>),
}

/// See the [module](self). Dropping it writes what is queued.
pub struct DraftFiles {
    config: DraftFilesConfig,
    model_folder: PathBuf,
    fs: Arc<dyn FileSystem>,
    counters: Arc<Counters>,
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for DraftFiles {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DraftFiles").field("folder", &self.model_folder).finish_non_exhaustive()
    }
}

impl DraftFiles {
    /// Opens the folder for models with this fingerprint and returns at once; the files are listed in the background.
    /// An unusable folder is counted as a fault, and every load then finds nothing.
    pub fn open(
        config: DraftFilesConfig,
        model: Fingerprint,
        fs: Arc<dyn FileSystem>,
        clock: Arc<dyn Clock>,
    ) -> DraftFiles {
        let model_folder = config.folder.join(&model.to_string()[..16]);
        let counters = Arc::new(Counters::default());
        let (queue, jobs) = sync_channel(config.queue.max(1));
        let task = Task {
            folder: Folder::new(config.folder.clone(), Arc::clone(&fs), clock),
            model_folder: model_folder.clone(),
            config: config.clone(),
            counters: Arc::clone(&counters),
            faults: Faults::new("drafts"),
        };
        let thread = std::thread::Builder::new().name("draft-files".into()).spawn(move || task.run(&jobs));
        // Without a thread the receiver is dropped and every job counts as dropped.
        DraftFiles { config, model_folder, fs, counters, queue: Some(queue), thread: thread.ok() }
    }

    /// Reads a tenant's table in the background and passes it, or `None`, to `then` on that thread. Never blocks; false
    /// if the queue is full.
    pub fn load(&self, scope: ScopeId, then: impl FnOnce(Option<SuccessorTable>) + Send + 'static) -> bool {
        self.try_send(Job::Load(scope, Box::new(then)))
    }

    /// Writes a tenant's table in the background; `take` is called on that thread. Never blocks; false if the queue is
    /// full.
    pub fn save(&self, scope: ScopeId, take: impl FnOnce() -> SuccessorTable + Send + 'static) -> bool {
        self.try_send(Job::Save(scope, Box::new(take)))
    }

    /// Writes a file of the model in the background. Never blocks; false if the queue is full.
    pub fn write(&self, name: &str, bytes: Vec<u8>) -> bool {
        self.try_send(Job::Write(name.to_owned(), bytes))
    }

    /// Reads a file of the model on the caller's thread: for start-up only.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        folder::read(&*self.fs, &self.model_folder.join(name)).ok().flatten()
    }

    /// Removes the tables of a scope, or all, those still queued included. Blocks until done.
    pub fn clear(&self, scope: Option<ScopeId>) {
        self.wait_for(|done| Job::Clear(scope, done));
    }

    /// Blocks until everything queued so far is done.
    pub fn flush(&self) {
        self.wait_for(Job::Flush);
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> DraftFilesStats {
        let Counters { files, bytes, written, evicted, dropped_queue_full, failed } = &*self.counters;
        DraftFilesStats {
            files: files.load(Relaxed),
            bytes: bytes.load(Relaxed),
            budget_bytes: self.config.budget_bytes,
            written: written.load(Relaxed),
            evicted: evicted.load(Relaxed),
            dropped_queue_full: dropped_queue_full.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    fn try_send(&self, job: Job) -> bool {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(job).is_ok());
        if !sent {
            self.counters.dropped_queue_full.fetch_add(1, Relaxed);
        }
        sent
    }

    fn wait_for(&self, job: impl FnOnce(SyncSender<()>) -> Job) {
        let (done, waiting) = sync_channel(1);
        if self.queue.as_ref().is_some_and(|queue| queue.send(job(done)).is_ok()) {
            // An error means that the thread ended; then nothing is left to wait for.
            waiting.recv().ok();
        }
    }
}

impl Drop for DraftFiles {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; here it changes nothing.
            thread.join().ok();
        }
    }
}

/// The background thread's state.
struct Task {
    folder: Folder,
    model_folder: PathBuf,
    config: DraftFilesConfig,
    counters: Arc<Counters>,
    faults: Faults,
}

impl Task {
    fn run(mut self, jobs: &Receiver<Job>) {
        self.folder.list();
        self.evict();
        for job in jobs {
            match job {
                Job::Load(scope, then) => then(self.load(scope)),
                Job::Save(scope, take) => self.write(&table_name(scope), &take().to_bytes(scope)),
                Job::Write(name, bytes) => self.write(&name, &bytes),
                Job::Clear(scope, done) => {
                    self.folder.clear(scope);
                    self.publish();
                    done.send(()).ok();
                }
                Job::Flush(done) => {
                    done.send(()).ok();
                }
            }
        }
    }

    fn load(&mut self, scope: ScopeId) -> Option<SuccessorTable> {
        let path = self.model_folder.join(table_name(scope));
        match self.folder.read(&path) {
            Ok(bytes) => {
                let table = SuccessorTable::from_bytes(&bytes?, scope, self.config.contexts);
                if table.is_none() {
                    // Torn, or of another version: it would only take room.
                    self.folder.remove(&path);
                    self.publish();
                }
                table
            }
            Err(error) => {
                self.failed(&path, &error);
                None
            }
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) {
        let path = self.model_folder.join(name);
        match self.folder.write(&path, bytes) {
            Ok(()) => {
                self.counters.written.fetch_add(1, Relaxed);
            }
            Err(error) => self.failed(&path, &error),
        }
        self.evict();
    }

    fn failed(&self, path: &std::path::Path, error: &std::io::Error) {
        self.counters.failed.fetch_add(1, Relaxed);
        self.faults.record(Fault::of(error), path, error);
    }

    fn evict(&mut self) {
        let evicted = self.folder.evict(self.config.budget_bytes);
        self.counters.evicted.fetch_add(evicted, Relaxed);
        self.publish();
    }

    fn publish(&self) {
        let (files, bytes) = self.folder.totals();
        self.counters.files.store(files, Relaxed);
        self.counters.bytes.store(bytes, Relaxed);
    }
}

const TABLE_PREFIX: &str = "successors-";

fn table_name(scope: ScopeId) -> String {
    format!("{TABLE_PREFIX}{scope}")
}

#[cfg(test)]
mod tests;
