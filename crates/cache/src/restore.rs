//! Restores blocks from the lower tiers on its own thread while the engine computes for other sequences.
//!
//! Which blocks are worth restoring is decided before anything is read: a block that takes longer to read than to
//! recompute is left to the engine. A restore can be dropped at any time; it then stops at the next block.
//!
//! Of a model with windows, the lasting parts are read first, in order, and then the windowed parts that resuming after
//! them reads, backwards from the end: where one is missing, those before it are tried, since an earlier end needs them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::time::Duration;

use crate::BLOCK_TOKENS;
use crate::block_layout::BlockLayout;
use crate::disk::DiskTier;
use crate::format::Wanted;
use crate::keys::BlockKey;
use crate::pool::{OpenBlock, OpenWindowed, SealedBlock};
use crate::recompute_cost::RecomputeCost;
use crate::shared::SharedTier;

/// Windowed parts that the shared store may lack before a restore ends.
const ABSENT_MAX: usize = 4;

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
    /// The blocks in order. Only windowed parts are missing of those before them.
    pub(crate) wanted: Vec<Wanted>,
    /// How many of them, from the first on, the disk has. The others may be in the shared store.
    pub(crate) on_disk: usize,
    /// Of a model with windows: how many lasting parts memory has of what is restored, all before `wanted`.
    pub(crate) in_memory: usize,
    /// Full blocks that can be resumed after as it is.
    pub(crate) resumable: usize,
    /// Full blocks whose lasting parts memory or the disk has.
    pub(crate) known: usize,
    /// Of a model with windows: the lasting parts of all blocks up to the last of `wanted`, and whether memory has the
    /// windowed one.
    pub(crate) windowed: Vec<(Wanted, bool)>,
    pub(crate) layout: Option<BlockLayout>,
}

impl Below {
    /// Full blocks whose lasting parts memory or the disk has: more than can be resumed after if windowed parts are
    /// missing. 0 without lower tiers.
    pub fn known_blocks(&self) -> usize {
        self.known
    }

    /// Tokens that restoring all of it adds.
    pub(crate) fn tokens(&self) -> usize {
        let end =
            if self.layout.is_some() { self.windowed.len() } else { self.resumable + self.wanted.len() };
        end.saturating_sub(self.resumable) * BLOCK_TOKENS
    }

    /// Whether there is nothing to restore.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.windowed.is_empty()
    }

    /// How many windowed parts are read if all of `wanted` are restored.
    pub(crate) fn windowed_missing(&self) -> usize {
        let Some(layout) = self.layout else { return 0 };
        let end = self.in_memory + self.wanted.len();
        let read = self.windowed[..end].iter().skip(layout.windowed_from(end * BLOCK_TOKENS));
        read.filter(|(_, in_memory)| !in_memory).count()
    }

    /// How many windowed parts are read at most: the shared store may lack those of the last blocks.
    pub(crate) fn windowed_max(&self) -> usize {
        match self.layout {
            Some(layout) if self.on_disk < self.wanted.len() => layout.windowed_blocks(),
            _ => self.windowed_missing(),
        }
    }

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
        if self.layout.is_some() {
            return self.windowed_worth(rates);
        }
        let (mut saved_s, mut best_s, mut best) = (0.0, 0.0, 0);
        for (at, wanted) in self.wanted.iter().enumerate() {
            saved_s +=
                rates.recompute.seconds(wanted.place.tokens_before(), BLOCK_TOKENS) - self.read_s(at, rates);
            if saved_s > best_s {
                (best_s, best) = (saved_s, at + 1);
            }
        }
        best
    }

    /// All blocks or none: where windowed parts are missing, a shorter restore may leave nothing to resume after.
    fn windowed_worth(&self, rates: &Rates) -> usize {
        let recompute = |(wanted, _): &(Wanted, bool)| {
            rates.recompute.seconds(wanted.place.tokens_before(), BLOCK_TOKENS)
        };
        let saved_s: f64 = self.windowed.iter().skip(self.resumable).map(recompute).sum();
        let lasting_s: f64 = (0..self.wanted.len()).map(|at| self.read_s(at, rates)).sum();
        let last = self.wanted.len().saturating_sub(1);
        let windowed_s = self.windowed_missing() as f64 * self.read_s(last, rates);
        if saved_s > lasting_s + windowed_s { self.windowed.len() } else { 0 }
    }

    fn read_s(&self, at: usize, rates: &Rates) -> f64 {
        if at < self.on_disk || self.wanted.is_empty() { rates.disk_block_s } else { rates.shared_block_s }
    }
}

/// A restore in progress. Dropping it cancels the blocks not read yet.
#[derive(Debug)]
pub struct Restore {
    restored: Receiver<(Piece, Tier)>,
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

/// What was read.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A block, without its windowed part if it has one.
    Block(SealedBlock),
    /// The windowed part of the block of this key.
    Windowed(BlockKey, OpenWindowed),
}

impl Restore {
    /// `slots` are for the blocks of `below` from the first on, and for the windowed parts it lacks.
    pub(crate) fn start(
        below: Below,
        slots: Vec<OpenBlock>,
        windowed_slots: Vec<OpenWindowed>,
        queue: &SyncSender<RestoreJob>,
    ) -> Option<Restore> {
        let (send, restored) = std::sync::mpsc::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let job = RestoreJob { below, slots, windowed_slots, restored: send, abandoned: abandoned.clone() };
        queue.try_send(job).ok().map(|()| Restore { restored, abandoned })
    }

    /// What was read so far, without waiting, or after waiting up to `wait` for the first piece.
    pub(crate) fn take(&mut self, wait: Option<Duration>) -> (Vec<(Piece, Tier)>, bool) {
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
    below: Below,
    slots: Vec<OpenBlock>,
    windowed_slots: Vec<OpenWindowed>,
    restored: Sender<(Piece, Tier)>,
    abandoned: Arc<AtomicBool>,
}

pub(crate) fn run(jobs: &Receiver<RestoreJob>, disk: Option<&DiskTier>, shared: Option<&SharedTier>) {
    for mut job in jobs {
        let mut read = 0;
        let slots = std::mem::take(&mut job.slots);
        for (wanted, open) in job.below.wanted.iter().zip(slots) {
            if job.is_abandoned() {
                break;
            }
            let Some((block, tier)) = self::read(wanted, open, disk, shared) else { break };
            if job.restored.send((Piece::Block(block), tier)).is_err() {
                break;
            }
            read += 1;
        }
        job.read_windowed(job.below.in_memory + read, disk, shared);
    }
}

impl RestoreJob {
    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Reads the windowed parts that resuming after `blocks` blocks reads, or after fewer if some are missing.
    fn read_windowed(&mut self, blocks: usize, disk: Option<&DiskTier>, shared: Option<&SharedTier>) {
        let Some(layout) = self.below.layout else { return };
        let (mut end, mut absent, mut read) = (blocks, 0, Vec::new());
        for at in (self.below.resumable..blocks).rev() {
            if at < layout.windowed_from(end * BLOCK_TOKENS) || absent > ABSENT_MAX || self.is_abandoned() {
                break;
            }
            let (wanted, in_memory) = &self.below.windowed[at];
            if *in_memory {
                continue;
            }
            let Some(mut slot) = self.windowed_slots.pop() else { break };
            match read_windowed(&wanted.windowed(), &mut slot, disk, shared) {
                Some(tier) => read.push((wanted.key, slot, tier)),
                None => {
                    // An earlier end does not need what was read after it.
                    self.windowed_slots.push(slot);
                    self.windowed_slots.extend(read.drain(..).map(|(_, slot, _)| slot));
                    absent += usize::from(shared.is_some());
                    end = at;
                }
            }
        }
        for (key, slot, tier) in read {
            // The receiver may have gone.
            self.restored.send((Piece::Windowed(key, slot), tier)).ok();
        }
    }
}

/// The tier that had the part.
fn read_windowed(
    wanted: &Wanted,
    open: &mut OpenWindowed,
    disk: Option<&DiskTier>,
    shared: Option<&SharedTier>,
) -> Option<Tier> {
    if disk.is_some_and(|disk| disk.read_part(wanted, open)) {
        return Some(Tier::Disk);
    }
    shared.is_some_and(|shared| shared.read_part(wanted, open)).then_some(Tier::Shared)
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
