//! What a request asks for, whichever dialect it came in.

use foretoken_engine::Request;

use std::sync::Arc;

use crate::answer::{Calls, Format, ToolFormat, Tools};
use crate::conversation::Conversation;
use crate::protocol::constraint::Constrained;

/// How answers are to be generated.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The engine's request without a prompt.
    pub(crate) request: Request,
    /// Answers per prompt.
    pub(crate) n: usize,
    /// Whether answers are sent as they are generated.
    pub(crate) stream: bool,
    /// The text that the client expects.
    pub(crate) prediction: Option<String>,
    /// What the answer must be, forced calls included; to be compiled.
    pub(crate) constraint: Option<Constrained>,
}

impl Options {
    /// One engine request per answer to `prompt`. Each answer's seed is the request's plus its index, so that answers
    /// differ and are reproducible.
    pub(crate) fn requests_for(&self, prompt: &[u32]) -> impl Iterator<Item = Request> {
        (0..self.n as u64).map(|choice| {
            let mut request = Request { prompt: prompt.to_vec(), ..self.request.clone() };
            request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(choice));
            request
        })
    }
}

/// A validated request for an answer to a conversation.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) conversation: Conversation,
    pub(crate) options: Options,
    /// Only the first tool call of an answer counts.
    pub(crate) one_call: bool,
}

impl ChatRequest {
    /// What to look for in the answer. Without tools, what looks like a call is text.
    pub(crate) fn format(
        &self,
        opens_reasoning: bool,
        format: &'static ToolFormat,
        control: &Arc<[u32]>,
    ) -> Format {
        if self.conversation.raw.is_some() {
            return Format::default();
        }
        let chat = Format::chat(opens_reasoning);
        if self.conversation.tools.is_empty() {
            return chat;
        }
        let tools = Arc::new(Tools::of(&self.conversation.tools));
        chat.with_calls(Calls { format, tools, control: Arc::clone(control) }, self.one_call)
    }
}
