//! Tenant isolation: one tenant cannot learn from the caches what another one sent.
//!
//! The same requests go to a server that the victim used and to one that it did not. Everything that a client can
//! see in the responses, except timings, must be equal.

mod common;

use common::Server;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const VICTIM: &str = "victims-key";
const SPY: &str = "spys-key";
const SYSTEM: &str = "You are the clerk of a small library by the sea.";

fn secret() -> String {
    (0..40).map(|i| format!("Account {i} holds {} coins. ", i * 7 % 31)).collect()
}

/// A system prompt of more than a block.
fn system() -> String {
    format!("{SYSTEM} {}", "You answer briefly, politely and always in plain English. ".repeat(12))
}

fn conversation(system: &str, user: &str) -> Value {
    let messages = json!([{"role": "system", "content": system}, {"role": "user", "content": user}]);
    json!({"messages": messages, "max_tokens": 8, "temperature": 0})
}

struct Site {
    dir: tempfile::TempDir,
    model: String,
}

impl Site {
    fn new() -> Site {
        let model = common::stdout_of(&["pull", "smollm2"]).trim().to_owned();
        Site { dir: tempfile::tempdir().expect("a folder"), model }
    }

    fn start(&self, name: &str, more: &[&str]) -> Server {
        let data = self.dir.path().join(name);
        let data = data.to_str().expect("UTF-8");
        // The number of draft tokens verified per step depends on step times and differs between runs; that drafts
        // never come from another tenant is tested in the engine.
        let quiet = ["--speculation", "off"];
        let base = ["--model", &self.model, "--data-dir", data, "--api-key", VICTIM, "--api-key", SPY];
        Server::start(&[&base[..], &quiet, more].concat())
    }
}

fn ask(server: &Server, key: &str, body: &Value) -> Value {
    let bearer = format!("Bearer {key}");
    let answer = server.send("POST", CHAT, &body.to_string(), &[("Authorization", &bearer)]).finish();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn hit(answer: &Value) -> u64 {
    answer["usage"]["prompt_cache_hit_tokens"].as_u64().expect("a count")
}

/// Removes ids and timings, which differ between any two responses.
fn timeless(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(fields) => {
            let named = |key: &str| key == "id" || key == "created";
            let timed =
                |key: &str| ["_ms", "_seconds"].iter().any(|end| key.ends_with(end)) || key.contains("_per_");
            fields.retain(|key, _| !named(key) && !timed(key));
            fields.values_mut().for_each(|value| *value = timeless(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| *value = timeless(value.take())),
        _ => {}
    }
    answer
}

/// The attacker's requests: the victim's own, parts of it, and every field that might name another tenant.
fn probes() -> Vec<Value> {
    let with = |more: Value| {
        let mut body = conversation(SYSTEM, &secret());
        for (key, value) in more.as_object().expect("fields") {
            body[key] = value.clone();
        }
        body
    };
    let half: String = secret().chars().take(secret().len() / 2).collect();
    vec![
        with(json!({})),
        with(json!({"logprobs": true, "top_logprobs": 3})),
        with(json!({"prompt_cache_key": "victims"})),
        with(json!({"user_id": "v"})),
        with(json!({"user_id": format!("{VICTIM}/v")})),
        with(json!({"metadata": {"user_id": "v"}})),
        with(json!({"user": "v"})),
        with(json!({"cache": {"explain": true}})),
        with(json!({"seed": 7, "temperature": 1.0})),
        conversation(SYSTEM, &half),
        conversation(SYSTEM, &(half + "Another end.")),
    ]
}

#[test]
fn a_spy_sees_the_same_whether_or_not_the_victim_was_there() {
    let site = Site::new();
    let (used, unused) = (site.start("used", &[]), site.start("unused", &[]));
    let victim = |more: Value| {
        let mut body = conversation(SYSTEM, &secret());
        for (key, value) in more.as_object().expect("fields") {
            body[key] = value.clone();
        }
        ask(&used, VICTIM, &body)
    };
    let asked = [json!({}), json!({"prompt_cache_key": "victims"}), json!({"user_id": "v"})];
    asked.iter().for_each(|more| drop(victim(more.clone())));
    victim(json!({"seed": 7, "temperature": 1.0}));
    assert!(hit(&victim(json!({}))) > 64, "the victim's prompt is cached");
    for body in probes() {
        let (seen, control) = (ask(&used, SPY, &body), ask(&unused, SPY, &body));
        assert_eq!(timeless(seen), timeless(control), "{body}");
    }
    assert!(hit(&victim(json!({"cache": {"write": false}}))) > 64, "the spy evicted nothing");
}

#[test]
fn users_of_one_key_see_nothing_of_each_other() {
    let site = Site::new();
    let (used, unused) = (site.start("used", &[]), site.start("unused", &[]));
    let mut body = conversation(SYSTEM, &secret());
    body["user_id"] = json!("victim");
    ask(&used, SPY, &body);
    assert!(hit(&ask(&used, SPY, &body)) > 64, "the victim's prompt is cached");
    body["user_id"] = json!("spy");
    assert_eq!(timeless(ask(&used, SPY, &body)), timeless(ask(&unused, SPY, &body)));
}

#[test]
fn a_shared_prompt_hits_for_all_tenants_and_what_follows_it_does_not() {
    let site = Site::new();
    let file = site.dir.path().join("system.txt");
    std::fs::write(&file, system()).expect("written");
    let shared = ["--shared-prompt", file.to_str().expect("UTF-8")];
    let (used, unused) = (site.start("used", &shared), site.start("unused", &shared));
    let body = conversation(&system(), &secret());
    // The shared prompt was used on both servers; that is not a secret.
    for server in [&used, &unused] {
        ask(server, VICTIM, &conversation(&system(), "Hello."));
    }
    ask(&used, VICTIM, &body);
    assert!(hit(&ask(&used, VICTIM, &body)) > 256, "the victim's prompt is cached");
    let (seen, control) = (ask(&used, SPY, &body), ask(&unused, SPY, &body));
    assert!(hit(&seen) >= 64 && hit(&seen).is_multiple_of(64), "{}", hit(&seen));
    assert_eq!(timeless(seen), timeless(control));
    // Another system prompt shares nothing.
    assert_eq!(hit(&ask(&used, SPY, &conversation(SYSTEM, &secret()))), 0);
}
