//! How models mark reasoning and tool calls in their text.

/// A pair of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
}

/// What reasoning models write before the answer.
const THINK: Tags = Tags { open: "<think>", close: "</think>" };
/// Hermes' and Qwen's tool calls: JSON between tags.
const TOOL_CALL: Tags = Tags { open: "<tool_call>", close: "</tool_call>" };

/// What to look for in an answer. The default is nothing: all of it is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    /// Tags around reasoning. Only tags at the start count: a later one is ordinary text.
    pub(super) reasoning: Option<Tags>,
    /// The prompt ends with the opening tag.
    pub(super) opens_reasoning: bool,
    /// Tags around tool calls.
    pub(super) calls: Option<Tags>,
    /// Only the first call counts.
    pub(super) one_call: bool,
}

impl Format {
    /// The answer to a conversation.
    pub(crate) fn chat(opens_reasoning: bool) -> Format {
        Format { reasoning: Some(THINK), opens_reasoning, ..Format::default() }
    }

    /// With tool calls, or only the first one of them.
    pub(crate) fn with_calls(self, one_call: bool) -> Format {
        Format { calls: Some(TOOL_CALL), one_call, ..self }
    }
}
