//! The disk tier on a file system in memory whose faults the test chooses.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{LAYOUT, assert_true, compute_all, prompt, scope};
use foretoken_cache::disk::fs::FileSystem;
use foretoken_cache::disk::ram::{Injected, RamFileSystem, Verb};
use foretoken_cache::{
    BlockPool, DiskConfig, DiskTier, Enqueued, Fault, Fingerprint, ManualClock, RecomputeCost, Scope,
    SealedBlock, ServerSecret, Wanted,
};

const FOLDER: &str = "/cache";
const FILE_BYTES: u64 = 512 + LAYOUT.bytes as u64;

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

struct World {
    fs: Arc<RamFileSystem>,
    clock: Arc<ManualClock>,
    pool: BlockPool,
    scope: Scope,
}

impl World {
    fn new() -> Self {
        Self {
            fs: Arc::default(),
            clock: Arc::new(ManualClock::new(noon())),
            pool: BlockPool::new(LAYOUT, 500),
            scope: scope("alice"),
        }
    }

    fn open_with(&self, change: impl FnOnce(&mut DiskConfig)) -> DiskTier {
        let mut config = DiskConfig { queue_blocks: 500, ..DiskConfig::new(FOLDER, u64::MAX) };
        change(&mut config);
        let tier = DiskTier::open(config, self.fs.clone(), self.clock.clone());
        tier.wait_listed();
        tier
    }

    fn open(&self) -> DiskTier {
        self.open_with(|_| {})
    }

    fn write(&self, tier: &DiskTier, tokens: &[u32]) {
        for block in compute_all(&self.pool, &self.scope, tokens) {
            tier.write(&block);
        }
        tier.flush();
    }

    /// Reads the blocks of a prompt until one misses; each must be what computing it gives.
    fn read(&self, tier: &DiskTier, tokens: &[u32]) -> usize {
        let wanted = Wanted::chain(&self.scope, tokens, 0);
        let read = wanted.iter().map_while(|wanted| {
            let block = tier.contains(&wanted.key).then(|| tier.read(wanted, self.pool.open().unwrap()).ok());
            block.flatten().inspect(assert_true)
        });
        read.count()
    }

    fn paths(&self, tokens: &[u32]) -> Vec<PathBuf> {
        let keys = Wanted::chain(&self.scope, tokens, 0).into_iter().map(|wanted| wanted.key.to_string());
        keys.map(|key| Path::new(FOLDER).join(&key[..2]).join(&key)).collect()
    }

    /// Writes a prompt of three blocks, lets `spoil` at the file of the second, and reads it all again.
    fn spoiled(&self, tier: &DiskTier, spoil: impl FnOnce(&Path)) -> usize {
        let tokens = prompt(1, 3);
        self.write(tier, &tokens);
        assert_eq!(self.read(tier, &tokens), 3, "before");
        spoil(&self.paths(&tokens)[1]);
        let hits = self.read(tier, &tokens);
        assert_eq!(self.read(tier, &tokens), hits, "the second time");
        hits
    }
}

fn count(tier: &DiskTier, fault: Fault) -> u64 {
    tier.stats().faults.iter().find(|(kind, _)| *kind == fault).map_or(0, |(_, count)| *count)
}

/// The second block misses, the fault is counted once under its name and no other, and the file is set aside.
fn assert_quarantined(world: &World, tier: &DiskTier, hits: usize, fault: Fault) {
    assert_eq!(hits, 1);
    assert_eq!(tier.stats().faults, [(fault, 1)]);
    assert_eq!(world.fs.files(&Path::new(FOLDER).join("quarantine")).len(), 1);
    // What is computed anew can be written and read again.
    world.write(tier, &prompt(1, 3));
    assert_eq!(world.read(tier, &prompt(1, 3)), 3);
}

#[test]
fn what_was_written_is_read_after_a_restart() {
    let world = World::new();
    let tokens = prompt(1, 3);
    world.write(&world.open(), &tokens);
    let tier = world.open();
    assert_eq!(world.read(&tier, &tokens), 3);
    assert_eq!((tier.stats().read, tier.stats().read_bytes), (3, 3 * FILE_BYTES));
}

#[test]
fn an_unfilled_block_is_not_written() {
    let (world, tokens) = (World::new(), prompt(1, 1));
    let tier = world.open();
    let block = compute_all(&world.pool, &world.scope, &tokens[..63]).remove(0);
    assert_eq!(tier.write(&block), Enqueued::Unfilled);
}

#[test]
fn a_block_is_written_once() {
    let (world, tokens) = (World::new(), prompt(1, 1));
    let tier = world.open();
    world.write(&tier, &tokens);
    let again = compute_all(&world.pool, &world.scope, &tokens).remove(0);
    assert_eq!(tier.write(&again), Enqueued::Present);
    assert_eq!(tier.stats().written, 1);
}

#[test]
fn another_tenant_reads_nothing() {
    let (mut world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.scope = scope("bob");
    assert_eq!(world.read(&tier, &tokens), 0);
}

#[test]
fn a_file_cut_short_anywhere_is_a_miss() {
    for cut in [0, 1, 511, 512, 513, FILE_BYTES as usize - 1] {
        let world = World::new();
        let tier = world.open();
        let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| bytes.truncate(cut)));
        assert_quarantined(&world, &tier, hits, Fault::Torn);
    }
}

#[test]
fn a_file_that_is_too_long_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| bytes.push(0)));
    assert_quarantined(&world, &tier, hits, Fault::Torn);
}

#[test]
fn a_write_torn_by_a_power_cut_is_a_miss() {
    let (world, tokens) = (World::new(), prompt(1, 1));
    world.fs.inject(|verb, _| (verb == Verb::Write).then_some(Injected::Tears(1000)));
    world.write(&world.open(), &tokens);
    world.fs.heal();
    let tier = world.open();
    assert_eq!(world.read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::Torn, 1)]);
}

#[test]
fn a_flipped_bit_anywhere_is_a_miss() {
    for at in [12, 100, 300, 450, 511, 512, 2000, FILE_BYTES as usize - 1] {
        let world = World::new();
        let tier = world.open();
        let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| bytes[at] ^= 0x10));
        assert_quarantined(&world, &tier, hits, Fault::Corrupt);
    }
}

#[test]
fn a_foreign_file_under_our_name_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| *bytes = vec![b'x'; 9000]));
    assert_quarantined(&world, &tier, hits, Fault::Foreign);
}

#[test]
fn a_block_of_another_model_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let other = ServerSecret::new([9; 32]).scope("alice", Fingerprint::of(&[("weights", b"other")]));
    let tokens = prompt(1, 3);
    let blocks = compute_all(&world.pool, &other, &tokens);
    tier.write(&blocks[1]);
    tier.flush();
    let foreign = world.fs.files(Path::new(FOLDER)).remove(0);
    let mut copy = Vec::new();
    world.fs.edit(&foreign, |bytes| copy.clone_from(bytes));
    let hits = world.spoiled(&tier, |path| world.fs.edit(path, |bytes| *bytes = copy));
    assert_quarantined(&world, &tier, hits, Fault::WrongFingerprint);
}

#[test]
fn a_block_of_another_prefix_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let tokens = prompt(1, 3);
    let third = world.paths(&tokens).remove(2);
    let hits = world.spoiled(&tier, |path| {
        let mut copy = Vec::new();
        world.fs.edit(&third, |bytes| copy.clone_from(bytes));
        world.fs.edit(path, |bytes| *bytes = copy);
    });
    assert_quarantined(&world, &tier, hits, Fault::WrongTokens);
}

#[test]
fn a_block_of_another_format_is_a_miss_and_stays_for_whom_it_is_for() {
    let world = World::new();
    let tier = world.open();
    let mut file = PathBuf::new();
    let hits = world.spoiled(&tier, |path| {
        file = path.to_path_buf();
        world.fs.edit(path, |bytes| bytes[8] = 99);
    });
    assert_eq!((hits, tier.stats().faults), (1, vec![(Fault::OtherVersion, 1)]));
    assert!(world.fs.files(Path::new(FOLDER)).contains(&file));
}

#[test]
fn files_with_foreign_names_are_left_alone() {
    let world = World::new();
    let stray = Path::new("/cache/00/notes.txt");
    world.fs.create_folders(Path::new("/cache/00")).unwrap();
    world.fs.edit(stray, |bytes| bytes.extend(b"mine"));
    let tier = world.open();
    assert_eq!(count(&tier, Fault::Foreign), 1);
    assert_eq!(tier.verify().foreign, [stray]);
    assert_eq!(world.fs.files(Path::new(FOLDER)), [stray]);
}

fn write_fails(kind: ErrorKind, fault: Fault) {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.fs.inject(move |verb, _| {
        let writes = matches!(verb, Verb::Write | Verb::CreateFolders);
        writes.then_some(Injected::Fails(kind))
    });
    world.write(&tier, &tokens);
    let stats = tier.stats();
    assert_eq!((stats.faults, stats.dropped_failed, stats.dropped_paused), (vec![(fault, 1)], 1, 2));
    assert_eq!(world.read(&tier, &tokens), 0);

    world.fs.heal();
    world.clock.advance(Duration::from_secs(60));
    world.write(&tier, &tokens);
    assert_eq!(world.read(&tier, &tokens), 3, "once the disk is well again");
}

#[test]
fn a_full_disk_drops_blocks_and_is_not_asked_for_each() {
    write_fails(ErrorKind::StorageFull, Fault::NoSpace);
}

#[test]
fn a_read_only_disk_drops_blocks() {
    write_fails(ErrorKind::ReadOnlyFilesystem, Fault::ReadOnly);
}

#[test]
fn a_folder_that_may_not_be_written_drops_blocks() {
    write_fails(ErrorKind::PermissionDenied, Fault::Denied);
}

#[test]
fn a_disk_that_fills_up_inside_a_file_leaves_no_part_of_it() {
    let (world, tokens) = (World::new(), prompt(1, 1));
    let tier = world.open();
    world.fs.inject(|verb, _| (verb == Verb::Rename).then_some(Injected::Fails(ErrorKind::StorageFull)));
    world.write(&tier, &tokens);
    assert_eq!(world.fs.files(Path::new(FOLDER)), [] as [PathBuf; 0]);
}

#[test]
fn a_read_only_disk_still_serves_what_it_has() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    world.write(&world.open(), &tokens);
    world.fs.inject(|verb, _| {
        let changes = !matches!(verb, Verb::Read | Verb::List | Verb::Meta);
        changes.then_some(Injected::Fails(ErrorKind::ReadOnlyFilesystem))
    });
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(world.read(&world.open(), &tokens), 3);
}

#[test]
fn a_bad_file_that_cannot_be_moved_is_read_once() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| {
        world.fs.edit(path, |bytes| bytes[1000] ^= 1);
        world.fs.inject(|verb, _| {
            let changes = matches!(verb, Verb::Rename | Verb::Remove | Verb::CreateFolders);
            changes.then_some(Injected::Fails(ErrorKind::ReadOnlyFilesystem))
        });
    });
    assert_eq!((hits, tier.stats().faults), (1, vec![(Fault::Corrupt, 1)]));
}

#[test]
fn files_that_may_not_be_read_are_misses() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.fs.inject(|verb, _| (verb == Verb::Read).then_some(Injected::Fails(ErrorKind::PermissionDenied)));
    assert_eq!(world.read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::Denied, 1)]);
}

#[test]
fn a_folder_that_may_not_be_entered_only_misses() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    world.fs.inject(|_, _| Some(Injected::Fails(ErrorKind::PermissionDenied)));
    let tier = world.open();
    world.write(&tier, &tokens);
    assert_eq!(world.read(&tier, &tokens), 0);
    assert!(count(&tier, Fault::Denied) > 0);
}

#[test]
fn a_file_that_vanished_is_a_miss() {
    let world = World::new();
    let tier = world.open();
    let hits = world.spoiled(&tier, |path| world.fs.remove(path).unwrap());
    assert_eq!((hits, tier.stats().faults), (1, vec![(Fault::Vanished, 1)]));
}

#[test]
fn a_folder_deleted_while_running_misses_and_is_made_again() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.fs.remove_folder(Path::new(FOLDER));
    assert_eq!(world.read(&tier, &tokens), 0);
    assert_eq!(tier.stats().faults, [(Fault::FolderMissing, 1)]);
    let other = prompt(2, 3);
    world.write(&tier, &other);
    assert_eq!(world.read(&tier, &other), 3);
}

#[test]
fn a_clock_that_goes_back_is_counted_and_changes_no_answer() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.clock.set_wall(noon() - Duration::from_secs(86_400));
    assert_eq!(world.read(&tier, &tokens), 3, "the tier that was open");
    drop(tier);
    let tier = world.open();
    assert_eq!(world.read(&tier, &tokens), 3, "a tier opened in the past");
    drop(tier);
    world.fs.touch(&world.paths(&tokens)[0], noon()).unwrap();
    let tier = world.open();
    for _ in 0..2000 {
        if count(&tier, Fault::ClockBack) == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the lister did not count a time in the future");
}

#[test]
fn a_clock_that_goes_back_does_not_turn_the_order_of_use_around() {
    let world = World::new();
    let tier = world.open_with(|config| config.budget_bytes = 2 * FILE_BYTES);
    world.write(&tier, &prompt(1, 1));
    world.clock.advance(Duration::from_secs(10));
    world.clock.set_wall(UNIX_EPOCH);
    world.write(&tier, &prompt(2, 1));
    world.clock.advance(Duration::from_secs(10));
    world.write(&tier, &prompt(3, 1));
    let left: Vec<_> = (1..4).map(|seed| world.read(&tier, &prompt(seed, 1))).collect();
    assert_eq!(left[0], 0);
    assert_eq!(left[2], 1);
}

#[test]
fn the_folder_stays_within_its_budget() {
    let world = World::new();
    let tier = world.open_with(|config| config.budget_bytes = 10 * FILE_BYTES);
    for seed in 1..40 {
        world.write(&tier, &prompt(seed, 2));
        world.clock.advance(Duration::from_secs(1));
        assert!(tier.stats().bytes <= 10 * FILE_BYTES);
        assert_eq!(world.fs.files(Path::new(FOLDER)).len(), tier.stats().blocks);
    }
    assert_eq!(world.read(&tier, &prompt(39, 2)), 2, "the newest is there");
    assert!(tier.stats().evicted >= 68);
}

#[test]
fn a_smaller_budget_is_kept_after_a_restart() {
    let world = World::new();
    world.write(&world.open(), &prompt(1, 20));
    world.clock.advance(Duration::from_secs(60));
    let tier = world.open_with(|config| config.budget_bytes = 5 * FILE_BYTES);
    while tier.stats().bytes == 0 || tier.stats().bytes > 5 * FILE_BYTES {
        std::thread::yield_now();
    }
    let left = world.read(&tier, &prompt(1, 20));
    assert_eq!(left, tier.stats().blocks, "what is left hangs together from the root");
}

#[test]
fn leaves_go_before_what_they_hang_on() {
    let world = World::new();
    let tier = world.open_with(|config| config.budget_bytes = 6 * FILE_BYTES);
    world.write(&tier, &prompt(1, 5));
    world.clock.advance(Duration::from_secs(5));
    world.write(&tier, &prompt(2, 2));
    assert_eq!((world.read(&tier, &prompt(1, 5)), world.read(&tier, &prompt(2, 2))), (3, 2));
}

#[test]
fn of_equal_age_what_is_cheap_to_recompute_goes() {
    let world = World::new();
    let tier = world.open_with(|config| {
        config.budget_bytes = 7 * FILE_BYTES;
        config.cost = RecomputeCost { token_s: 0.001, context_token_s: 0.001 };
    });
    world.write(&tier, &prompt(1, 6));
    world.write(&tier, &prompt(2, 1));
    world.clock.advance(Duration::from_secs(5));
    world.write(&tier, &prompt(3, 1));
    let left: Vec<_> = [(1, 6), (2, 1), (3, 1)].map(|(seed, n)| world.read(&tier, &prompt(seed, n))).into();
    assert_eq!(left, [5, 0, 1], "budget 7, goal 6.8: two go, the cheap one first");
}

/// Makes the first write wait until the returned sender is dropped; the receiver says when it waits.
fn hold_writer(world: &World) -> (std::sync::mpsc::Sender<()>, Receiver<()>) {
    let ((release, released), (reached, waiting)) = (channel::<()>(), channel());
    world.fs.inject(move |verb, _| {
        if verb == Verb::Write {
            reached.send(()).ok();
            released.recv().ok();
        }
        None
    });
    (release, waiting)
}

#[test]
fn a_full_queue_drops_and_does_not_wait() {
    let world = World::new();
    let tier = world.open_with(|config| config.queue_blocks = 2);
    let (release, waiting) = hold_writer(&world);
    let blocks = compute_all(&world.pool, &world.scope, &prompt(1, 5));
    let offer = |block: &SealedBlock| tier.write(block);
    assert_eq!(offer(&blocks[0]), Enqueued::Queued);
    waiting.recv().unwrap();
    let outcomes: Vec<_> = blocks[1..].iter().map(offer).collect();
    assert_eq!(outcomes, [Enqueued::Queued, Enqueued::Queued, Enqueued::QueueFull, Enqueued::QueueFull]);
    assert_eq!((tier.stats().dropped_queue_full, tier.stats().waiting), (2, 3));
    drop(release);
    tier.flush();
    assert_eq!((tier.stats().written, tier.stats().waiting), (3, 0));
}

#[test]
fn closing_writes_what_is_queued() {
    let world = World::new();
    let tier = world.open();
    for block in compute_all(&world.pool, &world.scope, &prompt(1, 5)) {
        tier.write(&block);
    }
    drop(tier);
    assert_eq!(world.read(&world.open(), &prompt(1, 5)), 5);
    assert_eq!(world.pool.counts().free, 500, "and the writer kept no block");
}

#[test]
fn two_servers_on_one_folder_read_what_the_other_wrote() {
    let world = World::new();
    let (one, two) = (world.open(), world.open());
    world.write(&one, &prompt(1, 3));
    assert_eq!(world.read(&two, &prompt(1, 3)), 3);
    world.write(&two, &prompt(1, 3));
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 3);
}

#[test]
fn what_another_server_evicts_is_a_miss() {
    let world = World::new();
    let (one, two) = (world.open(), world.open());
    world.write(&one, &prompt(1, 3));
    two.clear(None);
    assert_eq!(world.read(&one, &prompt(1, 3)), 0);
}

#[test]
fn a_lookup_during_the_listing_asks_the_file_system() {
    let (world, tokens) = (World::new(), prompt(1, 3));
    world.write(&world.open(), &tokens);
    let ((release, released), (reached, waiting)) = (channel::<()>(), channel::<()>());
    let fs = Arc::new(SlowListing { inner: world.fs.clone(), released: released.into(), reached });
    let tier = DiskTier::open(DiskConfig::new(FOLDER, u64::MAX), fs, world.clock.clone());
    waiting.recv().unwrap();
    assert!(!tier.stats().listed);
    assert_eq!(world.read(&tier, &tokens), 3);
    drop(release);
}

struct SlowListing {
    inner: Arc<RamFileSystem>,
    released: std::sync::Mutex<Receiver<()>>,
    reached: std::sync::mpsc::Sender<()>,
}

impl FileSystem for SlowListing {
    fn list(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> std::io::Result<()> {
        self.reached.send(()).ok();
        self.released.lock().unwrap().recv().ok();
        self.inner.list(folder, each)
    }

    fn read(&self, path: &Path, head: &mut [u8], body: &mut [u8]) -> std::io::Result<u64> {
        self.inner.read(path, head, body)
    }

    fn write(&self, path: &Path, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        self.inner.write(path, head, body)
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.inner.remove(path)
    }

    fn meta(&self, path: &Path) -> std::io::Result<foretoken_cache::disk::fs::FileMeta> {
        self.inner.meta(path)
    }

    fn touch(&self, path: &Path, to: SystemTime) -> std::io::Result<()> {
        self.inner.touch(path, to)
    }

    fn create_folders(&self, path: &Path) -> std::io::Result<()> {
        self.inner.create_folders(path)
    }
}

#[test]
fn verify_finds_every_bad_file_and_leaves_the_good() {
    let (world, tokens) = (World::new(), prompt(1, 6));
    let tier = world.open();
    world.write(&tier, &tokens);
    let paths = world.paths(&tokens);
    world.fs.edit(&paths[1], |bytes| bytes[700] ^= 1);
    world.fs.edit(&paths[2], |bytes| bytes.truncate(600));
    world.fs.edit(&paths[4], |bytes| bytes[0] = 0);
    let report = tier.verify();
    assert_eq!((report.good, report.good_bytes), (3, 3 * FILE_BYTES));
    let mut bad: Vec<Fault> = report.bad.iter().map(|(_, fault)| *fault).collect();
    bad.sort();
    assert_eq!(bad, [Fault::Foreign, Fault::Torn, Fault::Corrupt]);
    assert_eq!(tier.verify().bad, []);
}

#[test]
fn clearing_a_scope_leaves_the_others() {
    let (mut world, tokens) = (World::new(), prompt(1, 3));
    let tier = world.open();
    world.write(&tier, &tokens);
    world.scope = scope("bob");
    world.write(&tier, &tokens);
    assert_eq!(tier.clear(Some(scope("alice").id())), 3);
    assert_eq!(world.read(&tier, &tokens), 3);
    world.scope = scope("alice");
    assert_eq!(world.read(&tier, &tokens), 0);
}

#[test]
fn what_a_killed_writer_left_is_removed_once_it_is_old() {
    let world = World::new();
    world.fs.create_folders(Path::new("/cache/00")).unwrap();
    let left = Path::new("/cache/00/.writing-1-1");
    world.fs.edit(left, |bytes| bytes.push(1));
    world.fs.touch(left, noon() - Duration::from_secs(60)).unwrap();
    drop(world.open());
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 1, "a writer may still be at it");
    world.clock.advance(Duration::from_secs(3600));
    drop(world.open());
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 0);
}

#[test]
fn quarantine_stays_small() {
    let (world, tokens) = (World::new(), prompt(1, 50));
    let tier = world.open();
    world.write(&tier, &tokens);
    for path in world.paths(&tokens) {
        world.fs.edit(&path, |bytes| bytes[600] ^= 1);
    }
    assert_eq!(tier.verify().bad.len(), 50);
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 32);
}
