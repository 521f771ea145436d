//! Several servers with their own folders, one secret and one shared store.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Server;

const TEXT: &str = "/v1/completions";
pub(crate) const BLOCK_TOKENS: u64 = 64;
/// Longer than any response here takes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// A prompt of several blocks that shares nothing with another `topic`'s.
fn body(topic: &str) -> Value {
    let items = (0..70).map(|i| format!("{topic} {i} costs {} coins. ", i * 7 % 31));
    json!({"prompt": items.collect::<String>(), "max_tokens": 12, "temperature": 0, "ignore_eos": true})
}

pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) hit: u64,
    /// Whole blocks of prompt and answer.
    pub(crate) blocks: u64,
}

pub(crate) fn ask(server: &Server, topic: &str) -> Answer {
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
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    model: String,
    /// Environment of the servers, for credentials.
    env: Vec<(&'static str, &'static str)>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let model = super::stdout_of(&["pull", "smollm2"]).trim().to_owned();
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("secret"), [42; 32]).expect("written");
        Site { dir, model, env: Vec::new() }
    }

    /// The same, whose servers have these environment variables.
    pub(crate) fn with_env(env: &[(&'static str, &'static str)]) -> Site {
        Site { env: env.to_vec(), ..Site::new() }
    }

    pub(crate) fn start(&self, name: &str, store: &str) -> Server {
        let path = |name: &str| self.dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let (data, secret, log) = (path(name), path("secret"), path(&format!("{name}.log")));
        let model = ["--model", &self.model, "--data-dir", &data, "--cache-secret-file", &secret];
        let shared = ["--cache-shared", store, "--cache-shared-timeout", &TIMEOUT.as_millis().to_string()];
        Server::start_with(&[&model[..], &shared[..]].concat(), &self.env, Path::new(&log))
    }

    /// A server without disk and shared cache, to compare with.
    pub(crate) fn plain(&self) -> Server {
        let data = self.dir.path().join("plain");
        let data = data.to_str().expect("UTF-8");
        Server::start(&["--model", &self.model, "--data-dir", data, "--cache-disk", "0"])
    }

    /// What the model says about a topic, without caches.
    pub(crate) fn plain_text(&self, topic: &str) -> String {
        ask(&self.plain(), topic).text
    }

    /// Lines about the shared store in a server's log.
    pub(crate) fn complaints(&self, name: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).expect("a log");
        log.lines().filter(|line| line.contains("shared")).map(str::to_owned).collect()
    }
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks that a server has written to the shared store.
pub(crate) fn written(server: &Server) -> u64 {
    shared_metric(server, "foretoken_cache_stored_blocks_total", "")
}

/// Blocks that it did not write, for any reason.
pub(crate) fn dropped(server: &Server) -> u64 {
    shared_metric(server, "foretoken_cache_dropped_total", "")
}

/// The shared tier's counters of a name whose labels contain `label`, added up; 0 if none has counted yet.
pub(crate) fn shared_metric(server: &Server, name: &str, label: &str) -> u64 {
    let text = server.get("/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains("tier=\"shared\""));
    let values = lines.filter(|line| line.contains(label)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<u64>().expect("a number")).sum()
}
