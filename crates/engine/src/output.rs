//! From tokens to what the caller hears: text, log-probabilities, the end.
//!
//! One [`Output`] belongs to one answer. It does not know where its tokens come from: a model that computes them
//! and a store that replays them go through the same one, so both say the same bytes. The invariant: text leaves
//! only when no stop text and no UTF-8 character can still change it, and nothing leaves after the summary.

use foretoken_model::tokenizer::{TokenDecoder, Tokenizer};
use tokio::sync::mpsc;

use crate::api::{Event, Request, ScoredToken, Source, Summary, TokenEvent, TokenLogprob};
use crate::stop::{Scan, StopMatcher};

/// Log-probabilities of a token: its own, and the best ones' `(id, log-probability)`.
pub(crate) type Scores = (f32, Vec<(u32, f32)>);

/// See the [module](self).
pub(crate) struct Output {
    events: mpsc::Sender<Event>,
    /// Tokens that the caller was not told of yet.
    ready: Vec<TokenEvent>,
    decoder: TokenDecoder,
    stop: StopMatcher,
    stop_ids: Vec<u32>,
    ignore_eos: bool,
    show_control: bool,
}

impl Output {
    /// The output of `request`, from which it takes what ends an answer.
    pub(crate) fn new(request: &mut Request, events: mpsc::Sender<Event>) -> Output {
        Output {
            events,
            ready: Vec::new(),
            decoder: TokenDecoder::new(request.show_control),
            stop: StopMatcher::new(std::mem::take(&mut request.stop)),
            stop_ids: std::mem::take(&mut request.stop_ids),
            ignore_eos: request.ignore_eos,
            show_control: request.show_control,
        }
    }

    /// Whether the caller went away.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Takes the next token, for the caller to be [told](Self::send) of, and says whether the answer stops with it.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        scores: Option<&Scores>,
        source: Option<Source>,
    ) -> bool {
        let ends = self.stop_ids.contains(&token) || (tokenizer.is_eog(token) && !self.ignore_eos);
        let logprob = scores.map(|scores| report(tokenizer, token, scores));
        let text = self.decoder.push(tokenizer, token);
        if ends {
            if self.show_control {
                self.ready.push(TokenEvent { id: token, text, logprob, source });
            }
            return true;
        }
        let (text, stopped) = match self.stop.push(&text) {
            Scan::Release(text) => (text, false),
            Scan::Stop(text) => (text, true),
        };
        self.ready.push(TokenEvent { id: token, text, logprob, source });
        if stopped {
            // What the decoder still holds came after the stop text.
            self.decoder = TokenDecoder::new(self.show_control);
        }
        stopped
    }

    /// Sends the tokens that were not sent yet, and the summary with the text that was held back.
    pub(crate) fn finish(mut self, mut summary: Summary) {
        self.send();
        let text = self.decoder.flush();
        summary.text = match self.stop.push(&text) {
            Scan::Release(text) => text + &self.stop.flush(),
            Scan::Stop(text) => text,
        };
        // A caller that is gone needs no summary.
        let _ = self.events.try_send(Event::Done(summary));
    }

    /// Tells the caller of the tokens that came since the last time.
    pub(crate) fn send(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        // The channel holds every event of the answer, so this fails only for a caller that is gone; the next
        // step retires the sequence.
        let _ = self.events.try_send(Event::Tokens(std::mem::take(&mut self.ready)));
    }
}

fn report(tokenizer: &Tokenizer, token: u32, (logprob, top): &Scores) -> TokenLogprob {
    let scored = |id, logprob| ScoredToken { id, logprob, bytes: tokenizer.token_bytes(id).to_vec() };
    TokenLogprob {
        chosen: scored(token, *logprob),
        top: top.iter().map(|&(id, logprob)| scored(id, logprob)).collect(),
    }
}
