//! From tokens to events: text, log-probabilities, the end.
//!
//! One [`Output`] belongs to one answer. It does not know where its tokens come from: a model that computes them
//! and a store that replays them go through the same one, so both send the same events. The invariants: text is sent
//! only when no stop text and no UTF-8 character can still change it; every token has an event, but only tokens with
//! text in the answer have log-probabilities, so those of a stop text, of an incomplete character at the end and of
//! hidden control tokens have none; nothing is sent after the summary.

use std::collections::VecDeque;
use std::sync::Arc;

use foretoken_model::tokenizer::{TokenDecoder, Tokenizer};
use tokio::sync::mpsc;

use crate::api::{Event, Request, ScoredToken, Source, Summary, TokenEvent, TokenLogprob};
use crate::stop::{Scan, StopMatcher};

/// Log-probabilities of a token: its own, and the best ones' `(id, log-probability)`.
pub(crate) type Scores = (f32, Vec<(u32, f32)>);

/// See the [module](self).
pub(crate) struct Output {
    events: mpsc::Sender<Event>,
    /// Tokens to be sent with the next event.
    ready: Vec<TokenEvent>,
    /// Tokens of which it is not certain yet whether they have text in the answer.
    waiting: VecDeque<TokenEvent>,
    /// Bytes of text that the tokens decoded to.
    decoded: usize,
    /// Of those, bytes that are certain to belong to the answer.
    released: usize,
    /// Released text that no token carries yet.
    text: String,
    decoder: TokenDecoder,
    stop: StopMatcher,
    stop_ids: Vec<u32>,
    ignore_eos: bool,
    show_control: bool,
    shown: Arc<[u32]>,
    /// The stop text that ended the answer.
    stopped_by: Option<String>,
}

impl Output {
    /// The output of `request`, from which it takes what ends an answer.
    pub(crate) fn new(request: &mut Request, events: mpsc::Sender<Event>) -> Output {
        Output {
            events,
            ready: Vec::new(),
            waiting: VecDeque::new(),
            decoded: 0,
            released: 0,
            text: String::new(),
            decoder: TokenDecoder::new(request.show_control),
            stop: StopMatcher::new(std::mem::take(&mut request.stop)),
            stop_ids: std::mem::take(&mut request.stop_ids),
            ignore_eos: request.ignore_eos,
            show_control: request.show_control,
            shown: Arc::clone(&request.shown),
            stopped_by: None,
        }
    }

    /// Whether the caller has dropped its end.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Takes the next token, to be [sent](Self::send), and says whether the answer stops with it.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        scores: Option<&Scores>,
        source: Option<Source>,
    ) -> bool {
        let ends = self.stop_ids.contains(&token) || (tokenizer.is_eog(token) && !self.ignore_eos);
        if ends && !self.show_control {
            return true;
        }
        let hidden = !self.show_control && tokenizer.is_hidden(token) && !self.shown.contains(&token);
        let bytes = if hidden { &[] } else { tokenizer.token_bytes(token) };
        let start = self.decoded + self.broken_character(bytes);
        let text = if hidden { String::new() } else { self.decoder.push_bytes(bytes) };
        self.decoded += text.len();
        // A token with a part of a character has a part in the whole of it.
        let end = self.decoded + usize::from(self.decoder.is_within_character());
        let span = (!bytes.is_empty()).then_some(start..end);
        let logprob = scores.map(|scores| report(tokenizer, token, scores));
        self.waiting.push_back(TokenEvent { id: token, text: String::new(), span, logprob, source });
        if ends {
            // A shown end token is not searched for stop texts.
            let held = self.stop.flush();
            self.release(&(held + &text));
            return true;
        }
        match self.stop.push(&text) {
            Scan::Release(text) => {
                self.release(&text);
                false
            }
            Scan::Stop(text, stop) => {
                self.stopped_by = Some(stop);
                self.release(&text);
                self.end_text();
                true
            }
        }
    }

    /// Sends what was not sent yet and the summary. An incomplete character at the end is not part of the answer.
    pub(crate) fn finish(mut self, mut summary: Summary) {
        let held = self.stop.flush();
        self.release(&held);
        self.end_text();
        summary.text = std::mem::take(&mut self.text);
        summary.stopped_by = self.stopped_by.take();
        self.send();
        // A caller that is gone needs no summary.
        let _ = self.events.try_send(Event::Done(summary));
    }

    /// Sends the tokens that became ready since the last time.
    pub(crate) fn send(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        // The channel holds every event of the answer, so this fails only for a caller that is gone; the next
        // step retires the sequence.
        let _ = self.events.try_send(Event::Tokens(std::mem::take(&mut self.ready)));
    }

    /// Bytes of text that stand for a character that tokens began and `next` does not go on with.
    fn broken_character(&self, next: &[u8]) -> usize {
        let goes_on = next.first().is_none_or(|&byte| byte & 0xC0 == 0x80);
        let broken = self.decoder.is_within_character() && !goes_on;
        if broken { char::REPLACEMENT_CHARACTER.len_utf8() } else { 0 }
    }

    /// Adds certain text, and with it the tokens that it makes certain.
    fn release(&mut self, text: &str) {
        self.released += text.len();
        self.text.push_str(text);
        while let Some(next) = self.waiting.front() {
            if next.span.as_ref().is_some_and(|span| span.start >= self.released) {
                break;
            }
            let Some(mut token) = self.waiting.pop_front() else { break };
            token.logprob = token.logprob.filter(|_| token.span.is_some());
            self.ready.push(token);
        }
        if let Some(last) = self.ready.last_mut() {
            last.text.push_str(&std::mem::take(&mut self.text));
        }
    }

    /// Nothing is released any more: tokens that wait have no text in the answer.
    fn end_text(&mut self) {
        self.decoder = TokenDecoder::new(self.show_control);
        let rest = self.waiting.drain(..).map(|token| TokenEvent { span: None, logprob: None, ..token });
        self.ready.extend(rest);
    }
}

fn report(tokenizer: &Tokenizer, token: u32, (logprob, top): &Scores) -> TokenLogprob {
    let scored = |id, logprob| ScoredToken { id, logprob, bytes: tokenizer.token_bytes(id).to_vec() };
    TokenLogprob {
        chosen: scored(token, *logprob),
        top: top.iter().map(|&(id, logprob)| scored(id, logprob)).collect(),
    }
}
