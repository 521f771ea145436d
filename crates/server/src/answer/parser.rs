//! Finds reasoning and tool calls in the text of an answer, as it comes.
//!
//! Text is emitted once it is certain ([`markers`]): no tag can begin in it any more, and white space that a tag would
//! take with it has been followed by something else. White space around reasoning and around calls belongs to nothing;
//! nothing else is dropped: what looked like a call and is none is text, tags included.

use foretoken_engine::{TokenEvent, markers};

use super::arguments::{Arguments, Step};
use super::call::{self, Tail};
use super::format::{Format, Tags};
use super::token_queue::{Stretch, TokenQueue};
use super::{Event, Finish, Piece};

#[derive(Clone, Copy, Debug)]
enum State {
    /// Only white space or a part of the opening tag so far.
    Start(Tags),
    /// After the opening tag, before the first visible character.
    ReasoningStart(Tags),
    Reasoning(Tags),
    /// After reasoning or a call, before the first visible character.
    Gap,
    Text,
    /// At white space and an opening tag, this many bytes together, of what may become a call.
    CallHead(Tags, usize),
    CallArguments(Tags, Arguments),
    /// After the arguments, which may have been no JSON.
    CallTail(Tags, bool),
}

/// Parses one answer.
#[derive(Debug)]
pub(crate) struct AnswerParser {
    format: Format,
    state: State,
    /// Text that is not decided.
    held: String,
    /// Bytes of the answer before it.
    decided: usize,
    tokens: TokenQueue,
    calls: usize,
    events: Vec<Event>,
}

impl AnswerParser {
    pub(crate) fn new(format: Format) -> Self {
        let state = match format.reasoning {
            Some(tags) if format.opens_reasoning => State::ReasoningStart(tags),
            Some(tags) => State::Start(tags),
            None => State::Text,
        };
        AnswerParser {
            format,
            state,
            held: String::new(),
            decided: 0,
            tokens: TokenQueue::default(),
            calls: 0,
            events: Vec::new(),
        }
    }

    /// Takes the next tokens and returns what is now certain.
    pub(crate) fn push(&mut self, tokens: &[TokenEvent]) -> Vec<Event> {
        for token in tokens {
            self.tokens.push(token);
            self.held.push_str(&token.text);
        }
        while self.step(false) {}
        std::mem::take(&mut self.events)
    }

    /// Ends the answer with its last text. Text that was held back is decided.
    pub(crate) fn finish(&mut self, text: &str, finish: Finish) -> Vec<Event> {
        self.held.push_str(text);
        while self.step(true) {}
        let called = finish != Finish::Length && self.calls > 0;
        self.events.push(Event::Finish(if called { Finish::Calls } else { finish }));
        std::mem::take(&mut self.events)
    }

    /// Tokens of the reasoning so far, its tags included.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.tokens.reasoning()
    }

    /// One transition; false if there is nothing left to do before more text comes. `over`: no more text comes.
    fn step(&mut self, over: bool) -> bool {
        match self.state {
            State::Start(tags) => self.start(tags, over),
            State::ReasoningStart(tags) => {
                self.skip_white_space(Stretch::ReasoningTag) && self.go(State::Reasoning(tags))
            }
            State::Reasoning(tags) => self.reasoning(tags, over),
            State::Gap => self.skip_white_space(Stretch::Other) && self.go(State::Text),
            State::Text => self.text(over),
            State::CallHead(tags, body) => self.call_head(tags, body, over),
            State::CallArguments(tags, arguments) => self.call_arguments(tags, arguments, over),
            State::CallTail(tags, broken) => {
                match call::tail(&self.held, (tags.open, tags.close), over, broken) {
                    Tail::More => false,
                    Tail::Over(len) => {
                        self.decide(len, Stretch::Other);
                        self.go(State::Gap)
                    }
                }
            }
        }
    }

    fn go(&mut self, state: State) -> bool {
        self.state = state;
        true
    }

    /// Decides what the next `len` bytes are.
    fn decide(&mut self, len: usize, what: Stretch) {
        if len == 0 {
            return;
        }
        let range = self.decided..self.decided + len;
        self.decided = range.end;
        let (tokens, drafted) = self.tokens.decide(&range, what);
        let text: String = self.held.drain(..len).collect();
        match what {
            Stretch::Reasoning => self.events.push(Event::Reasoning(Piece { text, tokens, drafted })),
            Stretch::Text => self.events.push(Event::Text(Piece { text, tokens, drafted })),
            Stretch::ReasoningTag | Stretch::Other => {}
        }
    }

    /// Whether something visible follows the white space that is held.
    fn skip_white_space(&mut self, what: Stretch) -> bool {
        self.decide(self.held.len() - self.held.trim_start().len(), what);
        !self.held.is_empty()
    }

    fn start(&mut self, tags: Tags, over: bool) -> bool {
        let visible = self.held.trim_start();
        if visible.starts_with(tags.open) {
            self.decide(self.held.len() - visible.len() + tags.open.len(), Stretch::ReasoningTag);
            return self.go(State::ReasoningStart(tags));
        }
        if tags.open.starts_with(visible) && !over {
            return false;
        }
        self.go(State::Text)
    }

    fn reasoning(&mut self, tags: Tags, over: bool) -> bool {
        if let Some((_, tag)) = markers::find(&[tags.close], &self.held) {
            let end = self.held[..tag.start].trim_end().len();
            self.decide(end, Stretch::Reasoning);
            self.decide(tag.end - end, Stretch::ReasoningTag);
            return self.go(State::Gap);
        }
        let certain = if over { self.held.len() } else { markers::certain_len(&[tags.close], &self.held) };
        self.decide(self.held[..certain].trim_end().len(), Stretch::Reasoning);
        if over {
            self.decide(self.held.len(), Stretch::ReasoningTag);
        }
        false
    }

    fn text(&mut self, over: bool) -> bool {
        let Some(tags) = self.format.calls else {
            self.decide(self.held.len(), Stretch::Text);
            return false;
        };
        if let Some((_, tag)) = markers::find(&[tags.open], &self.held) {
            let end = self.held[..tag.start].trim_end().len();
            self.decide(end, Stretch::Text);
            return self.go(State::CallHead(tags, tag.end - end));
        }
        let certain = match over {
            true => self.held.len(),
            false => self.held[..markers::certain_len(&[tags.open], &self.held)].trim_end().len(),
        };
        self.decide(certain, Stretch::Text);
        false
    }

    /// Tells apart a call whose arguments begin, one that is complete, and text.
    fn call_head(&mut self, tags: Tags, body: usize, over: bool) -> bool {
        let text = &self.held[body..];
        let close = markers::find(&[tags.close], text).map(|(_, tag)| tag);
        let until = close.as_ref().map_or(text.len(), |tag| tag.start);
        if let Some((name, before)) = call::head(&text[..until]) {
            self.decide(body + before, Stretch::Other);
            self.begin(name);
            return self.go(State::CallArguments(tags, Arguments::default()));
        }
        let end = match (close, over) {
            (Some(tag), _) => body + tag.end,
            (None, true) => self.held.len(),
            (None, false) => return false,
        };
        let Some(whole) = call::parse(&text[..until]) else {
            self.decide(end, Stretch::Text);
            return self.go(State::Text);
        };
        self.decide(end, Stretch::Other);
        self.begin(whole.name);
        self.add(Event::CallArguments(whole.arguments));
        self.add(Event::CallEnd);
        self.go(State::Gap)
    }

    fn call_arguments(&mut self, tags: Tags, mut reader: Arguments, over: bool) -> bool {
        let mut arguments = String::new();
        let (len, step) = reader.read(&self.held, tags.close, &mut arguments);
        self.decide(len, Stretch::Other);
        if !arguments.is_empty() {
            self.add(Event::CallArguments(arguments));
        }
        if step == Step::More && !over {
            self.state = State::CallArguments(tags, reader);
            return false;
        }
        self.add(Event::CallEnd);
        if step == Step::More {
            // A part of the closing tag.
            self.decide(self.held.len(), Stretch::Other);
        }
        self.go(State::CallTail(tags, step == Step::Broken))
    }

    fn begin(&mut self, name: String) {
        self.calls += 1;
        self.add(Event::CallBegin { name });
    }

    /// Adds an event of a call, unless only the first call counts.
    fn add(&mut self, event: Event) {
        if self.calls == 1 || !self.format.one_call {
            self.events.push(event);
        }
    }
}
