//! Cache administration: pins leave room for a context, prewarming stores no answer, clearing deletes everything.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{CTX, Fixture, collect, request};
use foretoken_cache::SystemClock;
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_engine::{Engine, Request, Responses};

const MINUTE: Duration = Duration::from_secs(60);

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (seed * 37 + i * 7 + i / 11) % 250).collect()
}

fn hit(engine: &Engine, tenant: &str, prompt: &[u32]) -> usize {
    let asked = Request { tenant: tenant.into(), ..request(prompt.iter().copied(), 1, 1) };
    collect(engine.submit(asked).unwrap()).2.usage.cache_hit_tokens
}

fn warm(engine: &Engine, tenant: &str, prompt: &[u32]) {
    collect(engine.submit(Engine::prewarming(prompt.to_vec(), tenant.into())).unwrap());
}

#[test]
fn a_whole_context_always_runs_beside_what_is_pinned() {
    let fixture = Fixture::load();
    let context = CTX.div_ceil(64);
    let bytes = (context + 5) * fixture.block_bytes();
    let engine = fixture.start(|config| config.kv_bytes = bytes);
    assert_eq!(engine.cache_info().pinned_max, 5);
    let (pinned, larger) = (prompt(1, 250), prompt(2, 330));
    warm(&engine, "a", &pinned);
    assert_eq!(engine.pin("a", &pinned, MINUTE), Ok(250));
    let refused = engine.can_pin("a", &larger).unwrap_err();
    assert_eq!((refused.left, refused.max, refused.ctx), (64, 320, CTX));
    assert!(
        refused.to_string().contains("64 tokens of the 320 that all tenants together may pin"),
        "{refused}"
    );
    warm(&engine, "a", &prompt(3, 100));
    assert!(engine.pin("a", &prompt(3, 100), MINUTE).is_err());
    assert_eq!(engine.can_pin("a", &pinned), Ok(()), "it is pinned already");
    for seed in 10..16 {
        let whole = request(prompt(seed, 60), CTX - 60, 1);
        assert_eq!(collect(engine.submit(whole).unwrap()).0.len(), CTX - 60);
    }
    assert_eq!(hit(&engine, "a", &pinned), 249);
    assert_eq!(engine.unpin("a", &pinned), 4);
    assert_eq!(engine.cache_info().stats.pinned, 0);
    for seed in 20..23 {
        collect(engine.submit(request(prompt(seed, 60), CTX - 60, 1)).unwrap());
    }
    assert_eq!(hit(&engine, "a", &pinned), 0);
}

#[test]
fn prewarming_stores_blocks_and_no_answer_and_clearing_deletes_one_tenants() {
    let fixture = Fixture::load();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::in_memory(StoreConfig::default(), Arc::new(SystemClock::new())));
    let engine = fixture.start(|config| {
        config.store = Some(Arc::clone(&store));
        config.responses = Responses::Always;
        config.disk = Some((folder.path().to_owned(), 1 << 30));
    });
    let tokens = prompt(1, 200);
    for tenant in ["a", "b"] {
        warm(&engine, tenant, &tokens);
        warm(&engine, tenant, &tokens);
    }
    store.flush();
    assert_eq!((store.response_totals().0, engine.stats().replayed_total), (0, 0));
    for tenant in ["a", "b"] {
        assert_eq!(hit(&engine, tenant, &tokens), 199);
    }
    store.flush();
    assert_eq!(engine.cache_info().responses.0, 2);
    let forgotten = engine.clear(Some("a"));
    assert_eq!((forgotten.ram_blocks, forgotten.disk_blocks), (4, 3));
    assert_eq!(engine.cache_info().responses.0, 1);
    let (memory, disk) = engine.cache_entries();
    let others = |scope| scope == engine.scope_id("b");
    assert!(memory.iter().all(|prefix| others(prefix.scope)) && memory.len() == 1);
    assert!(disk.iter().all(|file| others(file.scope)) && disk.len() == 3);
    assert_eq!(engine.verify_cache().unwrap().good, 3);
    assert_eq!(hit(&engine, "a", &tokens), 0);
    engine.clear(None);
    assert_eq!(engine.cache_entries(), (Vec::new(), Vec::new()));
}
