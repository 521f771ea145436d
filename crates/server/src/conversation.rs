//! A conversation, whichever dialect it came in.
//!
//! Readers of dialects build one; the model's chat template gets it in the form that templates read, OpenAI's. The
//! invariant: nothing of a turn that a template may read is lost on the way.

use foretoken_model::chat::ChatInput;
use serde_json::{Map, Value, json};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    Developer,
    User,
    Assistant,
    /// The result of a tool call.
    Tool,
    /// The same in OpenAI's older form.
    Function,
}

impl Role {
    pub(crate) const ALL: [Role; 6] =
        [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool, Role::Function];

    /// The name that templates know.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
            Role::Function => "function",
        }
    }
}

/// What a turn says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Text(String),
    /// Several texts, for templates that tell them apart.
    Parts(Vec<String>),
}

/// A call that an earlier answer made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CallMade {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    /// An object, or JSON text.
    pub(crate) arguments: Value,
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    pub(crate) content: Option<Content>,
    /// What an earlier answer thought before it.
    pub(crate) reasoning: Option<String>,
    pub(crate) calls: Vec<CallMade>,
    /// The call that this is the result of.
    pub(crate) call_id: Option<String>,
    /// The speaker's name, or that of the tool.
    pub(crate) name: Option<String>,
    /// Whatever else the client sent and a template may read.
    pub(crate) more: Map<String, Value>,
}

impl Turn {
    /// A turn that says nothing yet.
    pub(crate) fn of(role: Role) -> Turn {
        Turn {
            role,
            content: None,
            reasoning: None,
            calls: Vec::new(),
            call_id: None,
            name: None,
            more: Map::new(),
        }
    }

    /// A turn of text.
    pub(crate) fn text(role: Role, text: impl Into<String>) -> Turn {
        Turn { content: Some(Content::Text(text.into())), ..Turn::of(role) }
    }

    /// As templates read it.
    fn to_message(&self) -> Value {
        let mut message = Map::from_iter([("role".to_owned(), self.role.name().into())]);
        match &self.content {
            Some(Content::Text(text)) => drop(message.insert("content".into(), text.as_str().into())),
            Some(Content::Parts(parts)) => {
                let parts = parts.iter().map(|text| json!({"type": "text", "text": text})).collect();
                message.insert("content".into(), parts);
            }
            None => {}
        }
        let texts =
            [("reasoning_content", &self.reasoning), ("tool_call_id", &self.call_id), ("name", &self.name)];
        for (key, text) in texts {
            if let Some(text) = text {
                message.insert(key.into(), text.as_str().into());
            }
        }
        if !self.calls.is_empty() {
            message.insert("tool_calls".into(), self.calls.iter().map(CallMade::to_value).collect());
        }
        message.extend(self.more.clone());
        message.into()
    }
}

impl CallMade {
    fn to_value(&self) -> Value {
        let mut call = Map::new();
        if let Some(id) = &self.id {
            call.insert("id".into(), id.as_str().into());
        }
        call.insert("type".into(), "function".into());
        call.insert("function".into(), json!({"name": self.name, "arguments": self.arguments}));
        call.into()
    }
}

/// A conversation that an answer is wanted to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) turns: Vec<Turn>,
    /// Tools that the model may call, as OpenAI defines them and templates read them.
    pub(crate) tools: Vec<Value>,
    /// Whether the prompt ends with the beginning of an answer.
    pub(crate) begin_answer: bool,
    /// The text that the answer begins with, and that it does not repeat.
    pub(crate) prefill: Option<String>,
    /// The prompt as it is, without a template: the turns are then not rendered.
    pub(crate) raw: Option<String>,
    /// Further variables of the template.
    pub(crate) template_vars: Map<String, Value>,
}

impl Conversation {
    /// Makes the last turn the beginning of the answer. False if it is not an assistant's text alone.
    pub(crate) fn continue_last(&mut self) -> bool {
        let is_text = |last: &mut Turn| {
            last.role == Role::Assistant && last.calls.is_empty() && last.reasoning.is_none()
        };
        let Some(last) = self.turns.pop_if(is_text) else { return false };
        self.prefill = Some(match last.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.concat(),
            None => String::new(),
        });
        self.begin_answer = true;
        true
    }

    /// What the template gets.
    pub(crate) fn to_input(&self) -> ChatInput {
        ChatInput {
            messages: self.turns.iter().map(Turn::to_message).collect(),
            tools: (!self.tools.is_empty()).then(|| Value::Array(self.tools.clone())),
            add_generation_prompt: self.begin_answer,
            extra: self.template_vars.clone(),
        }
    }
}
