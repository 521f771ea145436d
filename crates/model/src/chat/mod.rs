//! Chat templates: from messages to the prompt that a model was trained on.
//!
//! What it is for: rendering the Jinja template of a GGUF file as Hugging Face's `apply_chat_template` does,
//! with the same functions, filters and white-space rules. What it is not for: validating requests (the server
//! does) or parsing responses.
//!
//! The invariant: template text and user text stay separate. The text of a control token inside a message, a tool
//! or an argument reaches the model as plain text ([`Rendered`]).

mod budget;
mod clock;
mod described_tools;
mod dialect;
mod environment;
mod json;
mod marks;
mod messages;
mod python;

use std::time::SystemTime;

use minijinja::Environment;
use serde_json::{Map, Value};

use crate::gguf::{Gguf, GgufError};
pub use crate::rendered::{Rendered, Segment};
use crate::special_texts::SpecialTexts;
use crate::tokenizer::Tokenizer;
pub use clock::civil;
pub use described_tools::Place;
use dialect::Dialect;

/// The template for models that have none: ChatML, as in llama.cpp.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                      + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}\
                      {{ '<|im_start|>assistant\n' }}{% endif %}";

/// A compiled template and the part of the vocabulary that it needs. Shared between threads.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    control: SpecialTexts,
    /// `bos_token`, `eos_token` and so on, by the names that templates use.
    special_tokens: Vec<(&'static str, String)>,
    dialect: Dialect,
    /// The template for requests with tools, if the file has one.
    tool_use: Option<Box<ChatTemplate>>,
}

/// The input of a template.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// OpenAI's messages: `role`, `content` (a string, null or parts of type `text`), `tool_calls` and so on.
    pub messages: Vec<Value>,
    /// OpenAI's list of tools.
    pub tools: Option<Value>,
    /// Whether the prompt ends with the start of an assistant turn.
    pub add_generation_prompt: bool,
    /// Further variables (`chat_template_kwargs`, such as `enable_thinking` or `documents`). They cannot override
    /// those above.
    pub extra: Map<String, Value>,
}

/// Why rendering failed: the template is invalid, or it rejects these messages.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file's metadata could not be read.
    #[error("reading the chat template")]
    Gguf(#[from] GgufError),
    /// The template failed or raised an exception.
    #[error("chat template{}: {message}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Render {
        /// The template's line, counted from 1.
        line: Option<usize>,
        /// What failed; the template's own message if it raised an exception.
        message: String,
    },
    /// The messages are not valid input for any template.
    #[error("{param}: {message}")]
    Input {
        /// The field of the request, such as `messages[2].content`.
        param: String,
        /// What is wrong with the field.
        message: String,
    },
}

impl TemplateError {
    /// The line in the template, if known.
    pub fn line(&self) -> Option<usize> {
        match self {
            TemplateError::Render { line, .. } => *line,
            _ => None,
        }
    }
}

impl ChatTemplate {
    /// The file's template (`tokenizer.chat_template`, and `tokenizer.chat_template.tool_use` for requests with
    /// tools), or `None` if it has none; llama.cpp then
    /// uses [`ChatTemplate::chatml`].
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        let Some(source) = gguf.get_str("tokenizer.chat_template")? else { return Ok(None) };
        let mut template = Self::new(source, tokenizer)?;
        if let Some(source) = gguf.get_str("tokenizer.chat_template.tool_use")? {
            template.tool_use = Some(Box::new(Self::new(source, tokenizer)?));
        }
        Ok(Some(template))
    }

    /// ChatML, for models without a template.
    pub fn chatml(tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Self::new(CHATML, tokenizer)
    }

    /// Compiles a template from source.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Self::with_clock(source, tokenizer, SystemTime::now)
    }

    /// The same with a clock for the template's `strftime_now`.
    pub fn with_clock(
        source: &str,
        tokenizer: &Tokenizer,
        clock: fn() -> SystemTime,
    ) -> Result<Self, TemplateError> {
        let special_tokens = tokenizer.special_tokens();
        let mut template = ChatTemplate {
            environment: environment::build(source, clock)?,
            source: source.to_owned(),
            control: tokenizer.control_texts().clone(),
            special_tokens: special_tokens.map(|(name, text)| (name, text.to_owned())).collect(),
            dialect: Dialect::default(),
            tool_use: None,
        };
        template.dialect = Dialect::probe(&template);
        template.environment.set_fuel(Some(environment::FUEL));
        Ok(template)
    }

    /// Whether it writes tools into the prompt. If not, [`ChatInput::with_described_tools`] does.
    pub fn reads_tools(&self) -> bool {
        self.tool_use.is_some() || self.source.contains("tools")
    }

    /// The source of the template for requests with tools.
    pub fn tools_source(&self) -> &str {
        self.tool_use.as_ref().map_or(&self.source, |tool_use| &tool_use.source)
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for `input`.
    pub fn render(&self, input: &ChatInput) -> Result<Rendered, TemplateError> {
        let has_tools = input.tools.as_ref().and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
        if let Some(tool_use) = self.tool_use.as_deref().filter(|_| has_tools) {
            return tool_use.render(input);
        }
        let messages = messages::prepare(&input.messages, self.dialect)?;
        self.render_prepared(messages, input)
    }

    /// Renders messages that are already in the format the template expects.
    fn render_prepared(&self, messages: Vec<Value>, input: &ChatInput) -> Result<Rendered, TemplateError> {
        let mut context = input.extra.clone();
        context.insert("messages".into(), Value::Array(messages));
        context.insert("tools".into(), input.tools.clone().unwrap_or(Value::Null));
        context.entry("documents").or_insert(Value::Null);
        let mut context = Value::Object(context);
        let mark = marks::mark_user_text(&mut context, &self.source, &self.control)?;
        if let Value::Object(context) = &mut context {
            context.insert("add_generation_prompt".into(), Value::Bool(input.add_generation_prompt));
            for (name, text) in &self.special_tokens {
                context.insert((*name).into(), Value::String(text.clone()));
            }
        }
        let marked = environment::render(&self.environment, &context)?;
        Ok(Rendered::new(&marked, mark, &self.control))
    }
}
