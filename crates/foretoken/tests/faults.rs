//! Faults in the data folder of a running server: responses equal those of a server without a cache, and each kind
//! of fault is logged once.
//!
//! `FORETOKEN_KILLS=200 cargo test -p foretoken --test faults kill` runs the long version of the kills.
#![cfg(unix)]

mod common;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use common::Server;
use serde_json::json;

const TEXT: &str = "/v1/completions";
const TOPICS: [&str; 4] = ["Bread", "Milk", "Salt", "Rye"];

fn body(topic: &str) -> serde_json::Value {
    let items = (0..40).map(|i| format!("{topic} {i} costs {} coins. ", i * 7 % 31));
    json!({"prompt": items.collect::<String>(), "max_tokens": 8, "temperature": 0, "ignore_eos": true})
}

fn ask(server: &Server, topic: &str) -> (String, u64) {
    let answer = server.ask(TEXT, &body(topic));
    let hit = answer["usage"]["prompt_cache_hit_tokens"].as_u64().expect("a count");
    (answer["choices"][0]["text"].as_str().expect("a text").to_owned(), hit)
}

/// A data folder, and the answers of a server without a cache.
struct Site {
    dir: tempfile::TempDir,
    model: String,
    expected: Vec<String>,
}

impl Site {
    fn new() -> Site {
        let model = common::stdout_of(&["pull", "smollm2"]).trim().to_owned();
        let mut site = Site { dir: tempfile::tempdir().expect("a folder"), model, expected: Vec::new() };
        let none = site.dir.path().join("none");
        let none = ["--model", &site.model, "--cache-disk", "0", "--data-dir", none.to_str().expect("UTF-8")];
        let plain = Server::start(&none);
        let uncached = |topic: &&str| {
            let mut body = body(topic);
            body["cache"] = json!({"read": false, "write": false});
            plain.ask(TEXT, &body)["choices"][0]["text"].as_str().expect("a text").to_owned()
        };
        site.expected = TOPICS.iter().map(uncached).collect();
        site
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[&str]) -> Server {
        let data = self.dir.path().to_str().expect("UTF-8");
        // A replayed response would not read the blocks.
        let base = ["--model", &self.model, "--data-dir", data, "--responses", "off"];
        Server::start_logging(&[&base[..], more].concat(), &self.dir.path().join("log"))
    }

    /// Requests every topic; each response must be the expected one. Returns the hit tokens.
    fn check(&self, server: &Server) -> u64 {
        let ask_and_compare = |(topic, expected): (&&str, &String)| {
            let (text, hit) = ask(server, topic);
            assert_eq!(&text, expected);
            hit
        };
        TOPICS.iter().zip(&self.expected).map(ask_and_compare).sum()
    }

    /// Fills the folder with a server that exits cleanly.
    fn fill(&self) {
        let mut server = self.start();
        self.check(&server);
        server.terminate();
        assert_eq!(server.wait(), Some(0));
    }

    fn blocks(&self) -> PathBuf {
        self.dir.path().join("blocks")
    }

    fn files(&self) -> Vec<PathBuf> {
        let folders =
            std::fs::read_dir(self.blocks()).expect("a folder").map(|entry| entry.expect("an entry"));
        let folders = folders.filter(|folder| folder.file_name().len() == 2);
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder"));
        files.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Number of warnings logged about a fault, by its name.
    fn logged(&self, fault: &str) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("log")).expect("a log");
        log.lines().filter(|line| line.contains("WARN") && line.contains(&format!("fault={fault}"))).count()
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("a file");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("written");
}

/// Damages every file between two runs of a server.
fn spoiled(fault: &str, spoil: impl Fn(&Path)) {
    let site = Site::new();
    site.fill();
    let files = site.files();
    assert!(files.len() > 8, "{} files", files.len());
    files.iter().for_each(|path| spoil(path));
    let server = site.start();
    site.check(&server);
    assert_eq!(site.logged(fault), 1, "logged once for {} files", files.len());
}

#[test]
fn torn_files_change_no_answer() {
    spoiled("torn", |path| edit(path, |bytes| bytes.truncate(bytes.len() / 2)));
}

#[test]
fn flipped_bits_change_no_answer() {
    spoiled("corrupt", |path| edit(path, |bytes| bytes[100_000] ^= 8));
}

#[test]
fn foreign_files_change_no_answer() {
    spoiled("foreign", |path| edit(path, |bytes| bytes.fill(b'x')));
}

#[test]
fn files_from_the_future_are_used_and_counted() {
    let site = Site::new();
    site.fill();
    for path in site.files() {
        let file = std::fs::File::options().write(true).open(path).expect("a file");
        file.set_modified(SystemTime::now() + Duration::from_secs(86_400)).expect("a time");
    }
    assert!(site.check(&site.start()) > 64);
    assert_eq!(site.logged("clock_back"), 1);
}

#[test]
fn a_folder_deleted_while_running_changes_no_answer_and_is_made_again() {
    let site = Site::new();
    site.fill();
    let mut server = site.start();
    std::fs::remove_dir_all(site.blocks()).expect("removed");
    site.check(&server);
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    assert!(!site.files().is_empty(), "what was computed is on disk again");
    assert!(site.logged("folder_missing") + site.logged("vanished") <= 2);
}

#[test]
fn two_servers_on_one_folder_use_what_the_other_wrote() {
    let site = Site::new();
    let (mut one, two) = (site.start(), site.start());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| site.check(&one));
        site.check(&two);
        first.join().expect("the same answers");
    });
    // Blocks written by one are found by the other although it never listed them.
    let more = "Oats";
    let (text, _) = ask(&one, more);
    one.terminate();
    assert_eq!(one.wait(), Some(0));
    let (again, hit) = ask(&two, more);
    assert_eq!(text, again);
    assert!(hit > 64, "{hit}");
    drop(two);
    assert!(site.check(&site.start()) > 4 * 64, "two writers damaged nothing");
    for fault in ["torn", "corrupt", "foreign", "wrong_tokens"] {
        assert_eq!(site.logged(fault), 0, "{fault}");
    }
}

#[test]
fn kills_at_any_instant_under_load_change_no_answer() {
    let kills: u64 = std::env::var("FORETOKEN_KILLS").map_or(20, |kills| kills.parse().expect("a number"));
    let (site, random) = (Site::new(), RandomState::new());
    // Less than the prompts need, so that every run writes and evicts blocks.
    let small = ["--cache-disk", "16MiB"];
    let whole = {
        let server = site.start_with(&["--cache-disk", "0"]);
        let start = Instant::now();
        site.check(&server);
        start.elapsed()
    };
    let mut hits = 0;
    for kill in 0..kills {
        let mut server = site.start_with(&small);
        let after = whole.mul_f64((random.hash_one(kill) % 1000) as f64 / 800.0);
        hits += ask_until_killed(&site, &mut server, after);
    }
    assert!(hits + site.check(&site.start_with(&small)) >= 64, "no block survived a kill");
    for fault in ["torn", "corrupt", "foreign", "wrong_tokens"] {
        assert_eq!(site.logged(fault), 0, "{fault}");
    }
}

/// Clients send requests while the server is killed; complete responses must be right. Returns the hit tokens.
fn ask_until_killed(site: &Site, server: &mut Server, after: Duration) -> u64 {
    let address = server.address().to_owned();
    let clients: Vec<_> = TOPICS
        .iter()
        .zip(site.expected.clone())
        .map(|(topic, expected)| {
            let address = address.clone();
            std::thread::spawn(move || {
                let answer = common::try_post(&address, TEXT, &body(topic))?;
                assert_eq!(answer["choices"][0]["text"], expected);
                answer["usage"]["prompt_cache_hit_tokens"].as_u64()
            })
        })
        .collect();
    std::thread::sleep(after);
    server.kill();
    clients.into_iter().filter_map(|client| client.join().expect("a right answer or none")).sum()
}
