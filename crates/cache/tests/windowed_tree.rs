//! The prefix tree over blocks that may lack their windowed part, by example and against a naive model.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::{WINDOWED, assert_true, compute_all, prompt, scope};
use foretoken_cache::{BlockPool, Capacity, Inserted, PrefixTree, RecomputeCost, Scope, SealedBlock};
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;

fn tree() -> PrefixTree {
    PrefixTree::new(WINDOWED, RecomputeCost { token_s: 0.001, context_token_s: 1e-6 })
}

/// Inserts blocks; the ones at `lasting` without their windowed part.
fn insert(tree: &mut PrefixTree, blocks: Vec<SealedBlock>, lasting: impl Fn(usize) -> bool) {
    for (at, block) in blocks.into_iter().enumerate() {
        let block = if lasting(at) { block.without_windowed() } else { block };
        assert!(!matches!(tree.insert(block), Inserted::Orphan(_)));
    }
    tree.check_integrity().unwrap();
}

/// Tokens matched. Every block has the windowed part that resuming reads, and its bytes.
fn matched(tree: &mut PrefixTree, scope: &Scope, tokens: &[u32]) -> usize {
    let found = tree.match_prefix(scope, tokens);
    let reads = WINDOWED.windowed_from(found.tokens());
    let tip = found.branch.iter().map(|(block, _)| block);
    for (at, block) in found.blocks.iter().chain(tip).enumerate() {
        assert!(at < reads || block.is_whole(), "block {at} of {} tokens lacks a part", found.tokens());
        assert_true(block);
    }
    assert_eq!(tree.survey(scope, tokens), (found.whole.clone(), found.tokens()));
    found.tokens()
}

#[test]
fn a_match_ends_where_the_window_finds_every_part() {
    let (alice, tokens) = (scope("alice"), prompt(1, 6));
    // Resuming after n blocks reads the parts of blocks n - 2 and n - 1.
    for (lasting, expected) in [
        (&[][..], 384),
        (&[0, 1, 2, 3], 384),
        (&[4], 256),
        (&[5], 320),
        (&[1, 4], 256),
        (&[1, 3, 5], 64),
        (&[0, 3, 4], 192),
        (&[0, 2, 4], 0),
    ] {
        let (pool, mut tree) = (BlockPool::new(WINDOWED, 8), tree());
        insert(&mut tree, compute_all(&pool, &alice, &tokens), |at| lasting.contains(&at));
        assert_eq!(matched(&mut tree, &alice, &tokens), expected, "without {lasting:?}");
        assert_eq!(tree.match_prefix(&alice, &tokens).whole.len(), 6, "all of it is known");
    }
}

#[test]
fn a_match_inside_a_block_needs_what_its_window_reaches() {
    let (alice, tokens) = (scope("alice"), prompt(1, 4));
    for (lasting, asked, expected) in [
        // The window of 100 before token 164 begins in block 1.
        (&[0][..], 164, 164),
        (&[1], 164, 64),
        // Before token 170 it does, too; before token 250 it begins in block 2.
        (&[1], 170, 64),
        (&[0, 1], 250, 250),
        // Without the block's own part the match ends before it.
        (&[3], 250, 192),
        (&[1, 3], 250, 64),
    ] {
        let (pool, mut tree) = (BlockPool::new(WINDOWED, 8), tree());
        insert(&mut tree, compute_all(&pool, &alice, &tokens), |at| lasting.contains(&at));
        assert_eq!(matched(&mut tree, &alice, &tokens[..asked]), expected, "{asked} without {lasting:?}");
    }
}

#[test]
fn blocks_before_the_window_are_returned_without_their_windowed_part() {
    let (pool, alice, mut tree) = (BlockPool::new(WINDOWED, 8), scope("alice"), tree());
    insert(&mut tree, compute_all(&pool, &alice, &prompt(1, 6)), |_| false);
    let found = tree.match_prefix(&alice, &prompt(1, 6));
    let whole: Vec<bool> = found.blocks.iter().map(SealedBlock::is_whole).collect();
    assert_eq!(whole, [false, false, false, false, true, true]);
    // So only those two are held against eviction.
    assert_eq!(tree.evict_windowed(usize::MAX, NOW), 4);
    assert_eq!((tree.counts().windowed, pool.windowed_counts().free), (2, 6));
}

#[test]
fn a_recomputed_block_completes_the_one_in_the_tree() {
    let (pool, alice, mut tree) = (BlockPool::new(WINDOWED, 16), scope("alice"), tree());
    let tokens = prompt(1, 4);
    insert(&mut tree, compute_all(&pool, &alice, &tokens), |_| true);
    assert_eq!(matched(&mut tree, &alice, &tokens), 0);
    for block in compute_all(&pool, &alice, &tokens) {
        let Inserted::Known(known) = tree.insert(block) else { panic!("its tokens are in the tree") };
        assert!(known.is_whole());
        assert_true(&known);
    }
    tree.check_integrity().unwrap();
    assert_eq!(matched(&mut tree, &alice, &tokens), 256);
    assert_eq!(
        (pool.counts().sealed, pool.windowed_counts().sealed),
        (4, 4),
        "one physical copy of each part"
    );
}

#[test]
fn the_ends_that_are_used_outlast_the_middle() {
    let (pool, alice, mut tree) = (BlockPool::new(WINDOWED, 32), scope("alice"), tree());
    let (system, others) = (prompt(1, 4), prompt(9, 3));
    insert(&mut tree, compute_all(&pool, &alice, &[&system[..], &prompt(2, 5)].concat()), |_| false);
    insert(&mut tree, compute_all(&pool, &alice, &others), |_| false);
    // A second request with the same beginning.
    assert_eq!(matched(&mut tree, &alice, &[&system[..], &prompt(3, 1)].concat()), 256);
    assert_eq!(tree.evict_windowed(7, NOW), 7);
    assert_eq!(matched(&mut tree, &alice, &system), 256);
    assert_eq!(matched(&mut tree, &alice, &others), 192);
    tree.check_integrity().unwrap();
}

#[test]
fn a_pin_keeps_what_resuming_after_it_reads() {
    let (pool, alice, mut tree) = (BlockPool::new(WINDOWED, 16), scope("alice"), tree());
    let tokens = &prompt(1, 6)[..350];
    insert(&mut tree, compute_all(&pool, &alice, tokens), |_| false);
    let minute = Duration::from_secs(60);
    assert_eq!(tree.pin(&alice, tokens, minute), 6);
    // The unfilled block, and those that resuming after 320 or more tokens reads.
    assert_eq!(tree.windowed_pinned(None, NOW), (3, 3));
    assert_eq!(tree.evict_windowed(usize::MAX, NOW), 3);
    assert_eq!(matched(&mut tree, &alice, tokens), 350);
    assert_eq!(matched(&mut tree, &alice, &tokens[..320]), 320);
    let keys = tree.pinned_keys(NOW);
    assert_eq!(keys.len(), 5 + 2, "of five full blocks, two with both parts");
    assert_eq!(tree.evict_windowed(usize::MAX, minute), 3, "the pin has expired");
    assert_eq!(matched(&mut tree, &alice, tokens), 0);
}

#[test]
fn what_a_sequence_left_behind_is_evicted_before_older_ends() {
    let (pool, alice, mut tree) = (BlockPool::new(WINDOWED, 32), scope("alice"), tree());
    insert(&mut tree, compute_all(&pool, &alice, &prompt(1, 3)), |_| false);
    let long = compute_all(&pool, &alice, &prompt(2, 8));
    for block in long {
        let key = block.key().unwrap();
        assert!(matches!(tree.insert(block), Inserted::Added));
        tree.leave_windowed(&key);
    }
    // Read since, so not left any more.
    assert_eq!(matched(&mut tree, &alice, &prompt(2, 4)), 256);
    tree.check_integrity().unwrap();
    assert_eq!(tree.evict_windowed(6, NOW), 6);
    assert_eq!(matched(&mut tree, &alice, &prompt(1, 3)), 192);
    assert_eq!(matched(&mut tree, &alice, &prompt(2, 8)), 256);
    assert_eq!(tree.evict_windowed(1, NOW), 1);
    assert_eq!(matched(&mut tree, &alice, &prompt(1, 3)), 192, "what was read before came first");
}

/// What is in the tree: prefixes of whole blocks, and those of them whose last block has its windowed part, in the
/// order in which they are evicted.
#[derive(Default)]
struct Naive {
    blocks: HashSet<Vec<u32>>,
    windowed: Vec<Vec<u32>>,
    /// How many of them, from the first on, were left behind.
    left: usize,
    held: Vec<Vec<u32>>,
}

impl Naive {
    fn touch(&mut self, prefix: &[u32]) {
        if let Some(at) = self.windowed.iter().position(|known| known == prefix) {
            let prefix = self.remove(at);
            self.windowed.push(prefix);
        }
    }

    fn leave(&mut self, prefix: &[u32]) {
        if let Some(at) = self.windowed.iter().position(|known| known == prefix) {
            let prefix = self.remove(at);
            self.windowed.insert(self.left, prefix);
            self.left += 1;
        }
    }

    fn remove(&mut self, at: usize) -> Vec<u32> {
        self.left -= usize::from(at < self.left);
        self.windowed.remove(at)
    }

    fn insert(&mut self, prefix: &[u32], whole: bool) {
        self.blocks.insert(prefix.to_vec());
        if whole && !self.windowed.iter().any(|known| known == prefix) {
            self.windowed.push(prefix.to_vec());
        }
        self.touch(prefix);
    }

    /// By definition: the most blocks, all known, with every windowed part that a position from there on can see.
    fn matched(&self, tokens: &[u32]) -> usize {
        let known = |blocks: usize| self.blocks.contains(&tokens[..blocks * 64]);
        let whole = |block: usize| self.windowed.iter().any(|known| *known == tokens[..(block + 1) * 64]);
        let seen =
            |blocks: usize| (0..blocks).filter(move |block| (block + 1) * 64 + WINDOWED.window > blocks * 64);
        let fits = |blocks: &usize| (1..=*blocks).all(known) && seen(*blocks).all(whole);
        (0..=tokens.len() / 64).rev().find(fits).unwrap()
    }

    fn evict_windowed(&mut self, wanted: usize) -> usize {
        let before = self.windowed.len();
        for _ in 0..wanted {
            let free = self.windowed.iter().position(|prefix| !self.held.contains(prefix));
            free.map(|at| self.remove(at));
        }
        before - self.windowed.len()
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// Blocks of these patterns; those at a set bit without their windowed part.
    Remember {
        patterns: Vec<u32>,
        lasting: u8,
    },
    Match {
        patterns: Vec<u32>,
        hold: bool,
    },
    LetGo,
    Leave {
        patterns: Vec<u32>,
    },
    Evict {
        wanted: usize,
    },
    EvictWindowed {
        wanted: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let patterns = || prop::collection::vec(0u32..2, 1..7);
    prop_oneof![
        4 => (patterns(), any::<u8>(), any::<bool>())
            .prop_map(|(patterns, bits, whole)| Op::Remember { patterns, lasting: if whole { 0 } else { bits } }),
        4 => (patterns(), any::<bool>()).prop_map(|(patterns, hold)| Op::Match { patterns, hold }),
        1 => Just(Op::LetGo),
        2 => patterns().prop_map(|patterns| Op::Leave { patterns }),
        1 => (1usize..4).prop_map(|wanted| Op::Evict { wanted }),
        3 => (1usize..6).prop_map(|wanted| Op::EvictWindowed { wanted }),
    ]
}

fn tokens_of(patterns: &[u32]) -> Vec<u32> {
    patterns.iter().flat_map(|pattern| (0..64).map(move |i| pattern * 1000 + i)).collect()
}

struct Both {
    pool: BlockPool,
    alice: Scope,
    tree: PrefixTree,
    naive: Naive,
    held: Vec<SealedBlock>,
}

impl Both {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Remember { patterns, lasting } => {
                let tokens = tokens_of(&patterns);
                let blocks = compute_all(&self.pool, &self.alice, &tokens);
                let bare = |at: usize| lasting & (1 << at) != 0;
                insert(&mut self.tree, blocks, bare);
                (0..patterns.len()).for_each(|at| self.naive.insert(&tokens[..(at + 1) * 64], !bare(at)));
            }
            Op::Match { patterns, hold } => {
                let tokens = tokens_of(&patterns);
                let expected = self.naive.matched(&tokens);
                let found = self.tree.match_prefix(&self.alice, &tokens);
                assert_eq!(found.tokens(), expected * 64, "{patterns:?}");
                assert!(found.branch.is_none(), "the patterns differ in their first token");
                for (at, block) in found.blocks.iter().enumerate() {
                    assert_true(block);
                    let prefix = &tokens[..(at + 1) * 64];
                    let reads = prefix.len() + WINDOWED.window > expected * 64;
                    assert_eq!(block.is_whole(), reads, "block {at} of {expected}");
                    if reads {
                        self.naive.touch(prefix);
                        if hold {
                            self.naive.held.push(prefix.to_vec());
                        }
                    }
                }
                if hold {
                    self.held.extend(found.blocks);
                }
            }
            Op::LetGo => {
                self.held.clear();
                self.naive.held.clear();
            }
            Op::Leave { patterns } => {
                let tokens = tokens_of(&patterns);
                let keys: Vec<_> = self.alice.chain(&tokens).map(|(_, key)| key).collect();
                for (at, key) in keys.iter().enumerate() {
                    self.tree.leave_windowed(key);
                    self.naive.leave(&tokens[..(at + 1) * 64]);
                }
            }
            Op::Evict { wanted } => {
                // Which ones is the other test's subject.
                self.tree.evict(wanted, NOW);
                let (tree, alice) = (&self.tree, &self.alice);
                let there = |prefix: &Vec<u32>| tree.closest(alice, prefix).agreed == prefix.len();
                self.naive.blocks.retain(there);
                for at in (0..self.naive.windowed.len()).rev() {
                    if !there(&self.naive.windowed[at]) {
                        self.naive.remove(at);
                    }
                }
            }
            Op::EvictWindowed { wanted } => {
                assert_eq!(self.tree.evict_windowed(wanted, NOW), self.naive.evict_windowed(wanted));
            }
        }
        self.tree.check_integrity().unwrap();
        let counts = self.tree.counts();
        assert_eq!((counts.blocks, counts.windowed), (self.naive.blocks.len(), self.naive.windowed.len()));
        assert_eq!(
            self.pool.windowed_counts().sealed,
            counts.windowed,
            "no part is lost or kept for nothing"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_tree_agrees_with_the_definition_of_a_window(ops in prop::collection::vec(op(), 1..40)) {
        let mut both = Both {
            pool: BlockPool::new(WINDOWED, Capacity { blocks: 500, windowed: 500 }),
            alice: scope("alice"),
            tree: tree(),
            naive: Naive::default(),
            held: Vec::new(),
        };
        ops.into_iter().for_each(|op| both.apply(op));
        both.held.clear();
        both.tree.reset(None);
        both.tree.check_integrity().unwrap();
        prop_assert_eq!((both.pool.counts().free, both.pool.windowed_counts().free), (500, 500));
    }
}
