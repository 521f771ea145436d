//! A tiny model's engine and ways to ask it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foretoken_engine::{Answer, Engine, EngineConfig, EngineError, Event, Request, Sampling, Summary};
use foretoken_kernels::{Compute, Isa};
use foretoken_model::Model;
use foretoken_model::gguf::Gguf;
use foretoken_model::tokenizer::Tokenizer;

pub(crate) const CTX: usize = 512;
/// For answers that must not end while a test looks at them.
pub(crate) const LONG_CTX: usize = 32_768;
pub(crate) const LONG: usize = 30_000;

pub(crate) fn engine(change: impl FnOnce(&mut EngineConfig)) -> Result<Engine, EngineError> {
    let (model, tokenizer) = tiny();
    let mut config = EngineConfig { ctx: CTX, kv_bytes: 64 << 20, ..EngineConfig::default() };
    change(&mut config);
    Engine::start(model, tokenizer, config)
}

/// The fixture, loaded.
pub(crate) fn tiny() -> (Arc<Model>, Arc<Tokenizer>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families/llama.gguf");
    let gguf = Arc::new(Gguf::open(path).expect("the fixture"));
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("its vocabulary"));
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("this machine's instructions"));
    (Arc::new(Model::load(gguf, compute).expect("its weights")), tokenizer)
}

/// Bytes of a KV block of the fixture, measured by what the smallest sufficient budget is.
pub(crate) fn block_bytes() -> usize {
    match engine(|config| config.kv_bytes = 1) {
        Err(EngineError::KvBudget { needed, .. }) => needed / CTX.div_ceil(64),
        Ok(_) => panic!("a budget of one byte was accepted"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn request(prompt: impl IntoIterator<Item = u32>, max_tokens: usize, seed: u64) -> Request {
    Request {
        prompt: prompt.into_iter().collect(),
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        sampling: Sampling { seed: Some(seed), ..Sampling::default() },
        ..Request::default()
    }
}

pub(crate) fn collect(mut answer: Answer) -> (Vec<u32>, String, Summary) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    loop {
        match answer.recv_blocking().expect("an answer ends with a summary") {
            Event::Token(token) => {
                ids.push(token.id);
                text.push_str(&token.text);
            }
            Event::Done(summary) => {
                text.push_str(&summary.text);
                return (ids, text, summary);
            }
        }
    }
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
