//! Any bytes as what a shared store or the disk has under a block's name: a miss, or exactly these bytes, whole and
//! checked. The store itself is never blamed for an entry. The input is that of `block`.

#[path = "block.rs"]
#[allow(dead_code, reason = "a target of its own")]
mod block;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foretoken_cache::disk::ram_file_system::RamFileSystem;
use foretoken_cache::format::HEADER_BYTES;
use foretoken_cache::{
    BlockLayout, BlockPool, DiskConfig, DiskTier, SealedBlock, SharedConfig, SharedTier, Store, SystemClock,
    Wanted,
};

use block::{PAYLOAD_BYTES, fixed, wanted};

struct World {
    wanted: Wanted,
    pool: BlockPool,
    shared: SharedTier,
    /// Removed when the thread ends.
    folder: tempfile::TempDir,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let config = SharedConfig {
            timeout: Duration::from_secs(30),
            ..SharedConfig::new(Store::Folder(folder.path().to_owned()))
        };
        let shared = SharedTier::open(config, Arc::new(SystemClock::new())).expect("a folder is a store");
        let pool = BlockPool::new(BlockLayout::whole(PAYLOAD_BYTES), 2);
        World { wanted: wanted(), pool, shared, folder }
    }

    fn entry(&self) -> PathBuf {
        let name = self.wanted.key.to_string();
        self.folder.path().join(&name[..2]).join(name)
    }
}

/// The entry function of the fuzz target.
pub(crate) fn run(data: &[u8]) {
    let Some((fixes, data)) = data.split_first() else { return };
    WORLD.with(|world| {
        let file = fixed(*fixes, data, &world.wanted);
        let entry = world.entry();
        std::fs::create_dir_all(entry.parent().expect("it has one")).expect("a folder");
        std::fs::write(&entry, &file).expect("written");
        let from_store = read(world, |open| world.shared.read(&world.wanted, open), &file);
        // A bad entry is removed in the background; the next input must not be.
        world.shared.flush();
        assert!(world.shared.is_available(), "a bad entry closed the store");
        let from_disk = from_disk(world, &file);
        assert_eq!(from_store, from_disk, "the two tiers do not agree");
    });
}

/// The same through the disk tier, with a new index: it remembers names that it refused.
fn from_disk(world: &World, file: &[u8]) -> bool {
    let config = DiskConfig::new("/blocks", 1 << 20);
    let fs = Arc::new(RamFileSystem::default());
    let tier = DiskTier::open(config, fs.clone(), Arc::new(SystemClock::new()));
    let name = world.wanted.key.to_string();
    let path = PathBuf::from("/blocks").join(&name[..2]).join(&name);
    tier.wait_listed();
    fs.edit(&path, |bytes| *bytes = file.to_vec());
    read(world, |open| tier.read(&world.wanted, open), file)
}

/// Whether it was a hit; then the block must be what the file holds.
fn read(
    world: &World,
    read: impl FnOnce(foretoken_cache::OpenBlock) -> Result<SealedBlock, foretoken_cache::OpenBlock>,
    file: &[u8],
) -> bool {
    let open = world.pool.open().expect("blocks are given back");
    let Ok(block) = read(open) else { return false };
    assert_eq!(block[..], file[HEADER_BYTES..], "other bytes than the file's");
    assert_eq!(block.key(), Some(world.wanted.key));
    true
}
