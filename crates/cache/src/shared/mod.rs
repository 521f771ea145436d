//! The shared tier: the same bytes under the same key in a store that several machines use.
//!
//! The store is an OpenDAL service: a mounted folder always, Redis or Valkey and S3 as cargo features.
//! All of OpenDAL's asynchronous work runs on one background thread with its own small runtime.
//!
//! A store on a network can be slow, unreachable or full, so nothing here waits longer than the timeout, and the
//! first timeout opens a circuit breaker: from then on every read is an immediate miss,
//! while the background thread probes the store with exponential backoff. A request pays for an unreachable
//! store at most once. A store that refuses writes only (it is full) still serves reads.
//!
//! The invariant is the disk tier's: what is served was checked in this very read, and no verb returns an error.

mod store;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::TryStreamExt;
use opendal::{Buffer, ErrorKind, Operator};
use tokio::sync::{Notify, mpsc};

use crate::block_layout::Part;
use crate::clock::Clock;
use crate::disk::Enqueued;
use crate::faults::{Fault, Faults};
use crate::format::{HEADER_BYTES, Header, Wanted};
use crate::keys::BlockKey;
use crate::pool::{OpenBlock, SealedBlock};
use crate::stats::{Counter, Latency, LatencySnapshot};

pub use store::{HIDDEN_PASSWORD, Password, Store, without_password};

/// Concurrent reads, at most.
const READS_MAX: usize = 16;
/// Grace after the timeout before a read is abandoned, should the runtime itself not respond.
const GRACE: Duration = Duration::from_millis(100);
/// The key read to probe the store; need not exist.
const PROBE: &str = "probe";

/// A store and its limits.
#[derive(Debug, Clone)]
pub struct SharedConfig {
    /// Which store.
    pub store: Store,
    /// No single operation takes longer.
    pub timeout: Duration,
    /// Maximum size of an entry, header included.
    pub entry_bytes_max: usize,
    /// Capacity of the write queue, in blocks. Queued blocks stay in memory.
    pub queue_blocks: usize,
    /// First pause after a failure; doubles with each failed probe.
    pub pause_first: Duration,
    /// Maximum pause.
    pub pause_max: Duration,
}

impl SharedConfig {
    /// Half a second per operation, 32 MiB per entry, 32 blocks waiting, pauses of 1 s to 2 min.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            timeout: Duration::from_millis(500),
            entry_bytes_max: 32 << 20,
            queue_blocks: 32,
            pause_first: Duration::from_secs(1),
            pause_max: Duration::from_secs(120),
        }
    }
}

/// A configuration that cannot be used. An unreachable store is not an error.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the shared cache store: {reason}")]
pub struct SharedError {
    reason: String,
}

/// A snapshot of the tier's counters.
#[derive(Debug, Clone, Default)]
pub struct SharedStats {
    /// Whether the circuit breaker is closed.
    pub available: bool,
    /// Blocks requested.
    pub queries: u64,
    /// Blocks read and found good.
    pub read: u64,
    /// Bytes read and found good.
    pub read_bytes: u64,
    /// Blocks written.
    pub written: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Blocks not written because the queue was full.
    pub dropped_queue_full: u64,
    /// Blocks not written because the store had failed.
    pub dropped_paused: u64,
    /// Blocks whose writing failed.
    pub dropped_failed: u64,
    /// How often the circuit breaker opened.
    pub breaker_opened: u64,
    /// Seconds per block read.
    pub read_latency: LatencySnapshot,
    /// Faults and their counts.
    pub faults: Vec<(Fault, u64)>,
}

#[derive(Default)]
struct Counters {
    queries: Counter,
    read: Counter,
    read_bytes: Counter,
    written: Counter,
    written_bytes: Counter,
    dropped_queue_full: Counter,
    dropped_paused: Counter,
    dropped_failed: Counter,
    breaker_opened: Counter,
    read_latency: Latency,
}

enum Job {
    Write(SealedBlock, Part),
    /// For a bad entry, so that it is written again.
    Remove(String),
    Flush(SyncSender<()>),
}

struct Read {
    path: String,
    /// Length that the entry should have.
    bytes: usize,
    /// Receives the entry, or the failure; `None` is a plain miss.
    answer: SyncSender<Result<Buffer, Option<Failure>>>,
}

/// A failure of the store itself.
struct Failure {
    fault: Fault,
    /// What its client says, on one line.
    reason: String,
}

impl Failure {
    /// Longest reason that is logged, in characters.
    const REASON_MAX: usize = 400;

    fn timeout() -> Failure {
        Failure { fault: Fault::Timeout, reason: "no response in time".into() }
    }

    /// A write to a bucket or folder that does not exist.
    fn nowhere() -> Failure {
        Failure { fault: Fault::Io, reason: "there is no such place in the store".into() }
    }

    fn new(error: &opendal::Error) -> Failure {
        let fault = match error.kind() {
            ErrorKind::PermissionDenied => Fault::Denied,
            // Redis's error when its memory is full; OpenDAL has no kind for it.
            _ if error.to_string().contains("OOM") => Fault::NoSpace,
            _ => Fault::Io,
        };
        // Without the context that the client adds: the whole request and response would hide the cause.
        let mut says = format!("{}: {}", error.kind(), error.message());
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            says.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        let reason = says.split_whitespace().collect::<Vec<_>>().join(" ");
        Failure { fault, reason: reason.chars().take(Self::REASON_MAX).collect() }
    }
}

struct Inner {
    config: SharedConfig,
    operator: Operator,
    clock: Arc<dyn Clock>,
    faults: Faults,
    counters: Counters,
    broken: AtomicBool,
    /// Monotonic time in microseconds until which nothing is written.
    writes_paused_until_us: AtomicU64,
    failed: Notify,
    closing: AtomicBool,
}

/// See the [module](self). Dropping it discards the queue.
pub struct SharedTier {
    inner: Arc<Inner>,
    writes: Option<mpsc::Sender<Job>>,
    reads: Option<mpsc::Sender<Read>>,
    thread: Option<JoinHandle<()>>,
}

impl SharedTier {
    /// Sets the tier up without contacting the store.
    ///
    /// # Errors
    /// If the store's client rejects the configuration, or no thread can be started.
    pub fn open(config: SharedConfig, clock: Arc<dyn Clock>) -> Result<Self, SharedError> {
        let operator =
            store::operator(&config.store).map_err(|error| SharedError { reason: error.to_string() })?;
        let io = |error: std::io::Error| SharedError { reason: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let (writes, jobs) = mpsc::channel(config.queue_blocks.max(1));
        let (reads, wanted) = mpsc::channel(READS_MAX);
        let inner = Arc::new(Inner {
            config,
            operator,
            clock,
            faults: Faults::new("shared"),
            counters: Counters::default(),
            broken: AtomicBool::new(false),
            writes_paused_until_us: AtomicU64::new(0),
            failed: Notify::new(),
            closing: AtomicBool::new(false),
        });
        let worker = inner.clone();
        let thread = std::thread::Builder::new().name("cache-shared".into());
        let thread = thread.spawn(move || {
            runtime.block_on(run(&worker, jobs, wanted));
            // A call to an unresponsive file system may never return; it is not waited for.
            runtime.shutdown_background();
        });
        let thread = Some(thread.map_err(io)?);
        Ok(Self { inner, writes: Some(writes), reads: Some(reads), thread })
    }

    /// Whether the circuit breaker is closed. Never blocks.
    pub fn is_available(&self) -> bool {
        !self.inner.broken.load(Ordering::Relaxed)
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
        if block.key().is_none() {
            return Enqueued::Unfilled;
        }
        let sent =
            self.writes.as_ref().is_some_and(|writes| writes.try_send(Job::Write(block, part)).is_ok());
        if sent {
            return Enqueued::Queued;
        }
        self.inner.counters.dropped_queue_full.add(1);
        Enqueued::QueueFull
    }

    /// Reads a block's lasting part into `open` and seals it if it is the expected one. Blocks on the store, no
    /// longer than its timeout; not at all while the breaker is open. Must not be called from an async runtime.
    ///
    /// # Errors
    /// On a miss, for whatever reason, returns the block with undefined content.
    pub fn read(&self, wanted: &Wanted, mut open: OpenBlock) -> Result<SealedBlock, OpenBlock> {
        if !self.read_part(wanted, &mut open) {
            return Err(open);
        }
        Ok(open.seal(&wanted.scope, wanted.place, &wanted.tokens))
    }

    /// Reads a part and checks that it is the expected one; otherwise its content is undefined. As [`read`](Self::read).
    pub(crate) fn read_part(&self, wanted: &Wanted, payload: &mut [u8]) -> bool {
        let inner = &self.inner;
        if !self.is_available() {
            return false;
        }
        inner.counters.queries.add(1);
        let began = inner.clock.elapsed();
        let path = path(&wanted.key);
        let entry = match self.fetch(&path, HEADER_BYTES + payload.len()) {
            Ok(entry) => entry.to_bytes(),
            Err(failure) => {
                if let Some(failure) = failure {
                    inner.fail(&failure, &path);
                }
                return false;
            }
        };
        if let Err(fault) = check(&entry, wanted, payload) {
            inner.faults.record(fault, Path::new(&path), &"bad entry in the shared store");
            if matches!(fault, Fault::Torn | Fault::Corrupt)
                && let Some(writes) = &self.writes
            {
                // If the queue is full it is found bad on the next read.
                writes.try_send(Job::Remove(path)).ok();
            }
            return false;
        }
        inner.counters.read_latency.observe(inner.clock.elapsed().saturating_sub(began));
        inner.counters.read.add(1);
        inner.counters.read_bytes.add(entry.len() as u64);
        true
    }

    fn fetch(&self, path: &str, bytes: usize) -> Result<Buffer, Option<Failure>> {
        let (answer, answered) = sync_channel(1);
        let reads = self.reads.as_ref().ok_or(None)?;
        // Reads beyond the concurrency limit are misses; they say nothing about the store.
        reads.try_send(Read { path: path.to_owned(), bytes, answer }).map_err(|_| None)?;
        let wait = self.inner.config.timeout + GRACE;
        answered.recv_timeout(wait).map_err(|_| Some(Failure::timeout()))?
    }

    /// Blocks until everything queued so far has been written or dropped.
    pub fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        let sent = self.writes.as_ref().is_some_and(|writes| writes.blocking_send(Job::Flush(done)).is_ok());
        if sent {
            // An error means that the thread ended; then nothing is left to wait for.
            flushed.recv().ok();
        }
    }

    /// A snapshot of the tier's counters.
    pub fn stats(&self) -> SharedStats {
        let counters = &self.inner.counters;
        SharedStats {
            available: self.is_available(),
            queries: counters.queries.get(),
            read: counters.read.get(),
            read_bytes: counters.read_bytes.get(),
            written: counters.written.get(),
            written_bytes: counters.written_bytes.get(),
            dropped_queue_full: counters.dropped_queue_full.get(),
            dropped_paused: counters.dropped_paused.get(),
            dropped_failed: counters.dropped_failed.get(),
            breaker_opened: counters.breaker_opened.get(),
            read_latency: counters.read_latency.snapshot(),
            faults: self.inner.faults.snapshot(),
        }
    }
}

impl Drop for SharedTier {
    fn drop(&mut self) {
        self.inner.closing.store(true, Ordering::Relaxed);
        drop(self.writes.take());
        drop(self.reads.take());
        self.inner.failed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; here it changes nothing.
            thread.join().ok();
        }
    }
}

fn path(key: &BlockKey) -> String {
    let name = key.to_string();
    format!("{}/{name}", &name[..2])
}

fn check(entry: &[u8], wanted: &Wanted, payload: &mut [u8]) -> Result<(), Fault> {
    let (head, body) = entry.split_first_chunk::<HEADER_BYTES>().ok_or(Fault::Torn)?;
    let header = Header::decode(head)?;
    header.check(wanted)?;
    if body.len() != payload.len() {
        return Err(Fault::Torn);
    }
    header.check_payload(body)?;
    payload.copy_from_slice(body);
    Ok(())
}

async fn run(inner: &Arc<Inner>, jobs: mpsc::Receiver<Job>, reads: mpsc::Receiver<Read>) {
    let (prober, reader) = (inner.clone(), inner.clone());
    let prober = tokio::spawn(async move { probe(&prober).await });
    let reader = tokio::spawn(async move { serve_reads(&reader, reads).await });
    write_all(inner, jobs).await;
    prober.abort();
    reader.abort();
}

async fn serve_reads(inner: &Arc<Inner>, mut reads: mpsc::Receiver<Read>) {
    while let Some(read) = reads.recv().await {
        let inner = inner.clone();
        tokio::spawn(async move {
            let entry = inner.in_time(read_bounded(&inner.operator, &read.path, read.bytes)).await;
            // The caller may have given up.
            read.answer.send(entry).ok();
        });
    }
}

/// An entry, of which no more is received than shows that it is longer than `bytes`: what answers under the store's
/// address may send without end.
async fn read_bounded(operator: &Operator, path: &str, bytes: usize) -> opendal::Result<Buffer> {
    let mut stream = operator.reader(path).await?.into_stream(..).await?;
    let (mut parts, mut received) = (Vec::new(), 0);
    while received <= bytes
        && let Some(part) = stream.try_next().await?
    {
        received += part.len();
        parts.push(part);
    }
    Ok(parts.into_iter().flatten().collect())
}

async fn write_all(inner: &Inner, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Flush(done) => {
                // The caller may have stopped waiting.
                done.send(()).ok();
            }
            Job::Write(..) if inner.closing.load(Ordering::Relaxed) || inner.writes_paused() => {
                inner.counters.dropped_paused.add(1);
            }
            Job::Write(block, part) => write(inner, block, part).await,
            Job::Remove(path) => {
                // An entry that cannot be removed is found bad on the next read.
                inner.in_time(inner.operator.delete(&path)).await.ok();
            }
        }
    }
}

async fn write(inner: &Inner, block: SealedBlock, part: Part) {
    let (Some(header), Some(payload)) = (Header::of(&block, part), block.part(part)) else { return };
    let path = path(&header.key);
    let bytes = HEADER_BYTES + payload.len();
    if bytes > inner.config.entry_bytes_max {
        inner.counters.dropped_failed.add(1);
        inner.faults.record(
            Fault::TooLarge,
            Path::new(&path),
            &"the block is larger than the limit for an entry",
        );
        return;
    }
    // Another machine may have been first, and its bytes are the same.
    if let Ok(meta) = inner.in_time(inner.operator.stat(&path)).await
        && meta.content_length() == bytes as u64
    {
        return;
    }
    let entry = [&header.encode()[..], payload].concat();
    drop(block);
    match inner.in_time(inner.operator.write(&path, entry)).await {
        Ok(_) => {
            inner.counters.written.add(1);
            inner.counters.written_bytes.add(bytes as u64);
        }
        Err(failure) => {
            inner.counters.dropped_failed.add(1);
            let failure = failure.unwrap_or_else(Failure::nowhere);
            inner.pause_writes();
            if failure.fault == Fault::Timeout {
                inner.fail(&failure, &path);
            } else {
                let what = format_args!("cannot write to the shared store: {}", failure.reason);
                inner.faults.record(failure.fault, Path::new(&path), &what);
            }
        }
    }
}

/// While the breaker is open, probes the store.
async fn probe(inner: &Inner) {
    loop {
        inner.failed.notified().await;
        let mut pause = inner.config.pause_first;
        while inner.broken.load(Ordering::Relaxed) {
            tokio::time::sleep(pause).await;
            match inner.in_time(inner.operator.stat(PROBE)).await {
                Ok(_) | Err(None) => inner.broken.store(false, Ordering::Relaxed),
                Err(Some(_)) => pause = (pause * 2).min(inner.config.pause_max),
            }
        }
    }
}

impl Inner {
    /// An operation's result, or its failure; `Err(None)` if there is no entry.
    async fn in_time<T>(
        &self,
        operation: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T, Option<Failure>> {
        match tokio::time::timeout(self.config.timeout, operation).await {
            Err(_) => Err(Some(Failure::timeout())),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Err(None),
            Ok(Err(error)) => Err(Some(Failure::new(&error))),
        }
    }

    /// Counts a failure of the store itself and opens the breaker.
    fn fail(&self, failure: &Failure, path: &str) {
        let what = format_args!("the shared store failed and is not used for a while: {}", failure.reason);
        self.faults.record(failure.fault, Path::new(path), &what);
        if !self.broken.swap(true, Ordering::Relaxed) {
            self.counters.breaker_opened.add(1);
            self.failed.notify_one();
        }
    }

    fn pause_writes(&self) {
        let until = self.clock.elapsed() + self.config.pause_first;
        self.writes_paused_until_us.store(until.as_micros() as u64, Ordering::Relaxed);
    }

    fn writes_paused(&self) -> bool {
        let until = Duration::from_micros(self.writes_paused_until_us.load(Ordering::Relaxed));
        self.broken.load(Ordering::Relaxed) || self.clock.elapsed() < until
    }
}
