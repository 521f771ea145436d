//! The model's answers to prompts, recorded by the engine with many sequences in a step.
//!
//! Half of them greedy and half sampled, as a head will meet both. The invariant: which answers are recorded depends on
//! prompts, seed and bound alone: an answer has the same bytes whatever runs beside it, and records are in the order of prompts.

use std::collections::VecDeque;
use std::sync::Arc;

use foretoken_engine::{
    Answer, CacheUse, Engine, EngineConfig, Event, FinishReason, Request, Sampling, Speculation,
    context_bytes,
};
use foretoken_model::Model;
use foretoken_model::chat::{ChatInput, ChatTemplate};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::json;

use crate::error::TrainError;
use crate::prompts::{Prompts, is_held_out};
use crate::recorded::{Record, Recorded, digest, mix};

/// Temperature of sampled answers.
pub const TEMPERATURE: f32 = 0.8;
/// Sequences in a step.
const RUNNING: usize = 32;
/// Requests at the engine: some are ready to take the place of those that end.
const WAITING: usize = 96;

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens of all answers.
    pub tokens: usize,
    /// Tokens of one answer.
    pub answer_max: usize,
    /// Tokens of one prompt; longer ones are left out.
    pub prompt_max: usize,
}

/// Which of the prompts are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those for training and those that are held out.
    All,
    /// For evaluation alone: every prompt is held out.
    Evaluation,
}

/// The model that answers.
pub struct Speaker<'a> {
    /// The model.
    pub model: &'a Arc<Model>,
    /// Its tokenizer.
    pub tokenizer: &'a Arc<Tokenizer>,
    /// Its chat template.
    pub template: &'a ChatTemplate,
}

/// What answers depend on, as a number: another number means other answers.
pub fn settings(model: [u8; 32], prompts: &Prompts, bounds: Bounds, seed: u64) -> u64 {
    let Bounds { answer_max, prompt_max, .. } = bounds;
    let numbers = [prompts.digest(), answer_max as u64, prompt_max as u64, seed];
    numbers.iter().fold(digest(&model), |hash, number| mix(hash ^ mix(*number)))
}

impl Speaker<'_> {
    /// Records answers until `bounds` are reached or `go_on`, which is called after each with the tokens so far, says no.
    /// Prompts are asked again, at the other temperature and then with other seeds, if there are too few.
    ///
    /// # Errors
    /// An engine that can't start or fails, a prompt that the template rejects, or a file that can't be written.
    pub fn record(
        &self,
        prompts: &Prompts,
        (bounds, part, seed): (Bounds, Part, u64),
        recorded: &mut Recorded,
        mut go_on: impl FnMut(usize) -> bool,
    ) -> Result<(), TrainError> {
        if recorded.tokens() >= bounds.tokens {
            return Ok(());
        }
        let engine = self.engine(bounds)?;
        let result = self.ask(&engine, prompts, (bounds, part, seed), recorded, &mut go_on);
        // The model's threads are needed for other things from now on.
        engine.stop();
        result
    }

    fn ask(
        &self,
        engine: &Engine,
        prompts: &Prompts,
        (bounds, part, seed): (Bounds, Part, u64),
        recorded: &mut Recorded,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), TrainError> {
        let mut jobs =
            Jobs { speaker: self, prompts, bounds, part, seed, next: recorded.next_job(), barren: 0 };
        let mut asked: VecDeque<(Record, Answer)> = VecDeque::new();
        while recorded.tokens() < bounds.tokens {
            while asked.len() < WAITING {
                let Some((record, request)) = jobs.next()? else { break };
                asked.push_back((record, engine.submit(request)?));
            }
            let Some((mut record, answer)) = asked.pop_front() else { break };
            if read(answer, &mut record.tokens)? {
                recorded.push(record)?;
            }
            if !go_on(recorded.tokens()) {
                break;
            }
        }
        Ok(())
    }

    fn engine(&self, bounds: Bounds) -> Result<Engine, TrainError> {
        let config = EngineConfig::default();
        let ctx = bounds.prompt_max + bounds.answer_max;
        let one = context_bytes(&self.model.kv_layout(), ctx, config.step_tokens);
        let config = EngineConfig {
            ctx,
            kv_bytes: one * (RUNNING + 1),
            running_max: RUNNING,
            // A caller may fill four fifths of it, a tenant two thirds.
            queue: 2 * WAITING,
            speculation: Speculation { enabled: false, ..Speculation::default() },
            draft_memory: 0,
            ..config
        };
        Ok(Engine::start(Arc::clone(self.model), Arc::clone(self.tokenizer), config)?)
    }
}

/// The requests in order.
struct Jobs<'a> {
    speaker: &'a Speaker<'a>,
    prompts: &'a Prompts,
    bounds: Bounds,
    part: Part,
    seed: u64,
    next: u32,
    /// Prompts in a row that were left out.
    barren: usize,
}

impl Jobs<'_> {
    /// The next request and its record so far; `None` if all prompts are too long.
    fn next(&mut self) -> Result<Option<(Record, Request)>, TrainError> {
        let texts = self.prompts.texts();
        while self.barren < texts.len() {
            let (job, text) = (self.next, &texts[self.next as usize % texts.len()]);
            self.next += 1;
            let prompt = self.speaker.prompt(text)?;
            if prompt.len() > self.bounds.prompt_max {
                self.barren += 1;
                continue;
            }
            self.barren = 0;
            let round = job as usize / texts.len();
            let greedy_first = digest(text.as_bytes()) >> 32 & 1 == 0;
            let greedy = round < 2 && greedy_first == (round == 0);
            let sampling = Sampling {
                temperature: if greedy { 0.0 } else { TEMPERATURE },
                seed: Some(mix(self.seed ^ mix(u64::from(job) + 1))),
                ..Sampling::default()
            };
            let held_out = self.part == Part::Evaluation || is_held_out(text);
            let record = Record { job, greedy, held_out, prompt: prompt.len(), tokens: prompt.clone() };
            let request = Request {
                prompt,
                sampling,
                max_tokens: Some(self.bounds.answer_max),
                cache: CacheUse { read: true, write: true },
                forgettable: true,
                ..Request::default()
            };
            return Ok(Some((record, request)));
        }
        Ok(None)
    }
}

impl Speaker<'_> {
    fn prompt(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let messages = vec![json!({"role": "user", "content": text})];
        let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
        Ok(self.tokenizer.encode_rendered(&self.template.render(&input)?))
    }
}

/// Adds an answer's tokens. Whether there were any.
fn read(mut answer: Answer, tokens: &mut Vec<u32>) -> Result<bool, TrainError> {
    let before = tokens.len();
    loop {
        match answer.recv_blocking() {
            Some(Event::Tokens(new)) => tokens.extend(new.iter().map(|token| token.id)),
            Some(Event::Done(summary)) => match summary.reason {
                FinishReason::Error(reason) => return Err(TrainError::Answer(reason)),
                _ => return Ok(tokens.len() > before),
            },
            None => return Err(TrainError::Answer("the engine stopped".into())),
        }
    }
}
