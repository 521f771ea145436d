//! The shared cache end to end: two servers with their own folders and one secret.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::Server;
use common::redis::Redis;
use serde_json::{Value, json};

const TEXT: &str = "/v1/completions";
const BLOCK_TOKENS: u64 = 64;
/// Longer than any response here takes.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A prompt of several blocks that shares nothing with another `topic`'s.
fn body(topic: &str) -> Value {
    let items = (0..70).map(|i| format!("{topic} {i} costs {} coins. ", i * 7 % 31));
    json!({"prompt": items.collect::<String>(), "max_tokens": 12, "temperature": 0, "ignore_eos": true})
}

struct Answer {
    text: String,
    hit: u64,
    /// Whole blocks of prompt and answer.
    blocks: u64,
}

fn ask(server: &Server, topic: &str) -> Answer {
    let answer = server.ask(TEXT, &body(topic));
    let count = |field: &str| answer["usage"][field].as_u64().expect("a count");
    Answer {
        text: answer["choices"][0]["text"].as_str().expect("a text").to_owned(),
        hit: count("prompt_cache_hit_tokens"),
        // The last token of an answer is never fed.
        blocks: (count("total_tokens") - 1) / BLOCK_TOKENS,
    }
}

/// A folder for each server, the secret that they share, and the model they all read.
struct Site {
    dir: tempfile::TempDir,
    model: String,
}

impl Site {
    fn new() -> Site {
        let model = common::stdout_of(&["pull", "smollm2"]).trim().to_owned();
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("secret"), [42; 32]).expect("written");
        Site { dir, model }
    }

    fn start(&self, name: &str, store: &str) -> Server {
        let path = |name: &str| self.dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let (data, secret, log) = (path(name), path("secret"), path(&format!("{name}.log")));
        let model = ["--model", &self.model, "--data-dir", &data, "--cache-secret-file", &secret];
        let shared = ["--cache-shared", store, "--cache-shared-timeout", &TIMEOUT.as_millis().to_string()];
        Server::start_logging(&[&model[..], &shared[..]].concat(), Path::new(&log))
    }

    /// A server without disk and shared cache, to compare with.
    fn plain(&self) -> Server {
        let data = self.dir.path().join("plain");
        let data = data.to_str().expect("UTF-8");
        Server::start(&["--model", &self.model, "--data-dir", data, "--cache-disk", "0"])
    }

    /// Lines about the shared store in a server's log.
    fn complaints(&self, name: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).expect("a log");
        log.lines().filter(|line| line.contains("shared")).map(str::to_owned).collect()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

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
        let slow = topics[1..].iter().zip(&expected[1..]).filter(|(topic, text)| {
            let start = Instant::now();
            assert_eq!(ask(&server, topic).text, **text, "{name}");
            start.elapsed() >= TIMEOUT
        });
        let slow = slow.count();
        assert!(slow <= 1, "{slow} requests waited for a store that {name}");
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
