//! Law 1 and law 2 where they meet: a block has the same bytes however it was computed, all that a head for multi-token
//! prediction keeps in it included. So what follows a hit is what follows when everything is computed.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{CTX, Fixture, collect, request};
use foretoken_cache::{SharedConfig, Store};
use foretoken_engine::{Engine, EngineConfig, Request, Speculation, SpeculationChoice};

/// One tiny model for each kind of layer.
const KINDS: [&str; 5] = ["qwen3", "gemma3", "deepseek3", "deepseek3-experts", "deepseek3-mtp"];

/// Every file below a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files
                .insert(path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
        }
    }
    files
}

fn prompt() -> Vec<u32> {
    (0..200).map(|t| (t * 7 + t / 90) % 250).collect()
}

/// The blocks that an engine leaves after `ask` asked it.
fn blocks(
    fixture: &Fixture,
    change: impl FnOnce(&mut EngineConfig),
    ask: impl FnOnce(&Engine),
) -> BTreeMap<String, Vec<u8>> {
    blocks_in(tempfile::tempdir().unwrap().path(), fixture, change, ask)
}

/// The same in a folder that may have blocks already.
fn blocks_in(
    dir: &Path,
    fixture: &Fixture,
    change: impl FnOnce(&mut EngineConfig),
    ask: impl FnOnce(&Engine),
) -> BTreeMap<String, Vec<u8>> {
    let engine = fixture.start(|config| {
        config.disk = Some((dir.into(), 1 << 30));
        config.speculation = Speculation { enabled: false, ..Speculation::default() };
        change(config);
    });
    ask(&engine);
    engine.flush_cache();
    drop(engine);
    files(dir)
}

fn ask_for(engine: &Engine, request: Request) -> Vec<u32> {
    collect(engine.submit(request).unwrap()).0
}

/// Fails unless every block of `expected` is among `got`, with the same bytes.
fn assert_same(kind: &str, how: &str, got: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in expected {
        let same = got.get(name).unwrap_or_else(|| panic!("{kind}, {how}: no block {name}"));
        let differs = same.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!((differs, same.len()), (None, bytes.len()), "{kind}, {how}: first byte that differs");
    }
}

#[test]
fn a_block_has_the_same_bytes_however_it_was_computed() {
    for kind in KINDS {
        let fixture = Fixture::named(kind);
        let whole = || request(prompt(), 120, 5);
        let mut answer = Vec::new();
        let expected = blocks(&fixture, |_| {}, |engine| answer = ask_for(engine, whole()));
        // 319 tokens: the last one is never fed. With windows, also the windowed parts before the ends of prompt and answer.
        let files = if kind == "gemma3" { 4 + 3 } else { 4 };
        assert_eq!(expected.len(), files, "{kind}: {:?}", expected.keys());

        let got = blocks(&fixture, |config| config.step_tokens = 7, |engine| drop(ask_for(engine, whole())));
        assert_same(kind, "in small steps", &got, &expected);

        let got = blocks(
            &fixture,
            |_| {},
            |engine| {
                // Hits that end in the middle of a block, and one that ends with a block.
                for cached in [31, 100, 128] {
                    ask_for(engine, request(prompt()[..cached].to_vec(), 1, 5));
                }
                assert_eq!(ask_for(engine, whole()), answer);
            },
        );
        assert_same(kind, "after hits", &got, &expected);

        let got = blocks(
            &fixture,
            |_| {},
            |engine| {
                // Right but for every seventh token, so that drafts are accepted in parts.
                let wrong = |(at, &token): (usize, &u32)| if at % 7 == 6 { (token + 1) % 250 } else { token };
                let prediction = answer.iter().enumerate().map(wrong).collect();
                let on = SpeculationChoice { enabled: Some(true), ..SpeculationChoice::default() };
                assert_eq!(ask_for(engine, Request { prediction, speculation: on, ..whole() }), answer);
            },
        );
        assert_same(kind, "with drafts", &got, &expected);

        let few = (CTX.div_ceil(64) + 1) * fixture.block_bytes();
        let got = blocks(
            &fixture,
            |config| config.kv_bytes = few,
            |engine| {
                let others = (1..4).map(|seed| {
                    let other = (0..200).map(|t| (seed * 37 + t * 7) % 250);
                    engine.submit(request(other, 150, u64::from(seed))).unwrap()
                });
                let others: Vec<_> = others.collect();
                assert_eq!(ask_for(engine, whole()), answer);
                others.into_iter().for_each(|other| drop(collect(other)));
                assert!(engine.stats().preemptions_total > 0, "{kind}: the test must make blocks run out");
            },
        );
        assert_same(kind, "preempted", &got, &expected);
    }
}

/// What follows a hit from a lower tier is computed from what it left in the blocks, the head's state included: so the
/// blocks after it, and the draft tokens that are accepted, are those of a run without a hit.
#[test]
fn blocks_after_a_hit_from_disk_or_the_shared_store_have_the_same_bytes() {
    for kind in KINDS {
        let fixture = Fixture::named(kind);
        let whole = || request(prompt(), 120, 5);
        let part = || request(prompt()[..150].to_vec(), 1, 5);
        let mut answer = Vec::new();
        let expected = blocks(&fixture, |_| {}, |engine| answer = ask_for(engine, whole()));
        let hits = |engine: &Engine| {
            let (ids, _, summary) = collect(engine.submit(whole()).unwrap());
            assert_eq!((ids, summary.usage.cache_hit_tokens), (answer.clone(), 128), "{kind}");
        };

        let dir = tempfile::tempdir().unwrap();
        blocks_in(dir.path(), &fixture, |_| {}, |engine| drop(ask_for(engine, part())));
        let got = blocks_in(dir.path(), &fixture, |_| {}, hits);
        assert_same(kind, "after a restart", &got, &expected);

        let store = tempfile::tempdir().unwrap();
        let shared = || Some(SharedConfig::new(Store::Folder(store.path().into())));
        blocks(&fixture, |config| config.shared = shared(), |engine| drop(ask_for(engine, part())));
        let got = blocks(&fixture, |config| config.shared = shared(), hits);
        assert_same(kind, "on another machine", &got, &expected);
    }
}
