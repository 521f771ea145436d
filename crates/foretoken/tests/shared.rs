//! The shared cache end to end: two servers with their own folders and one secret.

mod common;

use common::redis::Redis;
use common::site::{BLOCK_TOKENS, Site, ask, shared_metric, until};

#[test]
fn blocks_of_one_server_hit_on_the_other() {
    let (site, redis) = (Site::new(), Redis::start("0"));
    let (one, two) = (site.start("one", &redis.url()), site.start("two", &redis.url()));
    let cold = ask(&one, "Bread");
    until("all blocks are stored", || redis.entries() as u64 == cold.blocks);
    // By now the planner has measured what prefill costs on this machine.
    ask(&two, "Milk");
    let warm = ask(&two, "Bread");
    assert_eq!((cold.hit, warm.text), (0, cold.text));
    // The last token of a prompt is always computed, so a prompt of whole blocks loses one of them.
    assert!(
        warm.hit + 2 * BLOCK_TOKENS > cold.blocks * BLOCK_TOKENS,
        "{} of {} blocks",
        warm.hit,
        cold.blocks
    );
    assert_eq!((site.complaints("one"), site.complaints("two")), (vec![], vec![]));
}

#[test]
fn another_secret_finds_nothing() {
    let (site, other, redis) = (Site::new(), Site::new(), Redis::start("0"));
    std::fs::write(other.dir.path().join("secret"), [43; 32]).expect("written");
    let (one, two) = (site.start("one", &redis.url()), other.start("two", &redis.url()));
    let cold = ask(&one, "Bread");
    until("all blocks are stored", || redis.entries() as u64 == cold.blocks);
    assert_eq!(ask(&two, "Bread").hit, 0);
}

#[test]
fn a_mounted_folder_is_a_store_too() {
    let site = Site::new();
    let folder = site.dir.path().join("mounted");
    let folder = folder.to_str().expect("UTF-8");
    let mut one = site.start("one", folder);
    let cold = ask(&one, "Bread");
    one.terminate();
    assert_eq!(one.wait(), Some(0));
    let warm = ask(&site.start("two", folder), "Bread");
    assert_eq!(warm.text, cold.text);
    assert!(warm.hit > BLOCK_TOKENS, "{}", warm.hit);
}

#[test]
fn a_store_that_is_killed_or_hangs_costs_its_timeout_once() {
    let site = Site::new();
    let plain = site.plain();
    let topics: Vec<String> = (0..6).map(|i| format!("Bread of kind {i}")).collect();
    let expected: Vec<String> = topics.iter().map(|topic| ask(&plain, topic).text).collect();
    for hangs in [false, true] {
        let name = if hangs { "hangs" } else { "killed" };
        let redis = Redis::start("0");
        let server = site.start(name, &redis.url());
        assert_eq!(ask(&server, &topics[0]).text, expected[0]);
        // A frozen server is kept until the end: once dropped, it refuses connections instead of hanging.
        let frozen = hangs.then(|| redis.freeze()).map(|()| redis);
        for (topic, text) in topics[1..].iter().zip(&expected[1..]) {
            assert_eq!(ask(&server, topic).text, *text, "{name}");
        }
        // One lookup and one write may have been under way when the breaker opened.
        let waited = shared_metric(&server, "foretoken_cache_faults_total", "timeout");
        assert!(waited <= 2, "{waited} operations waited for a store that {name}");
        until("it is logged", || !site.complaints(name).is_empty());
        assert!(site.complaints(name).len() <= 2, "{:?}", site.complaints(name));
        drop(frozen);
    }
}

#[test]
fn a_full_store_serves_what_it_has_and_complains_once() {
    // Room for a few blocks of 1.4 MB.
    let (site, redis) = (Site::new(), Redis::start("12mb"));
    let (plain, one) = (site.plain(), site.start("one", &redis.url()));
    for topic in ["Bread", "Milk", "Salt"] {
        assert_eq!(ask(&one, topic).text, ask(&plain, topic).text);
    }
    until("it is full", || !site.complaints("one").is_empty());
    assert_eq!(site.complaints("one").len(), 1, "{:?}", site.complaints("one"));
    assert!(site.complaints("one")[0].contains("no_space"), "{:?}", site.complaints("one"));
    let two = site.start("two", &redis.url());
    let warm = ask(&two, "Bread");
    assert_eq!(warm.text, ask(&plain, "Bread").text);
    assert!(warm.hit >= BLOCK_TOKENS, "{}", warm.hit);
}

#[test]
fn a_store_that_cannot_be_named_is_refused_before_anything_is_loaded() {
    let refusal = |store: &str| {
        let output = common::run(&["serve", "--port", "0", "--cache-shared", store]);
        assert!(!output.status.success());
        common::stderr(&output)
    };
    assert!(refusal("./relative").contains("absolute path"), "{}", refusal("./relative"));
    assert!(refusal("memcached://host").contains("redis://HOST:PORT"));
    let without = if cfg!(feature = "s3") { "s3://" } else { "s3://bucket" };
    let says = if cfg!(feature = "s3") { "names no bucket" } else { "--features s3" };
    assert!(refusal(without).contains(says), "{}", refusal(without));
}
