//! Chat templates: from messages to the prompt that a model was trained on.
//!
//! What it is for: rendering the Jinja template of a GGUF file as Hugging Face's `apply_chat_template` does,
//! with the same functions, filters and white-space rules. What it is not for: checking requests (the server
//! does) or parsing answers.
//!
//! The invariant: what the template writes and what users wrote stay apart. A control token's text inside a
//! message, a tool or an argument reaches the model as plain text ([`Rendered`]).

mod clock;
mod environment;
mod json;
mod marks;
mod messages;
mod rendered;

use std::time::SystemTime;

use minijinja::Environment;
use serde_json::{Map, Value};

use crate::gguf::{Gguf, GgufError};
use crate::tokenizer::{SpecialTexts, Tokenizer};
use messages::Dialect;
pub use rendered::{Rendered, Segment};

/// What models without a template get: ChatML, as in llama.cpp.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                      + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}\
                      {{ '<|im_start|>assistant\n' }}{% endif %}";

/// A compiled template and what it needs of the vocabulary. Shared between threads.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    control: SpecialTexts,
    bos_token: String,
    eos_token: String,
    dialect: Dialect,
}

/// What to render.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// OpenAI's messages: `role`, `content` (a string, null or parts of type `text`), `tool_calls` and so on.
    pub messages: Vec<Value>,
    /// OpenAI's list of tools.
    pub tools: Option<Value>,
    /// Whether the assistant's turn is opened at the end.
    pub add_generation_prompt: bool,
    /// Further variables (`chat_template_kwargs`, such as `enable_thinking`). They can't replace those above.
    pub extra: Map<String, Value>,
}

/// Why there is no prompt: the template is broken, or it refuses these messages.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file's metadata couldn't be read.
    #[error("reading the chat template")]
    Gguf(#[from] GgufError),
    /// The template failed or raised an exception.
    #[error("chat template{}: {message}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Render {
        /// Where in the template, counted from 1.
        line: Option<usize>,
        /// What went wrong; the template's own words where it raised an exception.
        message: String,
    },
    /// The messages can't be given to any template.
    #[error("{param}: {message}")]
    Input {
        /// Where in the request, such as `messages[2].content`.
        param: String,
        /// What is wrong with it.
        message: String,
    },
}

impl TemplateError {
    /// The template's line, if the error has one.
    pub fn line(&self) -> Option<usize> {
        match self {
            TemplateError::Render { line, .. } => *line,
            _ => None,
        }
    }
}

impl ChatTemplate {
    /// The file's template (`tokenizer.chat_template`), or `None` if it has none; then [`ChatTemplate::chatml`]
    /// is what llama.cpp would use.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        match gguf.get_str("tokenizer.chat_template")? {
            Some(source) => Self::new(source, tokenizer).map(Some),
            None => Ok(None),
        }
    }

    /// ChatML, for models that come without a template.
    pub fn chatml(tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Self::new(CHATML, tokenizer)
    }

    /// A template in its own words.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Self::with_clock(source, tokenizer, SystemTime::now)
    }

    /// The same with the clock that the template's `strftime_now` reads.
    pub fn with_clock(
        source: &str,
        tokenizer: &Tokenizer,
        clock: fn() -> SystemTime,
    ) -> Result<Self, TemplateError> {
        let token = |id: Option<u32>| id.map(|id| tokenizer.token_text(id).to_owned()).unwrap_or_default();
        let mut template = ChatTemplate {
            environment: environment::build(source, clock)?,
            source: source.to_owned(),
            control: tokenizer.control_texts().clone(),
            bos_token: token(tokenizer.bos()),
            eos_token: token(tokenizer.eos()),
            dialect: Dialect::default(),
        };
        template.dialect = Dialect::probe(&template);
        template.environment.set_fuel(Some(environment::FUEL));
        Ok(template)
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for `input`.
    pub fn render(&self, input: &ChatInput) -> Result<Rendered, TemplateError> {
        let messages = messages::prepare(&input.messages, self.dialect)?;
        self.render_prepared(messages, input)
    }

    /// Renders messages that are already in the shape that the template wants.
    fn render_prepared(&self, messages: Vec<Value>, input: &ChatInput) -> Result<Rendered, TemplateError> {
        let mut context = input.extra.clone();
        context.insert("messages".into(), Value::Array(messages));
        context.insert("tools".into(), input.tools.clone().unwrap_or(Value::Null));
        let mut context = Value::Object(context);
        let mark = marks::mark_user_text(&mut context, &self.source, &self.control)?;
        if let Value::Object(context) = &mut context {
            context.insert("add_generation_prompt".into(), Value::Bool(input.add_generation_prompt));
            context.insert("bos_token".into(), Value::String(self.bos_token.clone()));
            context.insert("eos_token".into(), Value::String(self.eos_token.clone()));
        }
        let marked = environment::render(&self.environment, &context)?;
        Ok(Rendered::new(&marked, mark, &self.control))
    }
}
