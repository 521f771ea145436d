use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use super::*;
use crate::clock::ManualClock;
use crate::disk::ram_file_system::{Injected, RamFileSystem, Verb};
use crate::keys::ServerSecret;

const ROOT: &str = "/drafts";

struct World {
    fs: Arc<RamFileSystem>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> World {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        World { fs: Arc::default(), clock: Arc::new(ManualClock::new(wall)) }
    }

    fn open(&self, budget_bytes: u64, model: &[u8]) -> DraftFiles {
        let config = DraftFilesConfig::new(ROOT, budget_bytes);
        let model = Fingerprint::of(&[("weights", model)]);
        DraftFiles::open(config, model, self.fs.clone(), self.clock.clone())
    }

    fn bytes(&self) -> u64 {
        self.fs.files(Path::new(ROOT)).iter().map(|path| self.fs.meta(path).unwrap().bytes).sum()
    }
}

fn scope(tenant: u32) -> ScopeId {
    ServerSecret::new([1; 32]).scope(&tenant.to_string(), Fingerprint::of(&[])).id()
}

/// A table of a few contexts that tells which tenant it belongs to.
fn table(tenant: u32) -> SuccessorTable {
    let mut table = SuccessorTable::new(1 << 16);
    (0..20).for_each(|last| table.learn(None, last, &[(tenant, 0.9)]));
    table
}

fn loaded(files: &DraftFiles, tenant: u32) -> Option<u32> {
    let (send, receive) = channel();
    assert!(files.load(scope(tenant), move |table| send.send(table).unwrap()));
    let table = receive.recv().unwrap()?;
    table.candidates(None, 0).next[0].map(|next| next.token)
}

#[test]
fn a_table_is_found_again_after_a_restart() {
    let world = World::new();
    let files = world.open(1 << 20, b"m");
    assert_eq!(loaded(&files, 7), None);
    assert!(files.save(scope(7), || table(7)));
    assert_eq!(loaded(&files, 7), Some(7), "jobs are done in order");
    drop(files);
    let files = world.open(1 << 20, b"m");
    assert_eq!((loaded(&files, 7), loaded(&files, 8)), (Some(7), None));
    assert_eq!(loaded(&world.open(1 << 20, b"other"), 7), None, "another model's");
}

#[test]
fn a_thousand_tenants_of_two_models_stay_within_the_budget() {
    let world = World::new();
    let budget = 20_000;
    for model in [b"m", b"n"] {
        let files = world.open(budget, model);
        for tenant in 0..500 {
            world.clock.advance(Duration::from_secs(1));
            assert!(files.save(scope(tenant), move || table(tenant)));
            files.flush();
            assert!(world.bytes() <= budget, "{} bytes after tenant {tenant}", world.bytes());
        }
        let stats = files.stats();
        assert_eq!(
            (stats.bytes, stats.files as usize),
            (world.bytes(), world.fs.files(Path::new(ROOT)).len())
        );
        assert!(stats.evicted > 400, "{stats:?}");
        assert_eq!((loaded(&files, 499), loaded(&files, 0)), (Some(499), None), "the oldest are evicted");
    }
}

#[test]
fn a_loaded_table_is_used_lately_and_outlives_others() {
    let world = World::new();
    let files = world.open(5 * table(0).to_bytes(scope(0)).len() as u64, b"m");
    for tenant in 0..20 {
        world.clock.advance(Duration::from_secs(1));
        files.save(scope(tenant), move || table(tenant));
        assert_eq!(loaded(&files, 0), Some(0), "after tenant {tenant}");
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(loaded(&files, 5), None);
}

#[test]
fn a_smaller_budget_holds_after_a_restart_and_what_a_killed_writer_left_is_removed() {
    let world = World::new();
    let files = world.open(1 << 20, b"m");
    (0..50).for_each(|tenant| assert!(files.save(scope(tenant), move || table(tenant))));
    drop(files);
    let folder = world.fs.files(Path::new(ROOT))[0].parent().unwrap().to_owned();
    world.fs.edit(&folder.join(".writing-1-successors"), |bytes| bytes.resize(100, 0));
    world.clock.advance(Duration::from_secs(3600));
    world.open(5000, b"m").flush();
    assert!((1..=5000).contains(&world.bytes()), "{}", world.bytes());
    assert!(world.fs.files(Path::new(ROOT)).iter().all(|path| !path.to_string_lossy().contains(".writing")));
}

#[test]
fn a_damaged_file_is_removed_and_its_tenant_starts_anew() {
    let world = World::new();
    let files = world.open(1 << 20, b"m");
    files.save(scope(1), || table(1));
    files.flush();
    let path = world.fs.files(Path::new(ROOT)).remove(0);
    world.fs.edit(&path, |bytes| bytes[100] ^= 1);
    assert_eq!(loaded(&files, 1), None);
    assert_eq!((world.bytes(), files.stats().bytes), (0, 0));
}

#[test]
fn clearing_removes_one_scope_or_all_and_what_is_queued() {
    let world = World::new();
    let files = world.open(1 << 20, b"m");
    (0..3).for_each(|tenant| assert!(files.save(scope(tenant), move || table(tenant))));
    files.clear(Some(scope(1)));
    assert_eq!([0, 1, 2].map(|tenant| loaded(&files, tenant)), [Some(0), None, Some(2)]);
    files.clear(None);
    assert_eq!((world.bytes(), files.stats().files), (0, 0));
}

#[test]
fn a_full_queue_drops_and_counts_and_the_caller_does_no_file_work() {
    let world = World::new();
    let (release, held) = channel::<()>();
    let (held, threads) = (Mutex::new(held), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&threads);
    world.fs.inject(move |verb, _| {
        seen.lock().unwrap().push(std::thread::current().id());
        if verb == Verb::Write {
            // Blocks until the test drops its end, like a disk that hangs.
            held.lock().unwrap().recv().ok();
        }
        None::<Injected>
    });
    let config = DraftFilesConfig { queue: 4, ..DraftFilesConfig::new(ROOT, 1 << 20) };
    let files = DraftFiles::open(config, Fingerprint::of(&[]), world.fs.clone(), world.clock.clone());
    let queued = (0..20).filter(|&tenant| files.save(scope(tenant), move || table(tenant))).count();
    assert!(queued < 20, "nothing was dropped");
    assert_eq!(files.stats().dropped_queue_full as usize, 20 - queued);
    drop(release);
    files.flush();
    let threads = threads.lock().unwrap();
    assert!(!threads.is_empty() && !threads.contains(&std::thread::current().id()));
}

#[test]
fn a_disk_that_fails_is_counted_and_nothing_else() {
    let world = World::new();
    world
        .fs
        .inject(|verb, _| (verb == Verb::Write).then_some(Injected::Fails(std::io::ErrorKind::StorageFull)));
    let files = world.open(1 << 20, b"m");
    assert!(files.save(scope(1), || table(1)));
    assert_eq!(loaded(&files, 1), None);
    assert_eq!((files.stats().failed, world.bytes()), (1, 0));
}
