//! The disk tier: one file per full block, in 256 folders, named by its key. The file system is the index. The windowed
//! part of a block, if its model has one, is a file of its own; nothing here but the header tells the two apart, so the
//! windowed parts that restoring reads outlast those that it does not.
//!
//! The life of a block: [`DiskTier::write`] puts it in a bounded queue (or returns why not); the **writer**'s
//! thread writes it under a temporary name and renames it; the **reader** checks everything that the
//! [header](crate::format) says before it seals what it read; a bad file is moved to **quarantine**. The
//! **lister** reads at start-up, on its own thread, which names exist; until it is done a lookup queries the file
//! system instead, as it does for an unknown name, since another server may share the folder. The
//! **reclaimer** keeps the folder within its budget, and **verify** checks every file on demand.
//!
//! Nothing is fsynced: after a power cut a file may be torn, its checksum shows it, and the block
//! is recomputed. That costs one block; syncing would cost every block.
//!
//! **entries** lists the folder and protects pinned blocks.
//!
//! The invariant: only bytes whose header and payload checksums, fingerprint, place and token ids were all
//! checked in the same read are served. No verb returns an error: a failure is counted as a
//! [`Fault`], logged once, and is a miss.

mod entries;
pub mod file_system;
mod index;
mod lister;
mod quarantine;
pub mod ram_file_system;
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

use crate::block_layout::Part;
use crate::clock::Clock;
use crate::faults::{Fault, Faults};
use crate::format::HEADER_BYTES;
use crate::keys::BlockKey;
use crate::pool::SealedBlock;
use crate::recompute_cost::RecomputeCost;
use crate::stats::{Counter, Latency, LatencySnapshot};

pub use entries::DiskEntry;
use file_system::FileSystem;
use index::Index;
pub use quarantine::quarantine_bytes_max;
pub use verify::VerifyReport;
use writer::Job;

/// The tier's folder and limits.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// The folder; created if missing. Several servers may share it.
    pub folder: PathBuf,
    /// Maximum bytes of all files this process knows of. Exceeded briefly by the block being written.
    pub budget_bytes: u64,
    /// Capacity of the write queue, in blocks. Queued blocks stay in memory.
    pub queue_blocks: usize,
    /// The cost by which the reclaimer ranks blocks.
    pub cost: RecomputeCost,
    /// A random number that tells this process's temporary names from those of others.
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

/// The result of queueing a block for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It will be written, unless the disk fails.
    Queued,
    /// It is on disk already.
    Present,
    /// The queue is full; it is not written.
    QueueFull,
    /// It is not a full block, or lacks the part.
    Unfilled,
}

/// A snapshot of the tier's counters.
#[derive(Debug, Clone, Default)]
pub struct DiskStats {
    /// Files known.
    pub blocks: usize,
    /// Bytes of the files known.
    pub bytes: u64,
    /// Whether the lister has read every name.
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
    /// Blocks not written because the queue was full.
    pub dropped_queue_full: u64,
    /// Blocks not written because the disk had just failed.
    pub dropped_paused: u64,
    /// Blocks whose writing failed.
    pub dropped_failed: u64,
    /// Files removed to stay within the budget.
    pub evicted: u64,
    /// Bad files moved to quarantine.
    pub quarantined: u64,
    /// Files removed by [`DiskTier::clear`].
    pub cleared: u64,
    /// Idle time of the least recently used file.
    pub oldest: Option<Duration>,
    /// Seconds per block read, checks included.
    pub read_latency: LatencySnapshot,
    /// Seconds per block written.
    pub write_latency: LatencySnapshot,
    /// Faults and their counts.
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

/// State shared by all parts.
struct Shared {
    config: DiskConfig,
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    /// Wall-clock and monotonic time when the tier was opened. From then on only the
    /// latter is used, so a clock that is set back does not reverse the order of use.
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

    /// Now, as time since 1970; monotonic.
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
    /// Opens the tier and returns at once; names are listed in the background. An unusable folder is counted
    /// as a fault, and every lookup then misses.
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

    /// Queues a block's lasting part for writing. Never blocks.
    pub fn write(&self, block: &SealedBlock) -> Enqueued {
        self.enqueue(block.without_windowed(), Part::Lasting)
    }

    /// Queues a block's windowed part for writing; [`Enqueued::Unfilled`] if it has none. Never blocks.
    pub fn write_windowed(&self, block: &SealedBlock) -> Enqueued {
        if block.has_windowed() { self.enqueue(block.clone(), Part::Windowed) } else { Enqueued::Unfilled }
    }

    fn enqueue(&self, block: SealedBlock, part: Part) -> Enqueued {
        let Some(key) = block.key() else { return Enqueued::Unfilled };
        if self.shared.index().has(&part.key(key)) {
            return Enqueued::Present;
        }
        let Some(queue) = &self.queue else { return Enqueued::QueueFull };
        self.shared.counters.waiting.fetch_add(1, Ordering::Relaxed);
        match queue.try_send(Job::Write(block, part)) {
            Ok(()) => Enqueued::Queued,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                self.shared.counters.dropped_queue_full.add(1);
                Enqueued::QueueFull
            }
        }
    }

    /// Blocks until everything queued so far has been written or dropped.
    pub fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(Job::Flush(done)).is_ok());
        if sent {
            // An error means that the writer ended; then nothing is left to wait for.
            flushed.recv().ok();
        }
    }

    /// Blocks until the lister has read every name once.
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

    /// A snapshot of the tier's counters.
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
