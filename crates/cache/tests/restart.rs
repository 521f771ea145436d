//! The disk tier on a real folder.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{LAYOUT, assert_true, compute_all, prompt, scope};
use foretoken_cache::disk::file_system::RealFileSystem;
use foretoken_cache::{BlockPool, DiskConfig, DiskTier, Enqueued, SystemClock, Wanted};

fn open(folder: &Path) -> DiskTier {
    let config = DiskConfig { queue_blocks: 100, ..DiskConfig::new(folder, u64::MAX) };
    DiskTier::open(config, Arc::new(RealFileSystem), Arc::new(SystemClock::new()))
}

fn write(tier: &DiskTier, pool: &BlockPool, tokens: &[u32]) {
    for block in compute_all(pool, &scope("alice"), tokens) {
        assert_eq!(tier.write(&block), Enqueued::Queued);
    }
}

#[test]
fn a_reopen_loop_finds_all_that_was_written_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, scope) = (BlockPool::new(LAYOUT, 100), scope("alice"));
    for round in 1..6 {
        let tier = open(folder.path());
        for seed in 1..10 {
            for wanted in Wanted::chain(&scope, &prompt(seed, 4), 0) {
                let read = tier.read(&wanted, pool.open().unwrap());
                assert_eq!(read.is_ok(), seed < round, "prompt {seed} in round {round}");
                read.iter().for_each(assert_true);
            }
        }
        write(&tier, &pool, &prompt(round, 4));
        drop(tier);
    }
}

#[cfg(unix)]
#[test]
fn files_and_folders_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (pool, scope) = (BlockPool::new(LAYOUT, 1), scope("alice"));
    let tier = open(&folder.path().join("cache"));
    let block = compute_all(&pool, &scope, &prompt(1, 1)).remove(0);
    tier.write(&block);
    tier.flush();
    let key = block.key().unwrap().to_string();
    let fan_out = folder.path().join("cache").join(&key[..2]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&fan_out), mode(&fan_out.join(key))), (0o700, 0o600));
}

#[test]
fn a_hundred_thousand_files_delay_neither_start_nor_lookup() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, scope) = (BlockPool::new(LAYOUT, 8), scope("alice"));
    let tokens = prompt(1, 4);
    let tier = open(folder.path());
    write(&tier, &pool, &tokens);
    drop(tier);
    for first in 0..=255u8 {
        let fan_out = folder.path().join(format!("{first:02x}"));
        std::fs::create_dir_all(&fan_out).unwrap();
        for n in 0..391u32 {
            std::fs::File::create(fan_out.join(format!("{first:02x}{n:062x}"))).unwrap();
        }
    }

    let began = Instant::now();
    let tier = open(folder.path());
    let opened = began.elapsed();
    for wanted in Wanted::chain(&scope, &tokens, 0) {
        assert_true(&tier.read(&wanted, pool.open().unwrap()).unwrap());
    }
    let looked_up = began.elapsed();
    tier.wait_listed();
    let listed = began.elapsed();
    assert!(tier.stats().blocks >= 100_000);
    assert!(opened < Duration::from_millis(100), "opening took {opened:?}");
    assert!(looked_up < Duration::from_millis(500), "a first lookup took {looked_up:?}");
    assert!(listed < Duration::from_secs(5), "listing took {listed:?}");
}
