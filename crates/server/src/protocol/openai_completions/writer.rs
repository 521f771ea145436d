//! Writes completion choices and chunks.

use foretoken_model::tokenizer::TokenDecoder;
use serde_json::{Value, json};

use crate::answer::{Answer, Event, Finish, Piece};
use crate::error::ApiError;
use crate::protocol::openai::envelope::{Envelope, finish_reason};
use crate::protocol::openai::logprobs::CompletionLogprobs;
use crate::protocol::speculation;
use crate::report::Report;
use crate::run::Writer;
use crate::sse::Frame;

#[derive(Debug)]
struct Choice {
    /// What comes before the next text.
    echo: String,
    /// Characters of all tokens so far.
    offset: usize,
    /// Decodes their bytes, which may end within a character.
    decoder: TokenDecoder,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct CompletionWriter {
    envelope: Envelope,
    choices: Vec<Choice>,
    with_logprobs: bool,
    /// Whether choices say who drafted their text.
    with_drafters: bool,
}

impl CompletionWriter {
    /// `echoes` holds the initial text of each choice.
    pub(crate) fn new(
        echoes: Vec<String>,
        (with_logprobs, with_drafters): (bool, bool),
        include_usage: bool,
    ) -> Self {
        let choice = |echo| Choice { echo, offset: 0, decoder: TokenDecoder::new(true) };
        CompletionWriter {
            envelope: Envelope { object: "text_completion", chunk_object: "text_completion", include_usage },
            choices: echoes.into_iter().map(choice).collect(),
            with_logprobs,
            with_drafters,
        }
    }

    fn choice(&mut self, at: usize, piece: &Piece, finish: Option<&Finish>) -> Value {
        let choice = &mut self.choices[at];
        let text = std::mem::take(&mut choice.echo) + &piece.text;
        let mut logprobs = CompletionLogprobs::default();
        for token in &piece.tokens {
            logprobs.push(token, choice.offset);
            choice.offset += choice.decoder.push_bytes(&token.chosen.bytes).chars().count();
        }
        let logprobs = if self.with_logprobs { logprobs.into_value() } else { Value::Null };
        let reason = finish.map(finish_reason);
        let mut choice = json!({"index": at, "text": text, "logprobs": logprobs, "finish_reason": reason});
        if self.with_drafters {
            choice["drafted"] = speculation::drafted(piece);
        }
        choice
    }
}

impl Writer for CompletionWriter {
    fn whole(&mut self, answers: Vec<Answer>, report: &Report) -> Value {
        let answers = answers.iter().enumerate();
        let choices =
            answers.map(|(at, answer)| self.choice(at, &answer.text(), Some(&answer.finish))).collect();
        self.envelope.whole(choices, report)
    }

    fn opening(&mut self, _: &Report) -> Vec<Frame> {
        Vec::new()
    }

    fn events(&mut self, at: usize, events: Vec<Event>, report: &Report) -> Vec<Frame> {
        let (mut text, mut finish) = (Piece::default(), None);
        for event in events {
            match event {
                Event::Text(piece) => text.append(piece),
                Event::Finish(reason) => finish = Some(reason),
                // A prompt is continued as it is; nothing else is looked for.
                Event::Reasoning(_) | Event::CallBegin { .. } | Event::CallArguments(_) | Event::CallEnd => {}
            }
        }
        match finish {
            Some(finish) => {
                let mut choice = self.choice(at, &text, Some(&finish));
                if text.tokens.is_empty() {
                    choice["logprobs"] = Value::Null;
                }
                vec![self.envelope.last_chunk(choice, report)]
            }
            None if text.text.is_empty() && self.choices[at].echo.is_empty() => Vec::new(),
            None => {
                let choice = self.choice(at, &text, None);
                vec![self.envelope.chunk(choice, report)]
            }
        }
    }

    fn closing(&mut self, report: &Report) -> Vec<Frame> {
        self.envelope.closing(report)
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Frame> {
        Envelope::failure(error)
    }
}
