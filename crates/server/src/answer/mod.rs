//! What a model's answer is made of: one stream of typed events, for every dialect.
//!
//! [`AnswerParser`] finds reasoning and tool calls in the text that the engine sends; a dialect's writer puts the events
//! on the wire as they come, or collects them in an [`Answer`] and writes that. Nothing here knows a dialect. The
//! invariant: the events, joined, do not depend on how the engine cut the answer into steps, so a whole answer, a
//! streamed one and a replayed one are the same; and a piece's log-probabilities are those of exactly the tokens that
//! have text in it.

mod arguments;
mod call;
mod drafted;
mod format;
#[cfg(test)]
mod format_tests;
mod parameters;
mod parser;
mod tagged;
#[cfg(test)]
mod tests;
mod token_queue;
mod tool_format;

use foretoken_engine::TokenLogprob;
use serde_json::{Map, Value};

pub(crate) use drafted::Drafted;
pub(crate) use format::{Calls, Format};
pub(crate) use parameters::Tools;
pub(crate) use parser::AnswerParser;
pub use tool_format::ToolFormat;

/// Most places at which incomplete arguments are cut to find those that are complete.
const COMMAS_MAX: usize = 200;

/// Something that happened in an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Reasoning before the answer.
    Reasoning(Piece),
    /// Text of the answer.
    Text(Piece),
    /// A tool call begins. The events of a call follow each other without others between them.
    CallBegin {
        /// Name of the tool.
        name: String,
    },
    /// More of the call's arguments, as JSON text.
    CallArguments(String),
    /// The call's arguments are complete, or will never be.
    CallEnd,
    /// The answer is over; nothing follows.
    Finish(Finish),
}

/// A piece of text with the log-probabilities of the tokens that begin to have text in it, if they were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenLogprob>,
    /// Who drafted the text.
    pub(crate) drafted: Drafted,
}

impl Piece {
    pub(crate) fn append(&mut self, more: Piece) {
        self.text.push_str(&more.text);
        self.tokens.extend(more.tokens);
        self.drafted.append(more.drafted);
    }
}

/// Why an answer is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model ended it.
    #[default]
    Stop,
    /// This stop text ended it.
    StopText(String),
    /// It ended with tool calls.
    Calls,
    /// A length limit.
    Length,
}

/// A part of a whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Reasoning(Piece),
    Text(Piece),
    Call(Call),
}

/// A whole tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON text. An answer that a limit cut, or a model that made a mistake, leaves it incomplete.
    pub(crate) arguments: String,
}

impl Call {
    /// The arguments as an object. Of arguments that are incomplete, the members that are not.
    pub(crate) fn object(arguments: &str) -> Map<String, Value> {
        if let Ok(object) = serde_json::from_str(arguments) {
            return object;
        }
        let commas = arguments.char_indices().rev().filter(|&(_, c)| c == ',').map(|(at, _)| at);
        let prefixes = std::iter::once(arguments.len()).chain(commas).take(COMMAS_MAX);
        let mut objects =
            prefixes.filter_map(|end| serde_json::from_str(&format!("{}}}", &arguments[..end])).ok());
        objects.next().unwrap_or_default()
    }
}

/// A whole answer: its events, joined.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// In the order in which the model wrote them.
    pub(crate) parts: Vec<Part>,
    pub(crate) finish: Finish,
}

impl Answer {
    pub(crate) fn push(&mut self, event: Event) {
        match (event, self.parts.last_mut()) {
            (Event::Reasoning(more), Some(Part::Reasoning(piece))) => piece.append(more),
            (Event::Reasoning(piece), _) => self.parts.push(Part::Reasoning(piece)),
            (Event::Text(more), Some(Part::Text(piece))) => piece.append(more),
            (Event::Text(piece), _) => self.parts.push(Part::Text(piece)),
            (Event::CallBegin { name }, _) => {
                self.parts.push(Part::Call(Call { name, arguments: String::new() }));
            }
            (Event::CallArguments(more), Some(Part::Call(call))) => call.arguments.push_str(&more),
            (Event::Finish(finish), _) => self.finish = finish,
            (Event::CallArguments(_) | Event::CallEnd, _) => {}
        }
    }

    /// All its reasoning.
    pub(crate) fn reasoning(&self) -> Piece {
        self.joined(|part| if let Part::Reasoning(piece) = part { Some(piece) } else { None })
    }

    /// All its text, without reasoning and calls.
    pub(crate) fn text(&self) -> Piece {
        self.joined(|part| if let Part::Text(piece) = part { Some(piece) } else { None })
    }

    /// Its calls.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.parts.iter().filter_map(|part| if let Part::Call(call) = part { Some(call) } else { None })
    }

    fn joined(&self, select: impl Fn(&Part) -> Option<&Piece>) -> Piece {
        let mut whole = Piece::default();
        self.parts.iter().filter_map(select).for_each(|piece| whole.append(piece.clone()));
        whole
    }
}
