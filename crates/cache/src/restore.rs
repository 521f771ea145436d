//! Restores blocks from the lower tiers on its own thread while the engine computes for other sequences.
//!
//! Which blocks are worth restoring is decided before anything is read: a block that takes longer to read than to
//! recompute is left to the engine. A restore can be dropped at any time; it then stops at the next block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::time::Duration;

use crate::BLOCK_TOKENS;
use crate::disk::DiskTier;
use crate::format::Wanted;
use crate::pool::{OpenBlock, SealedBlock};
use crate::recompute_cost::RecomputeCost;
use crate::shared::SharedTier;

/// The tier a block came from or is expected in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// This process's memory.
    Ram,
    /// This machine's disk.
    Disk,
    /// The shared store.
    Shared,
}

/// Seconds to read or to compute a block, as measured on this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Seconds to read one block from disk.
    pub disk_block_s: f64,
    /// Seconds to read one block from the shared store.
    pub shared_block_s: f64,
    /// Seconds to compute it.
    pub recompute: RecomputeCost,
}

/// Blocks after the part in memory that lower tiers have, or may have.
#[derive(Debug, Clone, Default)]
pub struct Below {
    /// The blocks in order.
    pub(crate) wanted: Vec<Wanted>,
    /// How many of them, from the first on, the disk has. The others may be in the shared store.
    pub(crate) on_disk: usize,
}

impl Below {
    /// Tokens in blocks that the disk has.
    pub fn disk_tokens(&self) -> usize {
        self.on_disk * BLOCK_TOKENS
    }

    /// Tokens in blocks that only the shared store may have.
    pub fn shared_tokens_max(&self) -> usize {
        (self.wanted.len() - self.on_disk) * BLOCK_TOKENS
    }

    /// How many blocks to restore to save the most time; 0 if computing is faster.
    pub fn worth_restoring(&self, rates: &Rates) -> usize {
        let (mut saved_s, mut best_s, mut best) = (0.0, 0.0, 0);
        for (at, wanted) in self.wanted.iter().enumerate() {
            let read_s = if at < self.on_disk { rates.disk_block_s } else { rates.shared_block_s };
            saved_s += rates.recompute.seconds(wanted.place.tokens_before(), BLOCK_TOKENS) - read_s;
            if saved_s > best_s {
                (best_s, best) = (saved_s, at + 1);
            }
        }
        best
    }
}

/// A restore in progress. Dropping it cancels the blocks not read yet.
#[derive(Debug)]
pub struct Restore {
    restored: Receiver<(SealedBlock, Tier)>,
    abandoned: Arc<AtomicBool>,
}

/// What a restore has read since it was last polled.
#[derive(Debug, Default)]
pub struct Restored {
    /// Blocks in order, right after those before.
    pub blocks: Vec<SealedBlock>,
    /// Whether the restore has ended, for whatever reason: what is missing now must be computed.
    pub done: bool,
}

impl Restore {
    pub(crate) fn start(items: Vec<(Wanted, OpenBlock)>, queue: &SyncSender<RestoreJob>) -> Option<Restore> {
        let (send, restored) = std::sync::mpsc::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let job = RestoreJob { items, restored: send, abandoned: abandoned.clone() };
        queue.try_send(job).ok().map(|()| Restore { restored, abandoned })
    }

    /// The blocks read so far, without waiting, or after waiting up to `wait` for the first one.
    pub(crate) fn take(&mut self, wait: Option<Duration>) -> (Vec<(SealedBlock, Tier)>, bool) {
        let mut blocks = Vec::new();
        if let Some(wait) = wait {
            match self.restored.recv_timeout(wait) {
                Ok(block) => blocks.push(block),
                Err(RecvTimeoutError::Timeout) => return (blocks, false),
                Err(RecvTimeoutError::Disconnected) => return (blocks, true),
            }
        }
        loop {
            match self.restored.try_recv() {
                Ok(block) => blocks.push(block),
                Err(TryRecvError::Empty) => return (blocks, false),
                Err(TryRecvError::Disconnected) => return (blocks, true),
            }
        }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct RestoreJob {
    items: Vec<(Wanted, OpenBlock)>,
    restored: Sender<(SealedBlock, Tier)>,
    abandoned: Arc<AtomicBool>,
}

pub(crate) fn run(jobs: &Receiver<RestoreJob>, disk: Option<&DiskTier>, shared: Option<&SharedTier>) {
    for RestoreJob { items, restored, abandoned } in jobs {
        for (wanted, open) in items {
            if abandoned.load(Ordering::Relaxed) {
                break;
            }
            let Some(block) = read(&wanted, open, disk, shared) else { break };
            if restored.send(block).is_err() {
                break;
            }
        }
    }
}

fn read(
    wanted: &Wanted,
    open: OpenBlock,
    disk: Option<&DiskTier>,
    shared: Option<&SharedTier>,
) -> Option<(SealedBlock, Tier)> {
    let open = match disk {
        Some(disk) => match disk.read(wanted, open) {
            Ok(block) => return Some((block, Tier::Disk)),
            Err(open) => open,
        },
        None => open,
    };
    let block = shared?.read(wanted, open).ok()?;
    if let Some(disk) = disk {
        // Next time the local disk has it; a full queue is counted there.
        let _outcome = disk.write(&block);
    }
    Some((block, Tier::Shared))
}
