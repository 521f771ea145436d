//! All tiers behind the facade: wherever a block comes from, its bytes are those that computing gives.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{LAYOUT, assert_true, expected, fingerprint, prompt, scope};
use foretoken_cache::disk::ram_file_system::{Injected, RamFileSystem, Verb};
use foretoken_cache::{
    BLOCK_TOKENS, CacheConfig, Closest, ContextCache, DiskConfig, DiskTier, ManualClock, PinBudget, PinLimit,
    Place, Rates, RecomputeCost, Scope, SealedBlock, ServerSecret, SharedConfig, SharedTier, Store,
    SystemClock,
};
use proptest::prelude::*;

const WAIT: Duration = Duration::from_secs(10);
const QUICK: Rates = Rates {
    disk_block_s: 1e-6,
    shared_block_s: 1e-6,
    recompute: RecomputeCost { token_s: 1.0, context_token_s: 0.0 },
};

fn disk(fs: &Arc<RamFileSystem>) -> DiskTier {
    let config = DiskConfig { queue_blocks: 500, ..DiskConfig::new("/cache", u64::MAX) };
    DiskTier::open(config, fs.clone(), Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH)))
}

fn store(folder: &Path) -> SharedTier {
    let config = SharedConfig {
        queue_blocks: 500,
        timeout: Duration::from_secs(5),
        ..SharedConfig::new(Store::Folder(folder.to_owned()))
    };
    SharedTier::open(config, Arc::new(SystemClock::new())).unwrap()
}

fn cache(ram_blocks: usize, disk: Option<DiskTier>, shared: Option<SharedTier>) -> ContextCache {
    let config = CacheConfig {
        layout: LAYOUT,
        ram: ram_blocks.into(),
        advise: |_| {},
        cost: RecomputeCost::default(),
    };
    ContextCache::new(config, disk, shared, Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH))).unwrap()
}

/// What an engine does with a prompt: uses what is in memory, restores what is worth it, computes the rest.
/// Returns the blocks and the number of tokens that were not computed.
fn prefill(cache: &ContextCache, scope: &Scope, tokens: &[u32]) -> (Vec<SealedBlock>, usize) {
    let hit = cache.lookup(scope, tokens);
    let mut blocks = hit.ram.blocks.clone();
    let mut branch = hit.ram.branch;
    if let Some(mut restore) = cache.begin_restore(hit.below, &QUICK) {
        loop {
            let restored = cache.wait_restore(&mut restore, WAIT);
            blocks.extend(restored.blocks);
            if restored.done {
                break;
            }
        }
        if blocks.len() > hit.ram.blocks.len() {
            branch = None;
        }
    }
    let mut known = blocks.len() * BLOCK_TOKENS;
    let after = |block: &SealedBlock| block.key().map(|key| scope.next(block.place(), key));
    let mut place = blocks.last().map_or(scope.root(), |block| after(block).unwrap());
    if let Some((block, agreed)) = branch {
        known += agreed;
        copy_on_write(cache, scope, place, &block, agreed, &tokens[blocks.len() * BLOCK_TOKENS..]);
    }
    for tokens in tokens[blocks.len() * BLOCK_TOKENS..].chunks(BLOCK_TOKENS) {
        let Some(mut open) = cache.open() else { break };
        expected(scope, place, tokens, &mut open);
        let block = cache.insert(open.seal(scope, place, tokens));
        place = after(&block).unwrap_or(place);
        blocks.push(block);
    }
    (blocks, known)
}

/// The first bytes of a block that branches off are those of the block that it was copied from.
fn copy_on_write(
    cache: &ContextCache,
    scope: &Scope,
    at: Place,
    from: &SealedBlock,
    agreed: usize,
    rest: &[u32],
) {
    assert_eq!((from.place(), from.scope().id()), (at, scope.at(at.depth).id()));
    assert_eq!(from.tokens()[..agreed], rest[..agreed]);
    if let Some(mut open) = cache.open() {
        open.copy_from(from);
        assert_eq!(open[..], from[..]);
    }
}

fn known(cache: &ContextCache, tenant: &str, tokens: &[u32]) -> usize {
    let (blocks, known) = prefill(cache, &scope(tenant), tokens);
    blocks.iter().for_each(assert_true);
    cache.check_integrity().unwrap();
    known
}

#[test]
fn the_second_time_nothing_is_computed() {
    let cache = cache(16, None, None);
    let tokens = &prompt(1, 4)[..220];
    assert_eq!(known(&cache, "alice", tokens), 0);
    assert_eq!(known(&cache, "alice", tokens), 220);
    let stats = cache.stats();
    assert_eq!((stats.queries, stats.query_tokens, stats.ram_hit_tokens), (2, 440, 220));
}

#[test]
fn after_a_restart_the_disk_has_the_full_blocks() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = &prompt(1, 4)[..220];
    assert_eq!(known(&cache(16, Some(disk(&fs)), None), "alice", tokens), 0);
    let cache = cache(16, Some(disk(&fs)), None);
    assert_eq!(known(&cache, "alice", tokens), 192);
    assert_eq!(cache.stats().disk_hit_tokens, 192);
    assert_eq!(known(&cache, "alice", tokens), 220, "then memory has all of it");
}

#[test]
fn another_machine_finds_it_in_the_shared_store_and_keeps_it_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = prompt(1, 4);
    let one = cache(16, None, Some(store(folder.path())));
    assert_eq!(known(&one, "alice", &tokens), 0);
    one.flush();
    let fs = Arc::new(RamFileSystem::default());
    let two = cache(16, Some(disk(&fs)), Some(store(folder.path())));
    assert_eq!(known(&two, "alice", &tokens), 256);
    assert_eq!(two.stats().shared_hit_tokens, 256);
    drop((one, two));
    assert_eq!(known(&cache(16, Some(disk(&fs)), None), "alice", &tokens), 256);
}

#[test]
fn a_disk_that_has_only_the_beginning_is_continued_from_the_shared_store() {
    let (folder, fs) = (tempfile::tempdir().unwrap(), Arc::new(RamFileSystem::default()));
    let tokens = prompt(1, 4);
    known(&cache(16, Some(disk(&fs)), None), "alice", &tokens[..128]);
    let elsewhere = cache(16, None, Some(store(folder.path())));
    known(&elsewhere, "alice", &tokens);
    elsewhere.flush();
    let here = cache(16, Some(disk(&fs)), Some(store(folder.path())));
    assert_eq!(known(&here, "alice", &tokens), 256);
    assert_eq!((here.stats().disk_hit_tokens, here.stats().shared_hit_tokens), (128, 128));
}

#[test]
fn no_tier_shows_a_tenant_the_prompts_of_another() {
    let (folder, fs) = (tempfile::tempdir().unwrap(), Arc::new(RamFileSystem::default()));
    let cache = cache(32, Some(disk(&fs)), Some(store(folder.path())));
    let tokens = prompt(1, 4);
    known(&cache, "alice", &tokens);
    cache.flush();
    assert_eq!(known(&cache, "bob", &tokens), 0);
}

#[test]
fn a_declared_prefix_is_shared_and_what_follows_is_not() {
    let (folder, fs) = (tempfile::tempdir().unwrap(), Arc::new(RamFileSystem::default()));
    let tokens = &prompt(1, 5)[..300];
    let prefix = ServerSecret::new([9; 32]).shared_prefix(&tokens[..140], fingerprint()).unwrap();
    let known = |cache: &ContextCache, tenant: &str, tokens: &[u32]| {
        let (blocks, known) = prefill(cache, &scope(tenant).after(&prefix), tokens);
        blocks.iter().for_each(assert_true);
        cache.check_integrity().unwrap();
        known
    };
    let front = cache(32, Some(disk(&fs)), Some(store(folder.path())));
    assert_eq!(known(&front, "alice", tokens), 0);
    assert_eq!(known(&front, "bob", tokens), 128, "whole blocks of the prefix");
    assert_eq!(known(&front, "alice", tokens), 300);
    assert_eq!(known(&front, "bob", tokens), 300);
    // A third tenant hits the prefix, and nothing of what follows it in other tenants' prompts.
    assert_eq!(
        front.closest(&scope("carol").after(&prefix), tokens),
        Closest { agreed: 128, cached: vec![] }
    );
    assert_eq!(known(&front, "carol", tokens), 128);
    front.flush();
    drop(front);
    // The same after a restart, and from the shared store.
    let front = cache(32, Some(disk(&fs)), None);
    assert_eq!((known(&front, "dave", tokens), known(&front, "alice", tokens)), (128, 256));
    drop(front);
    let front = cache(32, None, Some(store(folder.path())));
    assert_eq!((known(&front, "erin", tokens), known(&front, "alice", tokens)), (128, 256));
}

#[test]
fn clearing_a_tenant_clears_what_followed_a_declared_prefix() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 5);
    let prefix = ServerSecret::new([9; 32]).shared_prefix(&tokens[..128], fingerprint()).unwrap();
    let cache = cache(32, Some(disk(&fs)), None);
    for tenant in ["alice", "bob"] {
        prefill(&cache, &scope(tenant).after(&prefix), &tokens);
    }
    cache.flush();
    assert_eq!(cache.clear(Some(scope("alice").id())), (3, 3));
    let hit = |tenant: &str| cache.lookup(&scope(tenant).after(&prefix), &tokens).ram.tokens();
    assert_eq!((hit("alice"), hit("bob")), (128, 320));
}

#[test]
fn blocks_slower_to_read_than_to_compute_are_not_read() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 4);
    known(&cache(16, Some(disk(&fs)), None), "alice", &tokens);
    let cache = cache(16, Some(disk(&fs)), None);
    let hit = cache.lookup(&scope("alice"), &tokens);
    assert_eq!(hit.below.disk_tokens(), 256);
    let slow = Rates { disk_block_s: 65.0, ..QUICK };
    assert!(cache.begin_restore(hit.below, &slow).is_none());
    assert_eq!(cache.stats().restores_not_worth, 1);
}

#[test]
fn a_slow_store_is_measured_again_now_and_then() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 4);
    known(&cache(16, Some(disk(&fs)), None), "alice", &tokens);
    let cache = cache(16, Some(disk(&fs)), None);
    let slow = Rates { disk_block_s: 65.0, ..QUICK };
    let begun = (0..128).filter(|_| {
        let below = cache.lookup(&scope("alice"), &tokens).below;
        cache.begin_restore(below, &slow).is_some()
    });
    assert_eq!(begun.count(), 2);
    assert_eq!(cache.stats().restores_not_worth, 128);
}

#[test]
fn a_slow_read_is_worth_it_where_computing_is_slower() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 8);
    known(&cache(16, Some(disk(&fs)), None), "alice", &tokens);
    let below = cache(16, Some(disk(&fs)), None).lookup(&scope("alice"), &tokens).below;
    // Block i costs 64 + 4096 i and a half of 64² tokens' context: the first ones lose, the later ones win.
    let recompute = RecomputeCost { token_s: 1.0, context_token_s: 1.0 };
    let read = |disk_block_s| below.worth_restoring(&Rates { disk_block_s, recompute, ..QUICK });
    assert_eq!(read(2000.0), 8);
    assert_eq!(read(6000.0), 8, "in sum");
    assert_eq!(read(20_000.0), 0);
}

#[test]
fn a_dropped_restore_returns_its_slots() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 8);
    known(&cache(16, Some(disk(&fs)), None), "alice", &tokens);
    let cache = cache(8, Some(disk(&fs)), None);
    let restore = cache.begin_restore(cache.lookup(&scope("alice"), &tokens).below, &QUICK);
    drop(restore.unwrap());
    for _ in 0..1000 {
        if cache.stats().pool.unwrap().free == 8 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("slots are still taken: {:?}", cache.stats().pool);
}

#[test]
fn a_restore_larger_than_memory_restores_the_beginning() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 8);
    known(&cache(16, Some(disk(&fs)), None), "alice", &tokens);
    assert_eq!(known(&cache(5, Some(disk(&fs)), None), "alice", &tokens), 5 * 64);
}

#[test]
fn memory_evicts_to_insert() {
    let cache = cache(4, None, None);
    for seed in 1..10 {
        assert_eq!(known(&cache, "alice", &prompt(seed, 4)), 0);
        assert_eq!(known(&cache, "alice", &prompt(seed, 4)), 256);
    }
    assert_eq!(cache.stats().evicted, 32);
}

#[test]
fn a_pinned_prefix_stays() {
    let cache = cache(4, None, None);
    known(&cache, "alice", &prompt(1, 2));
    assert_eq!(cache.pin(&scope("alice"), &prompt(1, 2), Duration::from_secs(60), 8), Ok(2));
    for seed in 2..10 {
        known(&cache, "alice", &prompt(seed, 2));
    }
    assert_eq!(known(&cache, "alice", &prompt(1, 2)), 128);
}

#[test]
fn opening_without_a_free_slot_is_refused_and_counted() {
    let cache = cache(2, None, None);
    let held = (cache.open(), cache.open());
    assert!(held.0.is_some() && held.1.is_some() && cache.open().is_none());
    assert_eq!(cache.stats().out_of_slots, 1);
}

#[test]
fn clearing_a_tenant_clears_memory_and_disk() {
    let fs = Arc::new(RamFileSystem::default());
    let cache = cache(16, Some(disk(&fs)), None);
    known(&cache, "alice", &prompt(1, 3));
    known(&cache, "bob", &prompt(1, 3));
    assert_eq!(cache.clear(Some(scope("alice").id())), (3, 3));
    assert_eq!(known(&cache, "alice", &prompt(1, 3)), 0);
    assert_eq!(known(&cache, "bob", &prompt(1, 3)), 192);
}

#[derive(Debug, Clone)]
enum Op {
    Ask { tenant: usize, branches: Vec<u32>, cut: usize },
    Restart,
    Fault(u8),
    Spoil(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..2, prop::collection::vec(0u32..2, 1..5), 0usize..64)
            .prop_map(|(tenant, branches, cut)| Op::Ask { tenant, branches, cut }),
        1 => Just(Op::Restart),
        1 => (0u8..6).prop_map(Op::Fault),
        1 => (0usize..100).prop_map(Op::Spoil),
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_requests_restarts_and_faults_changes_a_block(ops in prop::collection::vec(op(), 1..30)) {
        let fs = Arc::new(RamFileSystem::default());
        let mut front = cache(6, Some(disk(&fs)), None);
        for op in ops {
            match op {
                Op::Ask { tenant, branches, cut } => {
                    let tokens = branches.iter().enumerate();
                    let tokens = tokens.flat_map(|(at, branch)| (0..64).map(move |i| {
                        if i < 20 { at as u32 * 64 + i } else { branch * 1000 + i }
                    }));
                    let mut tokens: Vec<u32> = tokens.collect();
                    tokens.truncate(tokens.len() - cut);
                    known(&front, ["alice", "bob"][tenant], &tokens);
                    front.flush();
                }
                Op::Restart => {
                    drop(front);
                    front = cache(6, Some(disk(&fs)), None);
                }
                Op::Fault(fault) => inject(&fs, fault),
                Op::Spoil(nth) => {
                    let files = fs.files(Path::new("/cache"));
                    if let Some(file) = files.get(nth % files.len().max(1)) {
                        fs.edit(file, |bytes| {
                            let at = nth * 997 % bytes.len().max(1);
                            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 4);
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn pins_respect_the_limit_and_pinning_the_same_again_costs_nothing() {
    let cache = cache(16, None, None);
    let (one, other) = (prompt(1, 3), prompt(2, 3));
    known(&cache, "alice", &one);
    known(&cache, "alice", &other);
    let (alice, minute) = (scope("alice"), Duration::from_secs(60));
    assert_eq!(cache.pin(&alice, &one, minute, 5), Ok(3));
    assert_eq!(cache.pin(&alice, &one, minute, 3), Ok(3));
    let limit = PinLimit { share: false, wanted: 3, left: 2 };
    assert_eq!(cache.pin(&alice, &other, minute, 5), Err(limit));
    assert_eq!((cache.pinned(), cache.stats().pinned), (3, 3));
    // What is not in memory counts as if it were.
    assert_eq!(cache.check_pin(&alice, &other, 5), Err(limit));
    assert_eq!(cache.check_pin(&alice, &prompt(3, 3), 5), Err(limit));
    assert_eq!(cache.check_pin(&alice, &prompt(1, 3), 3), Ok(()));
    cache.unpin(&alice, &one);
    assert_eq!(cache.pin(&alice, &other, minute, 5), Ok(3));
}

#[test]
fn a_tenant_pins_its_share_at_most_and_others_can_still_pin() {
    let cache = cache(16, None, None);
    // A model without windows has no windowed parts, to pin neither.
    let budget = PinBudget { all: 6, tenant: 3, windowed: 0 };
    let ttl = Duration::from_secs(60);
    assert_eq!(cache.check_pin(&scope("bob"), &prompt(9, 3), budget), Ok(()));
    for seed in 0..4 {
        prefill(&cache, &scope("alice"), &prompt(seed, 1));
    }
    for seed in 0..3 {
        assert_eq!(cache.pin(&scope("alice"), &prompt(seed, 1), ttl, budget), Ok(1));
    }
    let refused = PinLimit { wanted: 1, left: 0, share: true };
    assert_eq!(cache.check_pin(&scope("alice"), &prompt(3, 1), budget), Err(refused));
    assert_eq!(cache.pin(&scope("alice"), &prompt(3, 1), ttl, budget), Err(refused));
    prefill(&cache, &scope("bob"), &prompt(9, 3));
    assert_eq!(cache.check_pin(&scope("bob"), &prompt(9, 3), budget), Ok(()));
    assert_eq!(cache.pin(&scope("bob"), &prompt(9, 3), ttl, budget), Ok(3));
    let full = PinLimit { wanted: 1, left: 0, share: false };
    assert_eq!(cache.check_pin(&scope("carol"), &prompt(5, 1), budget), Err(full));
}

#[test]
fn a_pinned_block_outlives_others_on_disk_until_unpinned() {
    let fs = Arc::new(RamFileSystem::default());
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    // Room for six files.
    let budget = 6 * (LAYOUT.lasting as u64 + 512) + 100;
    let config = DiskConfig { queue_blocks: 500, ..DiskConfig::new("/cache", budget) };
    let tier = DiskTier::open(config, fs, clock.clone());
    let memory =
        CacheConfig { layout: LAYOUT, ram: 64.into(), advise: |_| {}, cost: RecomputeCost::default() };
    let cache = ContextCache::new(memory, Some(tier), None, clock.clone()).unwrap();
    let (pinned, alice) = (prompt(1, 2), scope("alice"));
    let on_disk = |cache: &ContextCache| {
        let mut keys = Vec::new();
        cache.disk().unwrap().entries(|entry| keys.push(entry.key));
        alice.chain(&pinned).filter(|(_, key)| keys.contains(key)).count()
    };
    known(&cache, "alice", &pinned);
    cache.pin(&alice, &pinned, Duration::from_secs(1000), 64).unwrap();
    for seed in 2..9 {
        clock.advance(Duration::from_secs(10));
        known(&cache, "alice", &prompt(seed, 2));
        cache.flush();
    }
    assert!(cache.stats().disk.unwrap().evicted > 0);
    assert_eq!(on_disk(&cache), 2);
    cache.unpin(&alice, &pinned);
    for seed in 10..17 {
        clock.advance(Duration::from_secs(10));
        known(&cache, "alice", &prompt(seed, 2));
        cache.flush();
    }
    assert_eq!(on_disk(&cache), 0);
}

#[test]
fn a_second_lookup_after_a_wait_counts_no_token_twice() {
    let cache = cache(16, None, None);
    let tokens = prompt(1, 4);
    known(&cache, "alice", &tokens[..128]);
    let before = cache.stats();
    let had = cache.lookup(&scope("alice"), &tokens).ram.tokens();
    known(&cache, "bob", &tokens);
    let between = cache.stats();
    cache.lookup_again(&scope("alice"), &tokens, had);
    assert_eq!(cache.stats().query_tokens, between.query_tokens);
    assert_eq!(cache.stats().ram_hit_tokens, between.ram_hit_tokens);
    assert_eq!(between.ram_hit_tokens - before.ram_hit_tokens, 128);
    cache.lookup_again(&scope("alice"), &tokens, 28);
    assert_eq!(cache.stats().ram_hit_tokens - between.ram_hit_tokens, 100);
}
