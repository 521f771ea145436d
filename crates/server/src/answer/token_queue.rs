//! The tokens whose text is not decided yet, and which part of the answer each belongs to.

use std::collections::VecDeque;
use std::ops::Range;

use foretoken_engine::{Source, TokenEvent, TokenLogprob};

use super::drafted::Drafted;

/// What a stretch of an answer's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    Reasoning,
    /// The tags of reasoning and the white space within them.
    ReasoningTag,
    Text,
    /// A tool call, and white space that belongs to nothing.
    Other,
}

#[derive(Debug)]
struct Undecided {
    span: Range<usize>,
    logprob: Option<TokenLogprob>,
    source: Option<Source>,
    in_reasoning: bool,
    /// A control token that is shown to find calls: no part of text.
    control: bool,
    /// The last part whose log-probabilities have it.
    given: Option<Stretch>,
}

/// What is known of a decided range.
pub(super) struct Decided {
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) drafted: Drafted,
    /// Bytes of control tokens.
    pub(super) hidden: Vec<Range<usize>>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct TokenQueue {
    tokens: VecDeque<Undecided>,
    reasoning: usize,
}

impl TokenQueue {
    /// Adds a token; one without text in the answer belongs to no part.
    /// `control`: its text is shown only to find calls.
    pub(super) fn push(&mut self, token: &TokenEvent, control: bool) {
        if let Some(span) = token.span.clone() {
            let logprob = token.logprob.clone();
            let source = token.source;
            self.tokens.push_back(Undecided {
                span,
                logprob,
                source,
                in_reasoning: false,
                control,
                given: None,
            });
        }
    }

    /// Decides what the text in `range` is, which follows the range before. Returns the log-probabilities of tokens
    /// that begin to have text in that part, who drafted it, and what of the range is no text after all.
    pub(super) fn decide(&mut self, range: &Range<usize>, what: Stretch) -> Decided {
        let (mut logprobs, mut drafted, mut at) = (Vec::new(), Drafted::default(), range.start);
        let mut hidden = Vec::new();
        for token in self.tokens.iter_mut().take_while(|token| token.span.start < range.end) {
            if token.span.end <= range.start {
                continue;
            }
            // Text of no token comes with the end of the answer.
            drafted.push(token.span.start.saturating_sub(at), None);
            at = at.max(token.span.start);
            let end = token.span.end.min(range.end);
            if token.control {
                hidden.push(at..end);
                at = end;
                continue;
            }
            drafted.push(end.saturating_sub(at), token.source);
            at = at.max(end);
            if matches!(what, Stretch::Reasoning | Stretch::ReasoningTag) && !token.in_reasoning {
                token.in_reasoning = true;
                self.reasoning += 1;
            }
            if matches!(what, Stretch::Reasoning | Stretch::Text) && token.given != Some(what) {
                token.given = Some(what);
                logprobs.extend(token.logprob.clone());
            }
        }
        while self.tokens.front().is_some_and(|token| token.span.end <= range.end) {
            self.tokens.pop_front();
        }
        drafted.push(range.end - at, None);
        Decided { logprobs, drafted, hidden }
    }

    /// Tokens of the reasoning so far, its tags included.
    pub(super) fn reasoning(&self) -> usize {
        self.reasoning
    }
}
