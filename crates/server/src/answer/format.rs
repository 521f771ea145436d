//! How models mark reasoning and tool calls in their text.

use std::sync::Arc;

use super::parameters::Tools;
use super::tool_format::ToolFormat;

/// A pair of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
}

/// What reasoning models write before the answer.
const THINK: Tags = Tags { open: "<think>", close: "</think>" };
/// What to look for in an answer. The default is nothing: all of it is text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Format {
    /// Tags around reasoning. Only tags at the start count: a later one is ordinary text.
    pub(super) reasoning: Option<Tags>,
    /// The prompt ends with the opening tag.
    pub(super) opens_reasoning: bool,
    /// What tool calls may be in it.
    pub(super) calls: Option<Calls>,
    /// Only the first call counts.
    pub(super) one_call: bool,
}

/// How tool calls are written, and of what.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) format: &'static ToolFormat,
    pub(crate) tools: Arc<Tools>,
    /// Control tokens that the engine shows so that calls are found; not for clients.
    pub(crate) control: Arc<[u32]>,
}

impl Format {
    /// The answer to a conversation.
    pub(crate) fn chat(opens_reasoning: bool) -> Format {
        Format { reasoning: Some(THINK), opens_reasoning, ..Format::default() }
    }

    /// With tool calls, or only the first one of them.
    pub(crate) fn with_calls(self, calls: Calls, one_call: bool) -> Format {
        Format { calls: Some(calls), one_call, ..self }
    }
}
