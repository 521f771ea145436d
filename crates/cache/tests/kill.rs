//! A server is killed at any instant while it writes and evicts: what is on disk afterwards is whole or a miss.
//!
//! `FORETOKEN_KILLS=200 cargo test -p foretoken-cache --test kill` runs the long version.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{assert_true, compute_all, prompt, scope};
use foretoken_cache::disk::file_system::RealFileSystem;
use foretoken_cache::{BlockLayout, BlockPool, DiskConfig, DiskTier, SystemClock, Wanted};

const FOLDER_VARIABLE: &str = "FORETOKEN_KILL_FOLDER";
const LAYOUT: BlockLayout = BlockLayout::whole(256 * 1024);
const PROMPTS: u32 = 8;
const BLOCKS: usize = 8;
const BUDGET_BYTES: u64 = 40 * 256 * 1024;

fn open(folder: &Path) -> DiskTier {
    let config = DiskConfig::new(folder, BUDGET_BYTES);
    DiskTier::open(config, Arc::new(RealFileSystem), Arc::new(SystemClock::new()))
}

/// Not a test by itself: the process that is killed. Writes for ever, over budget, so that files are evicted.
#[test]
#[ignore = "the child of `a_kill_at_any_instant_leaves_whole_blocks_or_none`"]
fn child() {
    let folder = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from).expect("started by the parent");
    let (tier, pool, scope) = (open(&folder), BlockPool::new(LAYOUT, 64), scope("alice"));
    for seed in (1..=PROMPTS).cycle() {
        for block in compute_all(&pool, &scope, &prompt(seed, BLOCKS)) {
            tier.write(&block);
        }
        tier.flush();
    }
}

/// Reads every readable block; returns how many there were.
fn check(folder: &Path) -> usize {
    let (tier, pool, scope) = (open(folder), BlockPool::new(LAYOUT, 2), scope("alice"));
    let mut read = 0;
    for seed in 1..=PROMPTS {
        for wanted in Wanted::chain(&scope, &prompt(seed, BLOCKS), 0) {
            if let Ok(block) = tier.read(&wanted, pool.open().unwrap()) {
                assert_true(&block);
                read += 1;
            }
        }
    }
    // The system stays up when a process is killed, so thanks to the rename no bad file is left.
    assert_eq!(tier.verify().bad, []);
    assert_eq!(tier.stats().faults, []);
    read
}

#[test]
fn a_kill_at_any_instant_leaves_whole_blocks_or_none() {
    let kills: u64 = std::env::var("FORETOKEN_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let random = RandomState::new();
    let mut read = 0;
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--quiet"])
            .env(FOLDER_VARIABLE, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(20_000 + random.hash_one(kill) % 60_000));
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        read += check(folder.path());
    }
    assert!(read > 0, "no child lived long enough to write");
}
