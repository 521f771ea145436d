//! Explaining how far a prompt hits, over memory and disk.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::sync::Arc;
use std::time::SystemTime;

use common::{LAYOUT, expected, prompt, scope};
use foretoken_cache::disk::ram_file_system::RamFileSystem;
use foretoken_cache::{
    BLOCK_TOKENS, CacheConfig, ContextCache, DiskConfig, DiskTier, Explained, ManualClock, RecomputeCost,
    Scope,
};

fn cache(fs: Option<&Arc<RamFileSystem>>) -> ContextCache {
    let config =
        CacheConfig { layout: LAYOUT, ram: 64.into(), advise: |_| {}, cost: RecomputeCost::default() };
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let disk = fs.map(|fs| {
        let config = DiskConfig { queue_blocks: 500, ..DiskConfig::new("/cache", u64::MAX) };
        let tier = DiskTier::open(config, fs.clone(), clock.clone());
        tier.wait_listed();
        tier
    });
    ContextCache::new(config, disk, None, clock).unwrap()
}

fn fill(cache: &ContextCache, scope: &Scope, tokens: &[u32]) {
    let mut place = Some(scope.root());
    for tokens in tokens.chunks(BLOCK_TOKENS) {
        let at = place.expect("only the last block is unfilled");
        let mut open = cache.open().unwrap();
        expected(scope, at, tokens, &mut open);
        place = cache.insert(open.seal(scope, at, tokens)).next();
    }
    cache.flush();
}

/// The prompt with different tokens from `at` on.
fn leaving_at(prompt: &[u32], at: usize) -> Vec<u32> {
    prompt.iter().enumerate().map(|(i, token)| if i < at { *token } else { token + 500_000 }).collect()
}

fn assert_leaves(explained: &Explained, prompt: &[u32], at: usize, shown: usize) {
    assert_eq!(explained.closest.agreed, at);
    assert_eq!(explained.closest.cached, prompt[at..at + shown]);
}

#[test]
fn memory_is_shown_to_the_end_of_the_block_and_through_the_next() {
    let (cache, scope, known) = (cache(None), scope("alice"), prompt(1, 3));
    fill(&cache, &scope, &known);
    let explained = cache.explain(&scope, &leaving_at(&known, 70));
    assert_leaves(&explained, &known, 70, 122);
    assert_eq!((explained.memory, explained.disk, explained.shared), (70, 0, Some(0)));
}

#[test]
fn a_known_prompt_agrees_in_all_and_its_last_token_is_computed() {
    let (cache, scope, known) = (cache(None), scope("alice"), prompt(1, 2));
    fill(&cache, &scope, &known);
    let explained = cache.explain(&scope, &known);
    assert_eq!((explained.closest.agreed, explained.memory), (128, 127));
}

#[test]
fn a_prefix_that_is_only_on_disk_is_shown_too() {
    let (fs, scope, known) = (Arc::default(), scope("alice"), prompt(1, 4));
    fill(&cache(Some(&fs)), &scope, &known);
    let restarted = cache(Some(&fs));
    let explained = restarted.explain(&scope, &leaving_at(&known, 150));
    assert_leaves(&explained, &known, 150, 106);
    assert_eq!((explained.memory, explained.disk), (0, 128), "the disk has whole blocks only");
    let explained = restarted.explain(&scope, &known);
    assert_eq!((explained.closest.agreed, explained.disk), (256, 192));
}

#[test]
fn the_longer_of_memory_and_disk_is_explained() {
    let (fs, scope, known) = (Arc::default(), scope("alice"), prompt(1, 4));
    fill(&cache(Some(&fs)), &scope, &known);
    let restarted = cache(Some(&fs));
    fill(&restarted, &scope, &leaving_at(&known, 80));
    let explained = restarted.explain(&scope, &leaving_at(&known, 200));
    assert_leaves(&explained, &known, 200, 56);
    assert_eq!((explained.memory, explained.disk), (64, 128));
}

#[test]
fn nothing_of_another_tenant_is_compared() {
    let (fs, known) = (Arc::default(), prompt(1, 3));
    fill(&cache(Some(&fs)), &scope("alice"), &known);
    let restarted = cache(Some(&fs));
    fill(&restarted, &scope("alice"), &known);
    assert_eq!(
        restarted.explain(&scope("bob"), &known),
        Explained { shared: Some(0), ..Explained::default() }
    );
}

#[test]
fn explaining_changes_no_counter() {
    let (fs, scope, known) = (Arc::default(), scope("alice"), prompt(1, 3));
    fill(&cache(Some(&fs)), &scope, &known);
    let restarted = cache(Some(&fs));
    let figures = |cache: &ContextCache| {
        let stats = cache.stats();
        let disk = stats.disk.unwrap();
        (stats.queries, stats.ram_hit_tokens, stats.tree, disk.read, disk.blocks, disk.faults)
    };
    let before = figures(&restarted);
    restarted.explain(&scope, &leaving_at(&known, 100));
    assert_eq!(figures(&restarted), before);
}
