//! The tiny fixture model, and helpers shared by several test files.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::Arc;

use foretoken_engine::{Answer, Engine, EngineConfig, EngineError, Event, Request, Sampling, Summary};
use foretoken_kernels::{Compute, Isa};
use foretoken_model::Model;
use foretoken_model::gguf::Gguf;
use foretoken_model::tokenizer::Tokenizer;

pub(crate) const CTX: usize = 512;

/// A model that several engines share.
pub(crate) struct Fixture {
    pub(crate) model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
}

impl Fixture {
    pub(crate) fn load() -> Fixture {
        Fixture::named("llama")
    }

    /// Another of the tiny models.
    pub(crate) fn named(name: &str) -> Fixture {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families");
        let path = folder.join(format!("{name}.gguf"));
        let gguf = Arc::new(Gguf::open(path).expect("the fixture"));
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("its vocabulary"));
        let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("this machine's instructions"));
        Fixture { model: Arc::new(Model::load(gguf, compute).expect("its weights")), tokenizer }
    }

    pub(crate) fn start(&self, change: impl FnOnce(&mut EngineConfig)) -> Engine {
        self.try_start(change).expect("a configuration that works")
    }

    pub(crate) fn try_start(&self, change: impl FnOnce(&mut EngineConfig)) -> Result<Engine, EngineError> {
        let mut config = EngineConfig { ctx: CTX, kv_bytes: 64 << 20, ..EngineConfig::default() };
        change(&mut config);
        Engine::start(self.model.clone(), self.tokenizer.clone(), config)
    }

    /// Bytes of a KV block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.model.kv_layout().block_bytes()
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

/// Reads an answer to its end.
pub(crate) fn collect(mut answer: Answer) -> (Vec<u32>, String, Summary) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    loop {
        match answer.recv_blocking().expect("an answer ends with a summary") {
            Event::Tokens(tokens) => {
                for token in tokens {
                    ids.push(token.id);
                    text.push_str(&token.text);
                }
            }
            Event::Done(summary) => {
                text.push_str(&summary.text);
                return (ids, text, summary);
            }
        }
    }
}
