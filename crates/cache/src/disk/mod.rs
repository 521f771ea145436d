//! The disk tier: one file per full block, in 256 folders, named by its key. The file system is the index.
//!
//! A block's life here: [`DiskTier::write`] puts it in a bounded queue (or says why not); the **writer**'s
//! thread writes it under a temporary name and renames it; the **reader** checks everything that the
//! [header](crate::format) says before it seals what it read; what is bad goes to **quarantine**. The
//! **lister** learns at start-up, on its own thread, which names exist; until it is done a lookup asks the file
//! system instead, and so it does for a name that is not known, since another server may share the folder. The
//! **reclaimer** keeps the folder within its bytes, and **verify** checks all of it on demand.
//!
//! Nothing is synced to the platter: after a power cut a file may be torn, its checksum says so, and the block
//! is computed again. That costs a block; syncing would cost every block.
//!
//! What `entries` lists of a folder and what is kept for pins stands in **entries**.
//!
//! The invariant: only bytes whose header and payload checksums, fingerprint, place and token ids were all
//! checked in this very read are served. No verb returns an error: what fails is counted as a
//! [`Fault`], logged once, and is a miss.

mod entries;
pub mod fs;
mod index;
mod lister;
mod quarantine;
pub mod ram;
mod reader;
mod reclaimer;
mod siblings;
mod verify;
mod writer;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use crate::clock::Clock;
use crate::cost::RecomputeCost;
use crate::faults::{Fault, Faults};
use crate::format::HEADER_BYTES;
use crate::keys::BlockKey;
use crate::pool::SealedBlock;
use crate::stats::{Counter, Latency, LatencySnapshot};

pub use entries::DiskEntry;
use fs::FileSystem;
use index::Index;
pub use verify::VerifyReport;
use writer::Job;

/// Where the tier keeps its files and how much it may use.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// The folder; made if it is not there. Several servers may share it.
    pub folder: PathBuf,
    /// Bytes of all files together that this process knows of. Exceeded for a moment by what is being written.
    pub budget_bytes: u64,
    /// Blocks that may wait to be written. They stay in memory while they wait.
    pub queue_blocks: usize,
    /// By what the reclaimer weighs blocks.
    pub cost: RecomputeCost,
    /// Tells this process' temporary names from those of others on the folder: any random number.
    pub instance: u64,
}

impl DiskConfig {
    /// The usual queue of 32 blocks, and a random instance number.
    pub fn new(folder: impl Into<PathBuf>, budget_bytes: u64) -> Self {
        let instance = RandomState::new().hash_one(std::process::id());
        Self {
            folder: folder.into(),
            budget_bytes,
            queue_blocks: 32,
            cost: RecomputeCost::default(),
            instance,
        }
    }
}

/// What became of a block that was offered for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It will be written, unless the store fails.
    Queued,
    /// It is there already.
    Present,
    /// Too many blocks wait; this one is not written.
    QueueFull,
    /// It is not a full block.
    Unfilled,
}

/// A copy of the tier's figures.
#[derive(Debug, Clone, Default)]
pub struct DiskStats {
    /// Files known.
    pub blocks: usize,
    /// Bytes of the files known.
    pub bytes: u64,
    /// Whether the lister has seen every name.
    pub listed: bool,
    /// Blocks waiting to be written.
    pub waiting: u64,
    /// Blocks written.
    pub written: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Blocks read and found good.
    pub read: u64,
    /// Bytes read and found good.
    pub read_bytes: u64,
    /// Blocks not written because too many were waiting.
    pub dropped_queue_full: u64,
    /// Blocks not written because the store had just failed.
    pub dropped_paused: u64,
    /// Blocks whose writing failed.
    pub dropped_failed: u64,
    /// Files removed to stay within the budget.
    pub evicted: u64,
    /// Files moved away because they were bad.
    pub quarantined: u64,
    /// Files that someone had removed.
    pub cleared: u64,
    /// How long the file that was used least lately has not been used.
    pub oldest: Option<Duration>,
    /// Seconds per block read, checks included.
    pub read_latency: LatencySnapshot,
    /// Seconds per block written.
    pub write_latency: LatencySnapshot,
    /// What went wrong, how often.
    pub faults: Vec<(Fault, u64)>,
}

#[derive(Default)]
struct Counters {
    waiting: AtomicU64,
    written: Counter,
    written_bytes: Counter,
    read: Counter,
    read_bytes: Counter,
    dropped_queue_full: Counter,
    dropped_paused: Counter,
    dropped_failed: Counter,
    evicted: Counter,
    quarantined: Counter,
    cleared: Counter,
    read_latency: Latency,
    write_latency: Latency,
}

/// What all duties share.
struct Shared {
    config: DiskConfig,
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    /// Time of day when the tier was opened, and what the clock's steady reading was. From then on only the
    /// latter counts, so a clock that is set back does not turn the order of use around.
    opened: (Duration, Duration),
    faults: Faults,
    counters: Counters,
    index: Mutex<Index>,
    listed: Condvar,
    reclaiming: Mutex<()>,
    quarantine_names: AtomicU64,
    closing: AtomicBool,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, as time since 1970, never going back.
    fn now(&self) -> Duration {
        self.opened.0 + self.clock.elapsed().saturating_sub(self.opened.1)
    }

    fn fan_out(&self, first: u8) -> PathBuf {
        self.config.folder.join(format!("{first:02x}"))
    }

    fn path(&self, key: &BlockKey) -> PathBuf {
        self.fan_out(key.as_bytes()[0]).join(key.to_string())
    }
}

/// See the [module](self). Dropping it writes what is queued and ends its threads.
pub struct DiskTier {
    shared: Arc<Shared>,
    queue: Option<SyncSender<Job>>,
    stop_lister: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskTier {
    /// Opens the tier and returns at once; names are listed meanwhile. A folder that cannot be used is counted
    /// like any other fault, and the tier then only misses.
    pub fn open(config: DiskConfig, fs: Arc<dyn FileSystem>, clock: Arc<dyn Clock>) -> Self {
        let wall = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (queue, jobs) = sync_channel(config.queue_blocks);
        let (stop_lister, stopped) = channel();
        let shared = Arc::new(Shared {
            opened: (wall, clock.elapsed()),
            config,
            fs,
            clock,
            faults: Faults::new("disk"),
            counters: Counters::default(),
            index: Mutex::default(),
            listed: Condvar::new(),
            reclaiming: Mutex::default(),
            quarantine_names: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        let (for_writer, for_lister) = (shared.clone(), shared.clone());
        let threads = [
            spawn("cache-writer", move || writer::run(&for_writer, &jobs)),
            spawn("cache-lister", move || lister::run(&for_lister, &stopped)),
        ];
        let threads = threads.into_iter().filter_map(|thread| {
            thread.map_err(|error| shared.faults.record(Fault::Io, &shared.config.folder, &error)).ok()
        });
        let threads = threads.collect();
        Self { shared, queue: Some(queue), stop_lister: Some(stop_lister), threads }
    }

    /// Offers a block for writing. Never waits.
    pub fn write(&self, block: &SealedBlock) -> Enqueued {
        let Some(key) = block.key() else { return Enqueued::Unfilled };
        if self.shared.index().has(&key) {
            return Enqueued::Present;
        }
        let Some(queue) = &self.queue else { return Enqueued::QueueFull };
        self.shared.counters.waiting.fetch_add(1, Ordering::Relaxed);
        match queue.try_send(Job::Write(block.clone())) {
            Ok(()) => Enqueued::Queued,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                self.shared.counters.dropped_queue_full.add(1);
                Enqueued::QueueFull
            }
        }
    }

    /// Waits until everything that is queued now has been written or dropped.
    pub fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(Job::Flush(done)).is_ok());
        if sent {
            // An error means that the writer ended, and then nothing is left to wait for.
            flushed.recv().ok();
        }
    }

    /// Waits until the lister has seen every name once.
    pub fn wait_listed(&self) {
        let mut index = self.shared.index();
        while !index.listed {
            index = self.shared.listed.wait(index).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Seconds per block read, checks included.
    pub fn read_latency(&self) -> LatencySnapshot {
        self.shared.counters.read_latency.snapshot()
    }

    /// The tier's figures now.
    pub fn stats(&self) -> DiskStats {
        let counters = &self.shared.counters;
        let index = self.shared.index();
        DiskStats {
            blocks: index.len(),
            bytes: index.bytes(),
            listed: index.listed,
            waiting: counters.waiting.load(Ordering::Relaxed),
            written: counters.written.get(),
            written_bytes: counters.written_bytes.get(),
            read: counters.read.get(),
            read_bytes: counters.read_bytes.get(),
            dropped_queue_full: counters.dropped_queue_full.get(),
            dropped_paused: counters.dropped_paused.get(),
            dropped_failed: counters.dropped_failed.get(),
            evicted: counters.evicted.get(),
            quarantined: counters.quarantined.get(),
            cleared: counters.cleared.get(),
            oldest: index.oldest().map(|used| self.shared.now().saturating_sub(used)),
            read_latency: counters.read_latency.snapshot(),
            write_latency: counters.write_latency.snapshot(),
            faults: self.shared.faults.snapshot(),
        }
    }
}

impl Drop for DiskTier {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        drop(self.stop_lister.take());
        for thread in self.threads.drain(..) {
            // A panic there was reported by the panic hook; here it changes nothing.
            thread.join().ok();
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

/// Bytes of the file of a block with this many payload bytes.
fn file_bytes(payload_bytes: usize) -> u64 {
    (HEADER_BYTES + payload_bytes) as u64
}
