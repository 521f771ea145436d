//! Constraints on answers: a schema, a regular expression, a list of choices or a grammar becomes a mask of the tokens
//! that may come next.
//!
//! [`Grammars`] compiles a [`Constraint`] into a [`Grammar`] that requests carry; a running sequence has a
//! [`Matcher`](matcher::Matcher) of its own, whose mask is applied to the model's logits before anything else changes
//! them. Drafts are checked, and forced tokens drafted, with a second parser, the [`Guide`](guide::Guide). The parsing is
//! `llguidance`'s; nothing outside this folder knows it. What this is not for: reading wire formats, and judging finished
//! answers.
//!
//! The invariant: a sequence's matcher does the same work whatever was drafted, one mask and one step per token of the
//! answer, so that its limits are met at the same token with and without speculation.

mod allowed;
mod calls;
mod compile;
mod gbnf;
mod guide;
mod markers;
mod matcher;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use allowed::Allowed;
use compile::Compiled;
pub use compile::Grammars;
pub(crate) use guide::Guide;
pub(crate) use matcher::{End, Matcher};

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A JSON object.
    JsonObject,
    /// JSON that is valid under this schema.
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole, in the syntax of the `regex` crate without look-around.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of this grammar, in `llguidance`'s variant of Lark.
    Lark(String),
    /// Text of this grammar, in llama.cpp's syntax.
    Gbnf(String),
    /// Tool calls.
    Calls(Calls),
}

/// Tool calls in Hermes' form, of functions with arguments that are valid under their schemas.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// The functions that may be called; at least one.
    pub functions: Vec<Function>,
    /// Several calls may follow each other.
    pub many: bool,
    /// Any text may come before, between and after calls, or alone: only what follows `<tool_call>` is constrained.
    pub free: bool,
    /// What the answer may be instead: [`Constraint::JsonObject`] or [`Constraint::JsonSchema`].
    pub or: Option<Box<Constraint>>,
}

/// A function that an answer may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, an object; null if it has none.
    pub parameters: Value,
}

/// Why a constraint cannot be enforced, in words for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

/// A compiled constraint. Clones share it.
#[derive(Clone)]
pub struct Grammar {
    compiled: Arc<Compiled>,
    reasoning: Reasoning,
}

/// Reasoning before the constrained answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// There is none: the answer is constrained from its first token on.
    #[default]
    Never,
    /// The prompt ends within `<think>`: what comes up to `</think>` is free.
    Open,
    /// The model may begin with `<think>`, if that is a token of its vocabulary; then the same holds.
    Possible,
}

impl Grammar {
    /// The same constraint, which applies after reasoning.
    pub fn after(self, reasoning: Reasoning) -> Grammar {
        Grammar { reasoning, ..self }
    }

    /// Whether it allows a text, each byte of which is a token, and can end after it.
    #[cfg(test)]
    fn takes_bytes(&self, text: &[u8]) -> bool {
        let mut parser = compile::lock(&self.compiled.fresh).deep_clone();
        let taken = text.iter().all(|&byte| parser.try_consume_tokens(&[u32::from(byte)]).ok() == Some(1));
        taken && parser.is_accepting().unwrap_or(false)
    }

    /// Everything that determines which answers it allows, for keys of stored answers.
    pub(crate) fn identity(&self) -> (u8, &[u8]) {
        (self.reasoning as u8, &self.compiled.source)
    }

    /// A matcher for a new answer.
    pub(crate) fn matcher(&self, drafts: bool) -> Matcher {
        Matcher::new(&self.compiled, self.reasoning, drafts)
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = String::from_utf8_lossy(&self.compiled.source);
        out.debug_struct("Grammar").field("source", &source).field("reasoning", &self.reasoning).finish()
    }
}
