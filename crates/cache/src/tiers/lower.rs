//! What the lower tiers add to what memory has of a prompt, and how it comes into memory.

use std::time::Duration;

use super::{ContextCache, Hit};
use crate::BLOCK_TOKENS;
use crate::format::Wanted;
use crate::keys::Scope;
use crate::pool::SealedBlock;
use crate::restore::{Below, Piece, Rates, Restore, Restored, Tier};

/// One in this many restores that are not worth it reads a block all the same, to measure again.
const MEASURE_AGAIN_EVERY: u64 = 64;

/// Absent windowed parts that are looked for in the file system; beyond that only the index is asked.
const LOOKS_MAX: usize = 64;

impl ContextCache {
    pub(super) fn find(&self, scope: &Scope, tokens: &[u32]) -> Hit {
        let ram = self.tree().match_prefix(scope, tokens);
        let store = self.shared.as_ref().is_some_and(|shared| shared.is_available());
        let below = self.below(scope, tokens, (&ram.whole, ram.tokens()), store);
        Hit { ram, below }
    }

    /// What lower tiers may add to what memory has: whether each full block in it is whole, and how many tokens
    /// can be resumed after. `store`: whether the shared store may have what the disk has not.
    pub(crate) fn below(
        &self,
        scope: &Scope,
        tokens: &[u32],
        (whole, resumable): (&[bool], usize),
        store: bool,
    ) -> Below {
        if self.disk.is_none() && !store {
            return Below::default();
        }
        let has = |key| self.disk.as_ref().is_some_and(|disk| disk.contains(&key));
        let layout = Some(self.layout()).filter(|layout| layout.windowed > 0);
        let chain = Wanted::chain(scope, tokens, if layout.is_some() { 0 } else { whole.len() });
        let in_memory = chain.len().min(if layout.is_some() { whole.len() } else { 0 });
        let mut wanted = chain[in_memory..].to_vec();
        let on_disk = wanted.iter().take_while(|wanted| has(wanted.key)).count();
        let (resumable, known) = (resumable / BLOCK_TOKENS, whole.len() + on_disk);
        let Some(layout) = layout else {
            wanted.truncate(if store { wanted.len() } else { on_disk });
            return Below { wanted, on_disk, resumable, known, ..Below::default() };
        };
        let mut end = in_memory + if store { wanted.len() } else { on_disk };
        let whole = |at: usize| whole.get(at).is_some_and(|&whole| whole);
        if !store {
            // The last end after which resuming finds all windowed parts in memory or on disk.
            let mut absent = 0;
            for at in (resumable..end).rev() {
                if at < layout.windowed_from(end * BLOCK_TOKENS) {
                    break;
                }
                if whole(at) {
                    continue;
                }
                let key = chain[at].key.windowed();
                let looks = absent < LOOKS_MAX;
                if !self.disk.as_ref().is_some_and(|disk| disk.knows(&key) || looks && disk.contains(&key)) {
                    (end, absent) = (at, absent + 1);
                }
            }
        }
        if end <= resumable {
            return Below { resumable, known, ..Below::default() };
        }
        wanted.truncate(end.saturating_sub(in_memory));
        let in_memory = in_memory.min(end);
        let on_disk = on_disk.min(wanted.len());
        let parts = chain.into_iter().take(end).enumerate().map(|(at, wanted)| (wanted, whole(at)));
        let windowed = parts.collect();
        Below { wanted, on_disk, in_memory, resumable, known, windowed, layout: Some(layout) }
    }

    /// Tells the cache that a sequence needs the windowed parts of these blocks no more, which it computed itself.
    pub fn leave_windowed<'b>(&self, blocks: impl Iterator<Item = &'b SealedBlock>) {
        let keys: Vec<_> = blocks.filter_map(SealedBlock::key).collect();
        if !keys.is_empty() && self.layout().windowed > 0 {
            let mut tree = self.tree();
            keys.iter().for_each(|key| tree.leave_windowed(key));
        }
    }

    /// Queues the windowed parts of blocks for the lower tiers: a later request may resume after them.
    /// [`insert`](Self::insert) leaves them in memory.
    pub fn write_windowed(&self, blocks: &[SealedBlock]) {
        if self.layout().windowed == 0 {
            return;
        }
        for block in blocks {
            // Each tier counts what it drops.
            if let Some(disk) = &self.disk {
                let _outcome = disk.write_windowed(block);
            }
            if let Some(shared) = &self.shared {
                let _outcome = shared.write_windowed(block);
            }
        }
    }

    /// Starts restoring as many blocks as are worth it and fit. `None` if that is
    /// none. Never blocks; see [`poll_restore`](Self::poll_restore).
    pub fn begin_restore(&self, mut below: Below, rates: &Rates) -> Option<Restore> {
        if below.is_empty() {
            return None;
        }
        let worth = below.worth_restoring(rates);
        if worth == 0 {
            self.counters.restores_not_worth.add(1);
            if !self.counters.restores_not_worth.get().is_multiple_of(MEASURE_AGAIN_EVERY) {
                return None;
            }
        }
        let slots: Vec<_> =
            below.wanted.iter().take(worth.max(1)).map_while(|_| self.open_lasting()).collect();
        below.wanted.truncate(slots.len());
        let windowed = below.windowed_max();
        let windowed_slots: Vec<_> = (0..windowed).map_while(|_| self.open_windowed()).collect();
        let started = match &self.restores {
            Some(queue) if !slots.is_empty() || !windowed_slots.is_empty() => {
                Restore::start(below, slots, windowed_slots, queue)
            }
            _ => None,
        };
        if started.is_none() {
            self.counters.restores_refused.add(1);
        }
        started
    }

    /// The blocks restored since the last call; they are in the tree now. Never blocks.
    pub fn poll_restore(&self, restore: &mut Restore) -> Restored {
        self.take_restored(restore, None)
    }

    /// As [`poll_restore`](Self::poll_restore), but waits up to `wait` for the first block.
    pub fn wait_restore(&self, restore: &mut Restore, wait: Duration) -> Restored {
        self.take_restored(restore, Some(wait))
    }

    fn take_restored(&self, restore: &mut Restore, wait: Option<Duration>) -> Restored {
        let (pieces, done) = restore.take(wait);
        let mut blocks = Vec::new();
        for (piece, tier) in pieces {
            match piece {
                Piece::Block(block) => {
                    match tier {
                        Tier::Disk => self.counters.disk_hit_tokens.add(BLOCK_TOKENS as u64),
                        Tier::Shared => self.counters.shared_hit_tokens.add(BLOCK_TOKENS as u64),
                        Tier::Ram => {}
                    }
                    blocks.push(self.remember(block).0);
                }
                Piece::Windowed(key, windowed) => {
                    let attached = self.tree().attach(&key, windowed.seal());
                    if let (Tier::Shared, Some(block), Some(disk)) = (tier, attached, &self.disk) {
                        // Next time the local disk has it; a full queue is counted there.
                        let _outcome = disk.write_windowed(&block);
                    }
                }
            }
        }
        Restored { blocks, done }
    }
}
