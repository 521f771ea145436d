//! All tiers over blocks with a windowed part: what a hit reads, what evicting and losing parts costs, and that nothing
//! is read that is not there.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{WINDOWED, assert_true, fill, prompt, scope};
use foretoken_cache::disk::file_system::FileSystem;
use foretoken_cache::disk::ram_file_system::RamFileSystem;
use foretoken_cache::format::HEADER_BYTES;
use foretoken_cache::{
    BLOCK_TOKENS, CacheConfig, Capacity, ContextCache, DiskConfig, DiskTier, Fault, ManualClock, PinBudget,
    Rates, RecomputeCost, SealedBlock, SharedConfig, SharedTier, Store, SystemClock, Wanted,
};

const FOLDER: &str = "/cache";
const WAIT: Duration = Duration::from_secs(10);
/// Reading is quick and computing slow, so that everything is restored.
const QUICK: Rates = Rates {
    disk_block_s: 1e-6,
    shared_block_s: 1e-6,
    recompute: RecomputeCost { token_s: 1.0, context_token_s: 0.0 },
};
const LASTING_FILE: u64 = (HEADER_BYTES + WINDOWED.lasting) as u64;
const WINDOWED_FILE: u64 = (HEADER_BYTES + WINDOWED.windowed) as u64;

fn disk(fs: &Arc<RamFileSystem>) -> DiskTier {
    let config = DiskConfig { queue_blocks: 500, ..DiskConfig::new(FOLDER, u64::MAX) };
    let tier = DiskTier::open(config, fs.clone(), Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH)));
    tier.wait_listed();
    tier
}

fn store(folder: &Path) -> SharedTier {
    let store = Store::Folder(folder.to_owned());
    let config =
        SharedConfig { queue_blocks: 500, timeout: Duration::from_secs(5), ..SharedConfig::new(store) };
    SharedTier::open(config, Arc::new(SystemClock::new())).unwrap()
}

fn cache(ram: Capacity, disk: Option<DiskTier>, shared: Option<SharedTier>) -> ContextCache {
    let config = CacheConfig { layout: WINDOWED, ram, advise: |_| {}, cost: RecomputeCost::default() };
    ContextCache::new(config, disk, shared, Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH))).unwrap()
}

const ROOMY: Capacity = Capacity { blocks: 64, windowed: 64 };

/// What an engine does with a prompt of whole blocks: restores what is worth it, resumes, computes the rest, and writes
/// the windowed parts that resuming at the end reads. Returns the tokens that it resumed after.
fn prefill(cache: &ContextCache, tokens: &[u32]) -> usize {
    let alice = scope("alice");
    let hit = cache.lookup(&alice, tokens);
    let mut found = hit.ram;
    if let Some(mut restore) = cache.begin_restore(hit.below, &QUICK) {
        while !cache.wait_restore(&mut restore, WAIT).done {}
        found = cache.lookup_again(&alice, tokens, usize::MAX).ram;
    }
    let resumed = found.tokens();
    let mut blocks = found.blocks;
    let matched = blocks.len();
    let reads = WINDOWED.windowed_from(resumed);
    for (at, block) in blocks.iter().enumerate() {
        assert!(at < reads || block.is_whole(), "block {at} of {resumed} lacks what resuming reads");
        assert_true(block);
    }
    for tokens in tokens[blocks.len() * BLOCK_TOKENS..].chunks(BLOCK_TOKENS) {
        let place =
            blocks.last().map_or(alice.root(), |block| alice.next(block.place(), block.key().unwrap()));
        let mut open = cache.open().expect("what nobody holds can be evicted");
        fill(&alice, place, tokens, &mut open);
        blocks.push(cache.insert(open.seal(&alice, place, tokens)));
        // As a sequence does: what the window has left behind is given up.
        let from = WINDOWED.windowed_from(blocks.len() * BLOCK_TOKENS);
        let left = (from.min(blocks.len())).saturating_sub(1);
        blocks[..from].iter_mut().for_each(SealedBlock::drop_windowed);
        if left >= matched {
            cache.leave_windowed(blocks[left..from].iter());
        }
    }
    if blocks.len() * BLOCK_TOKENS > resumed {
        cache.write_windowed(&blocks[WINDOWED.windowed_from(blocks.len() * BLOCK_TOKENS)..]);
    }
    // What is queued is held until it is written.
    cache.flush();
    cache.check_integrity().unwrap();
    resumed
}

/// Files of both parts of each block of a prompt.
fn files(tokens: &[u32]) -> Vec<[std::path::PathBuf; 2]> {
    let path = |wanted: &Wanted| {
        let key = wanted.key.to_string();
        Path::new(FOLDER).join(&key[..2]).join(&key)
    };
    let wanted = Wanted::chain(&scope("alice"), tokens, 0);
    wanted.iter().map(|wanted| [path(wanted), path(&wanted.windowed())]).collect()
}

#[test]
fn memory_holds_more_blocks_than_windowed_parts() {
    let cache = cache(Capacity { blocks: 41, windowed: 5 }, None, None);
    let (one, two) = (prompt(1, 20), prompt(2, 20));
    assert_eq!(prefill(&cache, &one), 0);
    assert_eq!(prefill(&cache, &one), 20 * 64);
    assert_eq!(prefill(&cache, &two), 0);
    let stats = cache.stats();
    assert_eq!((stats.tree.blocks, stats.tree.windowed, stats.evicted), (40, 5, 0));
    assert_eq!(stats.evicted_windowed, 35);
    assert_eq!(stats.ram_bytes, 40 * 1024 + 5 * 2048);
    assert_eq!((prefill(&cache, &one), prefill(&cache, &two)), (20 * 64, 20 * 64), "both ends are there");
    // In the middle of a prompt the parts are gone: it is computed again, into the blocks that are there.
    assert_eq!(prefill(&cache, &one[..10 * 64]), 0);
    assert_eq!(prefill(&cache, &one[..10 * 64]), 10 * 64);
    assert_eq!(cache.stats().tree.blocks, 40);
}

#[test]
fn a_restart_reads_the_windowed_parts_of_the_end_only() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 10);
    let before = cache(ROOMY, Some(disk(&fs)), None);
    prefill(&before, &tokens);
    before.flush();
    assert_eq!(before.stats().disk.unwrap().bytes, 10 * LASTING_FILE + 2 * WINDOWED_FILE);
    drop(before);
    let after = cache(ROOMY, Some(disk(&fs)), None);
    assert_eq!(prefill(&after, &tokens), 640);
    let stats = after.stats().disk.unwrap();
    assert_eq!((stats.read, stats.read_bytes), (12, 10 * LASTING_FILE + 2 * WINDOWED_FILE));
    assert_eq!(stats.faults, []);
}

#[test]
fn a_restart_hits_at_the_ends_that_were_written() {
    let fs = Arc::new(RamFileSystem::default());
    let (tokens, longer) = (prompt(1, 6), [prompt(1, 6), prompt(2, 6)].concat());
    let before = cache(ROOMY, Some(disk(&fs)), None);
    prefill(&before, &tokens);
    prefill(&before, &longer);
    before.flush();
    drop(before);
    for (asked, resumed) in
        [(&longer[..], 768), (&[&tokens[..], &prompt(3, 2)].concat(), 384), (&longer[..9 * 64], 384)]
    {
        let after = cache(ROOMY, Some(disk(&fs)), None);
        let below = after.lookup(&scope("alice"), asked).below;
        assert!(below.known_blocks() * 64 >= resumed);
        assert_eq!(prefill(&after, asked), resumed);
    }
    // Between them the parts are not there: nothing is read that cannot be used.
    let after = cache(ROOMY, Some(disk(&fs)), None);
    let below = after.lookup(&scope("alice"), &tokens[..3 * 64]).below;
    assert_eq!((below.known_blocks(), below.disk_tokens()), (3, 0));
    assert_eq!(prefill(&after, &tokens[..3 * 64]), 0);
    assert_eq!(after.stats().disk.unwrap().read, 0);
}

#[test]
fn windowed_parts_that_memory_lacks_come_from_disk() {
    let fs = Arc::new(RamFileSystem::default());
    let cache = cache(Capacity { blocks: 40, windowed: 4 }, Some(disk(&fs)), None);
    let tokens = prompt(1, 10);
    prefill(&cache, &tokens);
    cache.flush();
    for seed in 2..4 {
        prefill(&cache, &prompt(seed, 10));
    }
    let read = || cache.stats().disk.unwrap().read;
    assert_eq!((prefill(&cache, &tokens), read()), (640, 2), "its lasting parts are in memory");
    assert_eq!((prefill(&cache, &tokens), read()), (640, 2), "and now the others, too");
}

#[test]
fn lost_and_damaged_windowed_parts_shorten_the_hit_and_are_no_error() {
    type Spoil = fn(&RamFileSystem, &Path);
    let remove: Spoil = |fs, path| fs.remove(path).unwrap();
    let tear: Spoil = |fs, path| fs.edit(path, |bytes| bytes.truncate(700));
    let flip: Spoil = |fs, path| fs.edit(path, |bytes| bytes[900] ^= 1);
    let swap: Spoil = |fs, path| {
        let other = &files(&prompt(1, 10))[9][0];
        let mut stolen = Vec::new();
        fs.edit(other, |bytes| stolen = bytes.clone());
        fs.edit(path, |bytes| *bytes = stolen.clone());
    };
    for (spoil, fault) in [
        (remove, None),
        (tear, Some(Fault::Torn)),
        (flip, Some(Fault::Corrupt)),
        (swap, Some(Fault::WrongTokens)),
    ] {
        let fs = Arc::new(RamFileSystem::default());
        let tokens = prompt(1, 10);
        let before = cache(ROOMY, Some(disk(&fs)), None);
        prefill(&before, &tokens[..4 * 64]);
        prefill(&before, &tokens);
        before.flush();
        drop(before);
        spoil(&fs, &files(&tokens)[8][1]);
        let after = cache(ROOMY, Some(disk(&fs)), None);
        // What is there of the part before: the end that was written earlier.
        assert_eq!(prefill(&after, &tokens), 256, "{fault:?}");
        let faults = after.stats().disk.unwrap().faults;
        assert_eq!(faults, fault.map(|fault| (fault, 1)).into_iter().collect::<Vec<_>>());
        after.flush();
        drop(after);
        let again = cache(ROOMY, Some(disk(&fs)), None);
        assert_eq!(prefill(&again, &tokens), 640, "{fault:?}: it was written again");
    }
}

#[test]
fn another_machine_reads_both_parts_from_the_shared_store() {
    let (folder, fs) = (tempfile::tempdir().unwrap(), Arc::new(RamFileSystem::default()));
    let tokens = prompt(1, 10);
    let one = cache(ROOMY, None, Some(store(folder.path())));
    prefill(&one, &tokens[..4 * 64]);
    prefill(&one, &tokens);
    one.flush();
    assert_eq!(one.stats().shared.unwrap().written, 10 + 2 + 2);
    let two = cache(ROOMY, Some(disk(&fs)), Some(store(folder.path())));
    assert_eq!(prefill(&two, &[&tokens[..], &prompt(2, 3)].concat()), 640, "the store has no more of it");
    let stats = two.stats().shared.unwrap();
    assert_eq!((stats.read, stats.queries), (12, 13));
    two.flush();
    drop(two);
    // It has them on its own disk now.
    let three = cache(ROOMY, Some(disk(&fs)), None);
    assert_eq!(prefill(&three, &tokens), 640);
}

#[test]
fn an_end_that_the_shared_store_lacks_costs_few_reads() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = prompt(1, 20);
    let one = cache(ROOMY, None, Some(store(folder.path())));
    prefill(&one, &tokens);
    one.flush();
    let two = cache(ROOMY, None, Some(store(folder.path())));
    // It leaves the stored prefix in the middle, where no windowed part is.
    assert_eq!(prefill(&two, &[&tokens[..15 * 64], &prompt(2, 1)].concat()), 0);
    assert_eq!(two.stats().shared.unwrap().queries, 15 + 1 + 5, "it does not look for all of them");
    // What it computed is an end now.
    two.flush();
    let three = cache(ROOMY, None, Some(store(folder.path())));
    assert_eq!(prefill(&three, &[&tokens[..15 * 64], &prompt(2, 1)].concat()), 16 * 64);
}

#[test]
fn a_restore_needs_room_for_what_it_reads_only() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 10);
    let before = cache(ROOMY, Some(disk(&fs)), None);
    prefill(&before, &tokens);
    before.flush();
    drop(before);
    let after = cache(Capacity { blocks: 10, windowed: 2 }, Some(disk(&fs)), None);
    assert_eq!(prefill(&after, &tokens), 640);
}

#[test]
fn restoring_is_weighed_with_the_windowed_parts_that_it_reads() {
    let fs = Arc::new(RamFileSystem::default());
    let cache = cache(Capacity { blocks: 40, windowed: 4 }, Some(disk(&fs)), None);
    let tokens = prompt(1, 10);
    prefill(&cache, &tokens);
    cache.flush();
    prefill(&cache, &prompt(2, 10));
    prefill(&cache, &prompt(3, 10));
    let below = cache.lookup(&scope("alice"), &tokens).below;
    let rates = |disk_block_s| Rates {
        disk_block_s,
        recompute: RecomputeCost { token_s: 1.0 / 64.0, context_token_s: 0.0 },
        ..QUICK
    };
    // Ten blocks of a second each, for two reads.
    assert!(below.worth_restoring(&rates(4.9)) > 0);
    assert_eq!(below.worth_restoring(&rates(5.1)), 0);
}

#[test]
fn pins_leave_windowed_parts_to_run_with() {
    let cache = cache(Capacity { blocks: 64, windowed: 6 }, None, None);
    let (alice, minute) = (scope("alice"), Duration::from_secs(60));
    let budget = PinBudget { all: 50, tenant: 50, windowed: 3 };
    let (one, two) = (prompt(1, 8), prompt(2, 8));
    prefill(&cache, &one);
    assert_eq!(cache.pin(&alice, &one, minute, budget), Ok(8));
    prefill(&cache, &two);
    let refused = cache.pin(&alice, &two, minute, budget).unwrap_err();
    assert_eq!((refused.wanted, refused.left, refused.share), (2, 1, false));
    assert!(cache.check_pin(&alice, &prompt(3, 8), budget).is_err());
    assert_eq!(cache.check_pin(&alice, &one, budget), Ok(()), "it is pinned already");
    assert_eq!(cache.windowed_max(), Some(4));
    for seed in 4..9 {
        prefill(&cache, &prompt(seed, 8));
    }
    assert_eq!(prefill(&cache, &one), 512);
    cache.unpin(&alice, &one);
    assert_eq!(cache.windowed_max(), Some(6));
}

#[test]
fn listings_and_explanations_tell_blocks_from_their_windowed_parts() {
    let fs = Arc::new(RamFileSystem::default());
    let tokens = prompt(1, 6);
    let before = cache(ROOMY, Some(disk(&fs)), None);
    prefill(&before, &tokens);
    before.flush();
    let mut parts = Vec::new();
    before.disk().unwrap().entries(|entry| parts.push(entry.part));
    assert_eq!(parts.iter().filter(|&&part| part == foretoken_cache::Part::Lasting).count(), 6);
    assert_eq!(parts.len(), 8);
    assert_eq!(before.disk().unwrap().verify().good, 8);
    drop(before);
    let after = cache(ROOMY, Some(disk(&fs)), None);
    let asked = [&tokens[..], &[7; 10]].concat();
    let explained = after.explain(&scope("alice"), &asked);
    assert_eq!((explained.memory, explained.disk, explained.closest.agreed), (0, 384, 384));
    let middle = [&tokens[..3 * 64], &[7; 10]].concat();
    let explained = after.explain(&scope("alice"), &middle);
    assert_eq!(
        (explained.memory, explained.disk),
        (0, 0),
        "all of it is known, and none can be resumed after"
    );
    assert_eq!(explained.closest.cached[..64], tokens[3 * 64..4 * 64]);
    prefill(&after, &tokens);
    let explained = after.explain(&scope("alice"), &asked);
    assert_eq!((explained.memory, explained.disk), (384, 0));
}
