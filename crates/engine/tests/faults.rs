//! Whatever happens to the cache below an engine, it answers as one without any cache.

mod common;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use common::{Fixture, collect, request};
use foretoken_cache::Fault;
use foretoken_cache::disk::ram_file_system::{Injected, RamFileSystem, Verb};
use foretoken_engine::{CacheUse, Engine, Request};
use proptest::prelude::*;

const FOLDER: &str = "/blocks";
/// Room for one context and a little more, so that answers evict each other's blocks.
const RAM_BLOCKS: usize = 10;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::load);

/// An engine with little memory over a disk with injected faults.
fn engine(fs: &Arc<RamFileSystem>) -> Engine {
    FIXTURE.start(|config| {
        config.kv_bytes = RAM_BLOCKS * FIXTURE.block_bytes();
        config.disk = Some((FOLDER.into(), 1 << 30));
        config.file_system = fs.clone();
    })
}

/// The answer to a request without any cache.
fn uncached(engine: &Engine, request: &Request) -> Vec<u32> {
    let cache = CacheUse { read: false, write: false };
    collect(engine.submit(Request { cache, ..request.clone() }).expect("there is room")).0
}

fn answer(engine: &Engine, request: &Request) -> (Vec<u32>, usize) {
    let (ids, _, summary) = collect(engine.submit(request.clone()).expect("there is room"));
    (ids, summary.usage.cache_hit_tokens)
}

/// A prompt of some blocks, its answer, and everything that is kept of it.
fn long(seed: u32) -> Request {
    request((0..300).map(|t| (t * (7 + seed) + seed) % 250), 20, 1)
}

fn files(fs: &RamFileSystem) -> Vec<PathBuf> {
    fs.files(Path::new(FOLDER))
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("quarantine"))
        .collect()
}

fn faults(engine: &Engine) -> Vec<Fault> {
    engine.cache_stats().disk.expect("there is one").faults.into_iter().map(|(fault, _)| fault).collect()
}

/// Fills a folder, lets `spoil` at it between two lives of an engine, and compares what the second one answers.
fn survives(spoil: impl FnOnce(&RamFileSystem), fault: Fault) {
    let fs = Arc::new(RamFileSystem::default());
    let before = engine(&fs);
    answer(&before, &long(1));
    before.flush_cache();
    drop(before);
    assert_eq!(files(&fs).len(), 4, "every full block is on disk");
    spoil(&fs);
    let plain = FIXTURE.start(|_| {});
    let after = engine(&fs);
    for seed in 1..4 {
        assert_eq!(answer(&after, &long(seed)).0, uncached(&plain, &long(seed)), "{fault}");
        after.flush_cache();
    }
    assert_eq!(faults(&after), [fault]);
}

#[test]
fn a_torn_file_changes_no_answer() {
    survives(|fs| files(fs).iter().for_each(|path| fs.edit(path, |bytes| bytes.truncate(700))), Fault::Torn);
}

#[test]
fn a_flipped_bit_changes_no_answer() {
    survives(|fs| files(fs).iter().for_each(|path| fs.edit(path, |bytes| bytes[2000] ^= 1)), Fault::Corrupt);
}

#[test]
fn a_foreign_file_under_a_block_s_name_changes_no_answer() {
    survives(|fs| files(fs).iter().for_each(|path| fs.edit(path, |bytes| bytes.fill(b'x'))), Fault::Foreign);
}

#[test]
fn a_block_under_another_key_changes_no_answer() {
    let swap = |fs: &RamFileSystem| {
        let paths = files(fs);
        let mut contents: Vec<Vec<u8>> = Vec::new();
        paths.iter().for_each(|path| fs.edit(path, |bytes| contents.push(bytes.clone())));
        contents.rotate_left(1);
        paths.iter().zip(contents).for_each(|(path, content)| fs.edit(path, |bytes| *bytes = content));
    };
    survives(swap, Fault::WrongTokens);
}

#[test]
fn a_full_disk_changes_no_answer() {
    let full = |verb, _: &Path| (verb == Verb::Write).then_some(Injected::Fails(ErrorKind::StorageFull));
    survives(|fs| fs.inject(full), Fault::NoSpace);
}

#[test]
fn a_read_only_disk_changes_no_answer() {
    let changes = |verb, _: &Path| {
        let changes = !matches!(verb, Verb::Read | Verb::List | Verb::Meta);
        changes.then_some(Injected::Fails(ErrorKind::ReadOnlyFilesystem))
    };
    survives(|fs| fs.inject(changes), Fault::ReadOnly);
}

#[test]
fn a_denied_disk_changes_no_answer() {
    survives(|fs| fs.inject(|_, _| Some(Injected::Fails(ErrorKind::PermissionDenied))), Fault::Denied);
}

#[derive(Debug, Clone)]
enum Op {
    /// Asks a few requests at once.
    Ask(Vec<(u32, usize, usize)>),
    Restart,
    Fault(u8),
    Spoil {
        nth: usize,
        how: u8,
    },
    RemoveFolder,
}

fn op() -> impl Strategy<Value = Op> {
    let ask = (0u32..3, 1usize..330, 1usize..40);
    prop_oneof![
        6 => prop::collection::vec(ask, 1..4).prop_map(Op::Ask),
        2 => Just(Op::Restart),
        1 => (0u8..7).prop_map(Op::Fault),
        2 => (0usize..50, 0u8..4).prop_map(|(nth, how)| Op::Spoil { nth, how }),
        1 => Just(Op::RemoveFolder),
    ]
}

fn inject(fs: &RamFileSystem, fault: u8) {
    let (verb, injected) = match fault {
        0 => (Verb::Write, Injected::Fails(ErrorKind::StorageFull)),
        1 => (Verb::Write, Injected::Tears(700)),
        2 => (Verb::Read, Injected::Fails(ErrorKind::PermissionDenied)),
        3 => (Verb::Rename, Injected::Fails(ErrorKind::ReadOnlyFilesystem)),
        4 => (Verb::Meta, Injected::Fails(ErrorKind::Other)),
        _ => return fs.heal(),
    };
    fs.inject(move |at, _| (at == verb).then_some(injected));
}

fn spoil(fs: &RamFileSystem, nth: usize, how: u8) {
    let files = files(fs);
    let Some(file) = files.get(nth % files.len().max(1)) else { return };
    fs.edit(file, |bytes| {
        let at = nth * 997 % bytes.len().max(1);
        match how {
            0 => bytes.truncate(at),
            1 => bytes.push(0),
            2 => bytes.clear(),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 4),
        }
    });
}

/// Prompts of three families that branch off each other in the middle.
fn prompt((family, len, answer): (u32, usize, usize)) -> Request {
    let tokens = (0..len as u32).map(|t| if t < 100 { t } else { (t * (family + 2)) % 250 });
    let mut request = request(tokens, answer, 1);
    request.sampling.temperature = 0.0;
    request
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_requests_evictions_restarts_and_faults_changes_an_answer(
        ops in prop::collection::vec(op(), 1..20)
    ) {
        let fs = Arc::new(RamFileSystem::default());
        let plain = FIXTURE.start(|_| {});
        let mut cached = engine(&fs);
        for op in ops {
            match op {
                Op::Ask(asked) => {
                    let requests: Vec<_> = asked.into_iter().map(prompt).collect();
                    let answers: Vec<_> =
                        requests.iter().map(|request| cached.submit(request.clone()).expect("there is room")).collect();
                    for (request, answer) in requests.iter().zip(answers) {
                        prop_assert_eq!(collect(answer).0, uncached(&plain, request));
                    }
                }
                Op::Restart => {
                    drop(cached);
                    cached = engine(&fs);
                }
                Op::Fault(fault) => inject(&fs, fault),
                Op::Spoil { nth, how } => spoil(&fs, nth, how),
                Op::RemoveFolder => fs.remove_folder(Path::new(FOLDER)),
            }
        }
    }
}

#[test]
fn the_property_test_meets_evictions_and_restores() {
    let fs = Arc::new(RamFileSystem::default());
    let cached = engine(&fs);
    for family in 0..3 {
        answer(&cached, &prompt((family, 320, 30)));
        cached.flush_cache();
    }
    let (_, hit) = answer(&cached, &prompt((0, 320, 30)));
    let stats = cached.cache_stats();
    assert!(stats.evicted > 0 && stats.disk_hit_tokens > 0 && hit >= 64, "{hit} {stats:?}");
}
