//! Layers with a sliding window: memory and disk hold what their window needs, and no answer shows it. A window that reached
//! into a block without its windowed part would end the engine, and with it the test.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use common::{CTX, Fixture, collect, request};
use foretoken_cache::disk::ram_file_system::RamFileSystem;
use foretoken_engine::{CacheUse, Engine, EngineConfig, Request, context_bytes};
use proptest::prelude::*;

/// Windows of less than a block, of a block, of more; on some layers and on all; with sinks.
const KINDS: [&str; 5] = ["gemma3", "gemma2-window", "gemma3-rope", "phi3", "gpt-oss"];
const STEP: usize = 64;
const FOLDER: &str = "/blocks";

/// Memory for one context and no more.
fn small(fixture: &Fixture, config: &mut EngineConfig) {
    config.step_tokens = STEP;
    config.kv_bytes = context_bytes(&fixture.model.kv_layout(), CTX, STEP);
}

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|t| (seed * 37 + t * 7 + t / 90) % 250).collect()
}

fn ask(engine: &Engine, request: Request) -> (Vec<u32>, usize) {
    let (ids, _, summary) = collect(engine.submit(request).unwrap());
    (ids, summary.usage.cache_hit_tokens)
}

fn uncached(request: Request) -> Request {
    Request { cache: CacheUse { read: false, write: false }, ..request }
}

#[test]
fn a_context_needs_less_memory_than_whole_blocks_and_answers_the_same() {
    for kind in KINDS {
        let fixture = Fixture::named(kind);
        let (engine, roomy) = (fixture.start(|config| small(&fixture, config)), fixture.start(|_| {}));
        let requests = || {
            let long = (1..4).map(|seed| request(prompt(seed, 200), 300, u64::from(seed)));
            // The same again, and ones that leave it in the middle.
            let again = request(prompt(3, 200), 300, 3);
            let branches = [90, 130, 192].map(|len| request([prompt(3, len), prompt(9, 50)].concat(), 60, 1));
            long.chain([again]).chain(branches)
        };
        for (at, request) in requests().enumerate() {
            let expected = ask(&roomy, uncached(request.clone())).0;
            assert!(ask(&engine, request).0 == expected, "{kind}: request {at}");
        }
        let stats = engine.cache_stats();
        assert!(stats.evicted_windowed > 0, "{kind}: {stats:?}");
        assert!(stats.ram_bytes_max <= context_bytes(&fixture.model.kv_layout(), CTX, STEP) as u64, "{kind}");
        assert!(stats.ram_bytes_max < (CTX / 64 * fixture.block_bytes()) as u64, "{kind}");
    }
}

#[test]
fn sequences_that_compete_for_windowed_parts_answer_as_alone() {
    for kind in KINDS {
        let fixture = Fixture::named(kind);
        let engine = fixture.start(|config| small(&fixture, config));
        let roomy = fixture.start(|_| {});
        // Some have a prefix in common, so that they wait for each other's blocks.
        let prompt = |i: u32| [prompt(i % 2, 130), prompt(i, 60)].concat();
        let requests = || (0..6).map(|i| request(prompt(i), 100, u64::from(i)));
        let expected: Vec<_> = requests().map(|request| ask(&roomy, uncached(request)).0).collect();
        let answers: Vec<_> = requests().map(|request| engine.submit(request).unwrap()).collect();
        let got: Vec<_> = answers.into_iter().map(|answer| collect(answer).0).collect();
        assert!(got == expected, "{kind}");
    }
}

#[test]
fn disk_and_restore_take_the_windowed_parts_before_the_ends_only() {
    // Window of 24: resuming after whole blocks reads one windowed part; one more is written.
    let fixture = Fixture::named("gemma3");
    let fs = Arc::new(RamFileSystem::default());
    let start = || {
        fixture.start(|config| {
            config.disk = Some((FOLDER.into(), 1 << 30));
            config.file_system = fs.clone();
        })
    };
    let layout = fixture.model.kv_layout();
    let (lasting, windowed) = (512 + layout.lasting_bytes() as u64, 512 + layout.windowed_bytes() as u64);
    let before = start();
    let (expected, _) = ask(&before, request(prompt(1, 330), 100, 1));
    before.flush_cache();
    // 429 tokens have KV: six whole blocks. Blocks 3 and 4 end the prompt, 4 and 5 the answer.
    assert_eq!(before.cache_stats().disk.unwrap().bytes, 6 * lasting + 3 * windowed);
    drop(before);
    let after = start();
    assert_eq!(ask(&after, request(prompt(1, 330), 100, 1)), (expected, 320));
    let stats = after.cache_stats().disk.unwrap();
    assert_eq!((stats.read, stats.read_bytes), (6, 5 * lasting + windowed));
}

#[test]
fn where_a_prompt_leaves_a_stored_one_the_third_request_hits() {
    let fixture = Fixture::named("gemma3");
    let fs = Arc::new(RamFileSystem::default());
    let start = || {
        fixture.start(|config| {
            config.disk = Some((FOLDER.into(), 1 << 30));
            config.file_system = fs.clone();
        })
    };
    let hit = |seed| {
        let engine = start();
        let (_, hit) = ask(&engine, request([prompt(1, 200), prompt(seed, 150)].concat(), 5, 1));
        engine.flush_cache();
        hit
    };
    // The first leaves no windowed parts in its middle; the second finds out that it is where prompts part.
    assert_eq!([hit(2), hit(3), hit(4)], [0, 0, 192]);
}

#[test]
fn a_draft_model_with_windows_changes_no_answer() {
    let fixture = Fixture::named("gemma3");
    // Its own copy: what it drafts is what the target says.
    let engine = fixture.start(|config| config.draft_model = Some((fixture.model.clone(), 0)));
    let plain = fixture.start(|config| config.speculation.enabled = false);
    for seed in 1..4 {
        let request = || request(prompt(seed, 200), 250, u64::from(seed));
        let expected = ask(&plain, uncached(request())).0;
        for time in ["cold", "from memory"] {
            assert!(ask(&engine, request()).0 == expected, "{seed}, {time}");
        }
    }
}

/// What happens to an engine with little memory over a disk.
#[derive(Debug, Clone)]
enum Op {
    Ask {
        seeds: [u32; 2],
        cut: u32,
        max_tokens: usize,
    },
    Together {
        seeds: [u32; 3],
        max_tokens: usize,
    },
    Restart,
    /// Removes the files whose number is a multiple.
    Lose(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => ([0u32..3, 0u32..3], 1u32..260, 1usize..200)
            .prop_map(|(seeds, cut, max_tokens)| Op::Ask { seeds, cut, max_tokens }),
        2 => ([0u32..3, 0u32..3, 0u32..3], 1usize..200)
            .prop_map(|(seeds, max_tokens)| Op::Together { seeds, max_tokens }),
        2 => Just(Op::Restart),
        1 => (2usize..6).prop_map(Op::Lose),
    ]
}

static FIXTURES: LazyLock<[Fixture; 3]> =
    LazyLock::new(|| ["gemma3", "gemma3-rope", "gpt-oss"].map(Fixture::named));

fn asked(seeds: &[u32], cut: u32, max_tokens: usize) -> Request {
    let tokens = seeds.iter().flat_map(|&seed| prompt(seed, cut.min(150))).collect::<Vec<_>>();
    request(tokens, max_tokens, 5)
}

fn blocks(fs: &RamFileSystem) -> Vec<PathBuf> {
    fs.files(Path::new(FOLDER))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_evicted_or_lost_answers_are_the_same(
        kind in 0usize..3, ops in prop::collection::vec(op(), 4..14),
    ) {
        let fixture = &FIXTURES[kind];
        let fs = Arc::new(RamFileSystem::default());
        let start = || fixture.start(|config| {
            small(fixture, config);
            config.disk = Some((FOLDER.into(), 40 * fixture.block_bytes() as u64));
            config.file_system = fs.clone();
        });
        let plain = fixture.start(|_| {});
        let mut engine = start();
        for op in ops {
            match op {
                Op::Ask { seeds, cut, max_tokens } => {
                    let request = asked(&seeds, cut, max_tokens);
                    let expected = ask(&plain, uncached(request.clone())).0;
                    prop_assert!(ask(&engine, request).0 == expected);
                }
                Op::Together { seeds, max_tokens } => {
                    let requests: Vec<_> = seeds.iter().map(|&seed| asked(&[0, seed], 120, max_tokens)).collect();
                    let answers: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
                    for (request, answer) in requests.into_iter().zip(answers) {
                        prop_assert!(collect(answer).0 == ask(&plain, uncached(request)).0);
                    }
                }
                Op::Restart => {
                    engine.flush_cache();
                    drop(engine);
                    engine = start();
                }
                Op::Lose(every) => {
                    engine.flush_cache();
                    blocks(&fs).iter().step_by(every).for_each(|path| fs.edit(path, Vec::clear));
                }
            }
        }
    }
}
