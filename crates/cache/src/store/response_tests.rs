use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::clock::SystemClock;
use crate::keys::{Fingerprint, Scope, ServerSecret};

/// A manual clock in milliseconds since 1970 that advances by `tick` at each reading.
struct Wall {
    time: Arc<AtomicU64>,
    tick: u64,
}

impl Clock for Wall {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.time.load(Relaxed))
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.time.fetch_add(self.tick, Relaxed))
    }
}

fn scope(tenant: &str) -> Scope {
    ServerSecret::new([3; 32]).scope(tenant, Fingerprint::of(&[]))
}

fn response(prompt: &[u32], tokens: &[u32]) -> Response {
    Response { prompt: prompt.to_vec(), tokens: tokens.to_vec(), reason: 1, logprobs: None }
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), StoreConfig::default(), Arc::new(SystemClock::new()))
}

fn keep(store: &Store, tenant: &str, prompt: &[u32], tokens: &[u32]) -> ResponseKey {
    let scope = scope(tenant);
    let key = ResponseKey::of(&scope, prompt, b"t=0");
    store.keep_response(key, scope.id(), &response(prompt, tokens));
    key
}

#[test]
fn a_response_is_found_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let key = keep(&open(&dir), "a", &[1, 2], &[3, 4]);
    assert_eq!(open(&dir).response(&key, &[1, 2]), Some(response(&[1, 2], &[3, 4])));
}

#[test]
fn another_tenant_or_parameter_is_another_key() {
    let key = ResponseKey::of(&scope("a"), &[1], b"t=0");
    assert_ne!(key, ResponseKey::of(&scope("b"), &[1], b"t=0"));
    assert_ne!(key, ResponseKey::of(&scope("a"), &[1], b"t=1"));
    assert_ne!(key, ResponseKey::of(&scope("a"), &[2], b"t=0"));
}

#[test]
fn the_prompt_is_compared_even_when_the_key_matches() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let key = keep(&store, "a", &[1, 2], &[3]);
    store.flush();
    assert_eq!(store.response(&key, &[1, 9]), None);
}

#[test]
fn a_damaged_file_is_set_aside_and_replaced_by_an_empty_one() {
    let dir = TempDir::new().unwrap();
    let key = keep(&open(&dir), "a", &[1], &[2]);
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..64].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();

    let store = open(&dir);
    assert_eq!(store.counters().set_aside.load(Relaxed), 1);
    assert_eq!(store.response(&key, &[1]), None);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name.to_string_lossy().contains("damaged")), "{names:?}");
    keep(&store, "a", &[1], &[2]);
    store.flush();
    assert!(store.response(&key, &[1]).is_some());
}

#[test]
fn a_flipped_bit_in_a_row_is_a_miss_and_deletes_the_row() {
    let dir = TempDir::new().unwrap();
    let key = keep(&open(&dir), "a", &[1], &[2]);
    let db = Connection::open(dir.path().join(FILE)).unwrap();
    db.execute("UPDATE responses SET body = CAST(x'00' || substr(body, 2) AS BLOB)", []).unwrap();
    drop(db);
    let store = open(&dir);
    assert_eq!(store.response(&key, &[1]), None);
    assert_eq!(store.counters().damaged_rows.load(Relaxed), 1);
    store.flush();
    assert_eq!(store.response_totals().0, 0);
}

#[test]
fn a_folder_that_cannot_be_written_means_memory_only() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), b"no folder").unwrap();
    let store =
        Store::open(&dir.path().join("file/data"), StoreConfig::default(), Arc::new(SystemClock::new()));
    assert_eq!(store.path(), None);
    let key = keep(&store, "a", &[1], &[2]);
    store.flush();
    assert!(store.response(&key, &[1]).is_some());
}

#[test]
fn the_least_recently_used_responses_are_evicted_first() {
    let dir = TempDir::new().unwrap();
    let time = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::new(Wall { time: Arc::clone(&time), tick: 1 });
    // Room for about 50 responses of 1,000 tokens.
    let config = StoreConfig { responses_bytes_max: 200_000, ..StoreConfig::default() };
    let store = Store::open(dir.path(), config, clock);
    let keys: Vec<_> = (0..50).map(|i| keep(&store, "a", &[i], &[7; 990])).collect();
    store.flush();
    assert!(store.response(&keys[0], &[0]).is_some(), "used again");
    store.flush();
    keep(&store, "a", &[99], &[7; 990]);
    store.flush();
    assert!(store.response_totals().1 <= 200_000);
    assert!(store.response(&keys[1], &[1]).is_none(), "the oldest unused one");
    assert!(store.counters().evicted_bytes.load(Relaxed) > 0);
}

#[test]
fn responses_expire() {
    let dir = TempDir::new().unwrap();
    let time = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::new(Wall { time: Arc::clone(&time), tick: 0 });
    let config = StoreConfig { responses_age_ms_max: 500, ..StoreConfig::default() };
    let store = Store::open(dir.path(), config, clock);
    let key = keep(&store, "a", &[1], &[2]);
    store.flush();
    time.store(2_000, Relaxed);
    keep(&store, "a", &[2], &[2]);
    store.flush();
    assert!(store.response(&key, &[1]).is_none());
    assert_eq!(store.counters().evicted_age.load(Relaxed), 1);
}

#[test]
fn forgetting_a_tenant_leaves_the_others() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let (a, b) = (keep(&store, "a", &[1], &[2]), keep(&store, "b", &[1], &[2]));
    store.forget_responses(Some(scope("a").id()));
    assert!(store.response(&a, &[1]).is_none());
    assert!(store.response(&b, &[1]).is_some());
}

proptest! {
    #[test]
    fn a_response_survives_being_stored(
        prompt in prop::collection::vec(any::<u32>(), 0..200),
        tokens in prop::collection::vec(any::<u32>(), 1..50),
        reason in any::<u8>(),
        with_scores in any::<bool>(),
        top in 0usize..20,
    ) {
        let score = |id| StoredScore { id, logprob: -(id as f32) };
        let logprobs = with_scores.then(|| {
            tokens.iter().map(|&id| Alternatives { chosen: score(id), top: vec![score(id); top] }).collect()
        });
        let response = Response { prompt, tokens, reason, logprobs };
        let body = response::encode(&response);
        prop_assert_eq!(response::decode(&body), Some(response));
        for cut in 0..body.len() {
            // A torn body is refused or, at an exact boundary, is a shorter valid one; it never panics.
            let _ = response::decode(&body[..cut]);
        }
    }
}
