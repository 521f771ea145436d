//! The disk tier: what it writes, finds, evicts, lists and verifies.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use common::world::{FILE_BYTES, FOLDER, World, noon};
use common::{compute_all, prompt, scope};
use foretoken_cache::disk::file_system::FileSystem;
use foretoken_cache::disk::ram_file_system::{Injected, RamFileSystem, Verb};
use foretoken_cache::{DiskConfig, DiskStats, DiskTier, Enqueued, Fault, RecomputeCost, SealedBlock};

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
    // While files are still being listed, few are known and the budget seems to be kept.
    let all_known = |stats: &DiskStats| stats.blocks as u64 + stats.evicted == 20;
    while !all_known(&tier.stats()) || tier.stats().bytes > 5 * FILE_BYTES {
        std::thread::yield_now();
    }
    let left = world.read(&tier, &prompt(1, 20));
    assert_eq!(left, tier.stats().blocks, "the remaining blocks are connected to the root");
}

#[test]
fn leaves_are_evicted_before_their_parents() {
    let world = World::new();
    let tier = world.open_with(|config| config.budget_bytes = 6 * FILE_BYTES);
    world.write(&tier, &prompt(1, 5));
    world.clock.advance(Duration::from_secs(5));
    world.write(&tier, &prompt(2, 2));
    assert_eq!((world.read(&tier, &prompt(1, 5)), world.read(&tier, &prompt(2, 2))), (3, 2));
}

#[test]
fn of_equal_age_the_block_that_is_cheap_to_recompute_is_evicted() {
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
    assert_eq!(left, [5, 0, 1], "budget 7, goal 6.8: two are evicted, the cheap one first");
}

/// Blocks the first write until the returned sender is dropped; the receiver signals that it is blocked.
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
fn a_full_queue_drops_without_blocking() {
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
    assert_eq!(world.pool.counts().free, 500, "the writer kept no block");
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
    let released = std::sync::Mutex::new(released);
    let before_list = Box::new(move || {
        reached.send(()).ok();
        released.lock().unwrap().recv().ok();
    });
    let fs = Arc::new(Hooked { inner: world.fs.clone(), before_list, after_remove: Box::new(|| ()) });
    let tier = DiskTier::open(DiskConfig::new(FOLDER, u64::MAX), fs, world.clock.clone());
    waiting.recv().unwrap();
    assert!(!tier.stats().listed);
    assert_eq!(world.read(&tier, &tokens), 3);
    drop(release);
}

#[test]
fn a_lookup_while_a_file_is_evicted_is_a_miss_and_no_fault() {
    let world = Arc::new(World::new());
    let tier: Arc<OnceLock<DiskTier>> = Arc::default();
    let (found, files) = channel();
    let after_remove = Box::new({
        let (world, tier) = (Arc::clone(&world), Arc::clone(&tier));
        move || {
            let left = world.fs.files(Path::new(FOLDER)).len();
            let read: usize = (1..6).map(|seed| world.read(tier.get().unwrap(), &prompt(seed, 1))).sum();
            found.send((read, left)).ok();
        }
    });
    let fs = Arc::new(Hooked { inner: world.fs.clone(), before_list: Box::new(|| ()), after_remove });
    let config = DiskConfig { queue_blocks: 500, ..DiskConfig::new(FOLDER, 3 * FILE_BYTES) };
    let tier = tier.get_or_init(|| DiskTier::open(config, fs, world.clock.clone()));
    tier.wait_listed();
    for seed in 1..6 {
        world.write(tier, &prompt(seed, 1));
        world.clock.advance(Duration::from_secs(1));
    }
    let lookups: Vec<(usize, usize)> = files.try_iter().collect();
    assert!(!lookups.is_empty() && lookups.iter().all(|(read, left)| read == left), "{lookups:?}");
    assert_eq!(tier.stats().faults, []);
}

#[test]
fn a_file_that_is_gone_when_it_is_its_turn_to_be_verified_is_no_fault() {
    let world = World::new();
    let tier = world.open();
    world.write(&tier, &prompt(1, 3));
    let mut reads = 0;
    world.fs.inject(move |verb, _| {
        reads += u32::from(verb == Verb::Read);
        (verb == Verb::Read && reads == 1).then_some(Injected::Fails(std::io::ErrorKind::NotFound))
    });
    let report = tier.verify();
    assert_eq!((report.good, report.unreadable.len(), tier.stats().faults), (2, 0, vec![]));
}

#[test]
fn the_lister_leaves_its_own_writer_s_temporary_files_alone_whatever_their_time() {
    let world = World::new();
    let folder = Path::new(FOLDER).join("ab");
    world.fs.create_folders(&folder).unwrap();
    // On this file system every file is as old as can be.
    let [own, left_behind] = [7, 8].map(|instance: u64| folder.join(format!(".writing-{instance:016x}-0")));
    [&own, &left_behind].iter().for_each(|path| world.fs.edit(path, |bytes| bytes.push(1)));
    let _tier = world.open_with(|config| config.instance = 7);
    assert_eq!(world.fs.files(Path::new(FOLDER)), [own]);
}

/// A file system that calls the test at two places.
struct Hooked {
    inner: Arc<RamFileSystem>,
    before_list: Box<dyn Fn() + Send + Sync>,
    after_remove: Box<dyn Fn() + Send + Sync>,
}

impl FileSystem for Hooked {
    fn list(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> std::io::Result<()> {
        (self.before_list)();
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
        self.inner.remove(path).inspect(|()| (self.after_remove)())
    }

    fn meta(&self, path: &Path) -> std::io::Result<foretoken_cache::disk::file_system::FileMeta> {
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
fn verify_finds_every_bad_file_and_keeps_the_good() {
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
fn temporary_files_of_a_killed_writer_are_removed_once_old() {
    let world = World::new();
    world.fs.create_folders(Path::new("/cache/00")).unwrap();
    let left = Path::new("/cache/00/.writing-1-1");
    world.fs.edit(left, |bytes| bytes.push(1));
    world.fs.touch(left, noon() - Duration::from_secs(60)).unwrap();
    drop(world.open());
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 1, "a writer may still be writing it");
    world.clock.advance(Duration::from_secs(3600));
    drop(world.open());
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 0);
}

#[test]
fn quarantine_stays_bounded() {
    let (world, tokens) = (World::new(), prompt(1, 50));
    let tier = world.open();
    world.write(&tier, &tokens);
    for path in world.paths(&tokens) {
        world.fs.edit(&path, |bytes| bytes[600] ^= 1);
    }
    assert_eq!(tier.verify().bad.len(), 50);
    assert_eq!(world.fs.files(Path::new(FOLDER)).len(), 32);
}
