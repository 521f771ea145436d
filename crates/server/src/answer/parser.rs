//! Finds reasoning and tool calls in the text of an answer, as it comes.
//!
//! Text is emitted once it is certain ([`markers`]): no tag can begin in it any more, and white space that a tag would
//! take with it has been followed by something else. White space around reasoning and around calls belongs to nothing;
//! nothing else is dropped: what looked like a call and is none is text, tags included.

use foretoken_engine::{TokenEvent, markers};

use super::arguments::{Arguments, Step};
use super::call::{Head, head};
use super::format::{Calls, Format, Tags};
use super::tagged::TaggedArguments;
use super::token_queue::{Decided, Stretch, TokenQueue};
use super::tool_format::{CallForm, ToolFormat};
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
    /// Before what may become a call, after this many bytes of white space and what stands between calls.
    CallHead(usize),
    CallArguments(Reader),
    /// After the arguments, before the end of the object that they are in.
    CallRest,
    /// In further members of that object.
    CallMembers(Arguments),
    /// After a call, which may have been no JSON, and this many of the texts that may follow it.
    CallTail {
        closes: usize,
        broken: bool,
    },
}

/// Reads a call's arguments.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Json(Arguments),
    Tagged(TaggedArguments),
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
    /// There was neither text nor a call so far.
    is_fresh: bool,
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
            is_fresh: true,
            events: Vec::new(),
        }
    }

    /// Takes the next tokens and returns what is now certain.
    pub(crate) fn push(&mut self, tokens: &[TokenEvent]) -> Vec<Event> {
        for token in tokens {
            let calls = self.format.calls.as_ref();
            self.tokens.push(token, calls.is_some_and(|calls| calls.control.contains(&token.id)));
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
            State::CallHead(before) => self.call_head(before, over),
            State::CallArguments(reader) => self.call_arguments(reader, over),
            State::CallRest => self.call_rest(over),
            State::CallMembers(members) => self.call_members(members, over),
            State::CallTail { closes, broken: false } => self.call_tail(closes, over),
            State::CallTail { broken: true, .. } => self.broken_call(over),
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
        let start = range.start;
        let Decided { logprobs: tokens, drafted, hidden } = self.tokens.decide(&range, what);
        let mut text: String = self.held.drain(..len).collect();
        hidden.into_iter().rev().for_each(|bytes| drop(text.drain(bytes.start - start..bytes.end - start)));
        if text.is_empty() {
            return;
        }
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
        let Some(format) = self.calls() else {
            self.decide(self.held.len(), Stretch::Text);
            return false;
        };
        if self.is_fresh && format.bare {
            let visible = self.held.trim_start();
            if visible.starts_with('{') {
                return self.go(State::CallHead(self.held.len() - visible.len()));
            }
        }
        self.is_fresh &= self.held.trim_start().is_empty();
        if let Some((_, tag)) = markers::find(format.opens, &self.held) {
            let end = self.held[..tag.start].trim_end().len();
            self.decide(end, Stretch::Text);
            return self.go(State::CallHead(tag.start - end));
        }
        let certain = match over {
            true => self.held.len(),
            false => self.held[..markers::certain_len(format.opens, &self.held)].trim_end().len(),
        };
        self.decide(certain, Stretch::Text);
        false
    }

    /// How calls are written.
    fn calls(&self) -> Option<&'static ToolFormat> {
        self.format.calls.as_ref().map(|calls| calls.format)
    }

    /// The same, where a call was found.
    fn closes(&self) -> &'static [&'static str] {
        self.calls().map_or(&[], |format| format.closes)
    }

    /// Tells apart a call whose arguments begin, one that is complete, and text.
    fn call_head(&mut self, before: usize, over: bool) -> bool {
        let Some(Calls { format, tools, .. }) = self.format.calls.clone() else {
            return self.go(State::Text);
        };
        let (found, opened) = head(&self.held[before..], format);
        // What a model writes without a mark of calls is one only if it names a tool.
        let is_call = |name: &str| opened > 0 || !format.bare || tools.find(name).is_some();
        match found {
            Head::More if !over => return false,
            Head::Arguments(name, len) if is_call(&name) => {
                self.decide(before + len, Stretch::Other);
                let reader = match format.form {
                    CallForm::Tagged(_) => Reader::Tagged(TaggedArguments::new(tools.find(&name))),
                    CallForm::Json { .. } | CallForm::Named(_) => Reader::Json(Arguments::default()),
                };
                self.begin(name);
                return self.go(State::CallArguments(reader));
            }
            Head::Whole(call, len) if is_call(&call.name) => {
                self.decide(before + len, Stretch::Other);
                self.begin(call.name);
                self.add(Event::CallArguments(call.arguments));
                self.add(Event::CallEnd);
                return self.go(State::CallTail { closes: 0, broken: false });
            }
            _ => {}
        }
        let first = self.held[before..].chars().next().map_or(0, char::len_utf8);
        self.is_fresh = false;
        self.decide(before + opened.max(first), Stretch::Text);
        self.go(State::Text)
    }

    fn call_arguments(&mut self, mut reader: Reader, over: bool) -> bool {
        let Some(Calls { format, tools, .. }) = self.format.calls.clone() else {
            return self.go(State::Text);
        };
        let mut arguments = String::new();
        let (len, step) = match (&mut reader, &format.form) {
            (Reader::Tagged(reader), CallForm::Tagged(form)) => {
                reader.read(&self.held, (form, format.closes), &tools, &mut arguments)
            }
            (Reader::Json(reader), _) => reader.read(&self.held, format.closes, &mut arguments),
            (Reader::Tagged(_), _) => (0, Step::Broken),
        };
        self.decide(len, Stretch::Other);
        if !arguments.is_empty() {
            self.add(Event::CallArguments(arguments));
        }
        if step == Step::More && !over {
            self.state = State::CallArguments(reader);
            return false;
        }
        self.add(Event::CallEnd);
        if step == Step::More {
            // A part of a closing tag, or of a value that will never be complete.
            self.decide(self.held.len(), Stretch::Other);
        }
        self.go(match (step, format.form) {
            (Step::Complete, CallForm::Json { .. }) => State::CallRest,
            (step, _) => State::CallTail { closes: 0, broken: step == Step::Broken },
        })
    }

    fn call_rest(&mut self, over: bool) -> bool {
        let body = self.held.trim_start();
        let before = self.held.len() - body.len();
        match body.chars().next() {
            None if !over => return false,
            Some('}') => self.decide(before + 1, Stretch::Other),
            Some(',') => {
                self.decide(before + 1, Stretch::Other);
                return self.go(State::CallMembers(Arguments::members()));
            }
            // The model forgot the bracket.
            None | Some(_) => {}
        }
        self.go(State::CallTail { closes: 0, broken: false })
    }

    fn call_members(&mut self, mut members: Arguments, over: bool) -> bool {
        let (len, step) = members.read(&self.held, self.closes(), &mut String::new());
        self.decide(len, Stretch::Other);
        if step == Step::More && !over {
            self.state = State::CallMembers(members);
            return false;
        }
        self.go(State::CallTail { closes: 0, broken: step == Step::Broken })
    }

    /// Passes over what belongs to a call after its arguments; white space is left for what follows.
    fn call_tail(&mut self, from: usize, over: bool) -> bool {
        let Some(format) = self.calls() else { return self.go(State::Text) };
        let brackets = from == 0 && matches!(format.form, CallForm::Json { .. });
        let body = self.held.trim_start_matches(|c: char| c.is_whitespace() || (brackets && c == '}'));
        let before = self.held.len() - body.len();
        let may_go_on = from < format.closes.len() || (from == 0 && (brackets || format.between.is_some()));
        if !may_go_on {
            return self.go(State::Gap);
        }
        if body.is_empty() && !over {
            return false;
        }
        if let Some(between) = format.between.filter(|between| from == 0 && body.starts_with(*between)) {
            return self.go(State::CallHead(before + between.len_utf8()));
        }
        let rest = format.closes[from..].iter().enumerate();
        if let Some((at, close)) = rest.clone().find(|(_, close)| body.starts_with(**close)) {
            self.decide(before + close.len(), Stretch::Other);
            return self.go(State::CallTail { closes: from + at + 1, broken: false });
        }
        if rest.clone().any(|(_, close)| close.starts_with(body)) {
            if !over {
                return false;
            }
            self.decide(self.held.len(), Stretch::Other);
        }
        self.decide(self.held[..before.min(self.held.len())].trim_end().len(), Stretch::Other);
        self.go(State::Gap)
    }

    /// Whatever stands before the next text that begins or ends a call is still the broken one's.
    fn broken_call(&mut self, over: bool) -> bool {
        let Some(format) = self.calls() else { return self.go(State::Text) };
        let texts = [format.closes, format.opens].concat();
        match markers::find(&texts, &self.held) {
            Some((which, tag)) if which < format.closes.len() => {
                self.decide(tag.end, Stretch::Other);
                self.go(State::CallTail { closes: which + 1, broken: false })
            }
            Some((_, tag)) => {
                self.decide(tag.start, Stretch::Other);
                self.go(State::Gap)
            }
            None => {
                let certain = if over { self.held.len() } else { markers::certain_len(&texts, &self.held) };
                self.decide(certain, Stretch::Other);
                if over { self.go(State::Gap) } else { false }
            }
        }
    }

    fn begin(&mut self, name: String) {
        self.calls += 1;
        self.is_fresh = false;
        self.add(Event::CallBegin { name });
    }

    /// Adds an event of a call, unless only the first call counts.
    fn add(&mut self, event: Event) {
        if self.calls == 1 || !self.format.one_call {
            self.events.push(event);
        }
    }
}
