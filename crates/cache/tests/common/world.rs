//! A disk tier on an in-memory file system, with a clock and a pool controlled by the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foretoken_cache::disk::ram_file_system::RamFileSystem;
use foretoken_cache::{BlockPool, DiskConfig, DiskTier, Fault, ManualClock, Scope, Wanted};

use super::{LAYOUT, assert_true, compute_all, prompt, scope};

pub(crate) const FOLDER: &str = "/cache";
pub(crate) const FILE_BYTES: u64 = 512 + LAYOUT.lasting as u64;

pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) struct World {
    pub(crate) fs: Arc<RamFileSystem>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) pool: BlockPool,
    pub(crate) scope: Scope,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            fs: Arc::default(),
            clock: Arc::new(ManualClock::new(noon())),
            pool: BlockPool::new(LAYOUT, 500),
            scope: scope("alice"),
        }
    }

    pub(crate) fn open_with(&self, change: impl FnOnce(&mut DiskConfig)) -> DiskTier {
        let mut config = DiskConfig { queue_blocks: 500, ..DiskConfig::new(FOLDER, u64::MAX) };
        change(&mut config);
        let tier = DiskTier::open(config, self.fs.clone(), self.clock.clone());
        tier.wait_listed();
        tier
    }

    pub(crate) fn open(&self) -> DiskTier {
        self.open_with(|_| {})
    }

    pub(crate) fn write(&self, tier: &DiskTier, tokens: &[u32]) {
        for block in compute_all(&self.pool, &self.scope, tokens) {
            tier.write(&block);
        }
        tier.flush();
    }

    /// Reads the blocks of a prompt until one misses; each must have the bytes that computing it gives.
    pub(crate) fn read(&self, tier: &DiskTier, tokens: &[u32]) -> usize {
        let wanted = Wanted::chain(&self.scope, tokens, 0);
        let read = wanted.iter().map_while(|wanted| {
            let block = tier.contains(&wanted.key).then(|| tier.read(wanted, self.pool.open().unwrap()).ok());
            block.flatten().inspect(assert_true)
        });
        read.count()
    }

    pub(crate) fn paths(&self, tokens: &[u32]) -> Vec<PathBuf> {
        let keys = Wanted::chain(&self.scope, tokens, 0).into_iter().map(|wanted| wanted.key.to_string());
        keys.map(|key| Path::new(FOLDER).join(&key[..2]).join(&key)).collect()
    }

    /// Writes a prompt of three blocks, lets `spoil` at the file of the second, and reads it all again.
    pub(crate) fn spoiled(&self, tier: &DiskTier, spoil: impl FnOnce(&Path)) -> usize {
        let tokens = prompt(1, 3);
        self.write(tier, &tokens);
        assert_eq!(self.read(tier, &tokens), 3, "before");
        spoil(&self.paths(&tokens)[1]);
        let hits = self.read(tier, &tokens);
        assert_eq!(self.read(tier, &tokens), hits, "the second time");
        hits
    }
}

pub(crate) fn count(tier: &DiskTier, fault: Fault) -> u64 {
    tier.stats().faults.iter().find(|(kind, _)| *kind == fault).map_or(0, |(_, count)| *count)
}

/// The second block misses, the fault is counted once under its name and no other, and the file is set aside.
pub(crate) fn assert_quarantined(world: &World, tier: &DiskTier, hits: usize, fault: Fault) {
    assert_eq!(hits, 1);
    assert_eq!(tier.stats().faults, [(fault, 1)]);
    assert_eq!(world.fs.files(&Path::new(FOLDER).join("quarantine")).len(), 1);
    // What is computed anew can be written and read again.
    world.write(tier, &prompt(1, 3));
    assert_eq!(world.read(tier, &prompt(1, 3)), 3);
}
