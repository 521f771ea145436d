//! Writes parts of blocks one by one on its own thread: under a temporary name, then renamed.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use super::index::Entry;
use super::{Shared, file_bytes};
use crate::block_layout::Part;
use crate::faults::Fault;
use crate::format::Header;
use crate::pool::SealedBlock;

/// Prefix of temporary names; no key starts with it.
pub(super) const TEMPORARY_PREFIX: &str = ".writing-";
/// After a failure, blocks are dropped for this long instead of trying a full or failed disk for each.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) enum Job {
    Write(SealedBlock, Part),
    /// Acknowledged once everything before it is done.
    Flush(SyncSender<()>),
}

pub(super) fn run(shared: &Shared, jobs: &Receiver<Job>) {
    let mut paused_until = Duration::ZERO;
    for job in jobs {
        match job {
            Job::Flush(done) => {
                // The caller may have stopped waiting.
                done.send(()).ok();
            }
            Job::Write(block, part) => {
                if shared.clock.elapsed() < paused_until {
                    shared.counters.dropped_paused.add(1);
                } else if !write_timed(shared, &block, part) {
                    shared.counters.dropped_failed.add(1);
                    paused_until = shared.clock.elapsed() + PAUSE;
                }
                // Free the slot before reclaiming.
                drop(block);
                shared.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                shared.reclaim();
            }
        }
    }
}

/// Whether the part is on disk now.
fn write_timed(shared: &Shared, block: &SealedBlock, part: Part) -> bool {
    let (Some(header), Some(payload)) = (Header::of(block, part), block.part(part)) else { return true };
    if shared.index().has(&header.key) || shared.index().is_refused(&header.key) {
        return true;
    }
    let began = shared.clock.elapsed();
    let path = shared.path(&header.key);
    let name = format!("{}{}", shared.temporary_prefix(), shared.counters.written.get());
    let temporary = path.with_file_name(name);
    if let Err(error) = write(shared, &temporary, &path, &header, payload) {
        shared.faults.record(Fault::of(&error), &path, &error);
        // This may fail as the write did; the lister of a later process tries again.
        shared.fs.remove(&temporary).ok();
        return false;
    }
    let bytes = file_bytes(payload.len());
    shared.index().put(header.key, Entry { bytes, used: shared.now(), place: Some(header.place) });
    shared.counters.written.add(1);
    shared.counters.written_bytes.add(bytes);
    shared.counters.write_latency.observe(shared.clock.elapsed().saturating_sub(began));
    true
}

fn write(shared: &Shared, temporary: &Path, path: &Path, header: &Header, payload: &[u8]) -> io::Result<()> {
    let head = header.encode();
    match shared.fs.write(temporary, &head, payload) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(shared, path)?;
            shared.fs.write(temporary, &head, payload)?;
        }
        other => other?,
    }
    shared.fs.rename(temporary, path)
}

fn make_folders(shared: &Shared, path: &Path) -> io::Result<()> {
    let root = &shared.config.folder;
    let root_gone = shared.fs.meta(root).is_err();
    if root_gone && shared.counters.written.get() > 0 {
        shared.faults.record(Fault::FolderMissing, root, &"the cache folder was removed; creating it again");
    }
    shared.fs.create_folders(path.parent().unwrap_or(root))
}

impl Shared {
    /// How this process' temporary names begin.
    pub(super) fn temporary_prefix(&self) -> String {
        format!("{TEMPORARY_PREFIX}{:016x}-", self.config.instance)
    }
}
