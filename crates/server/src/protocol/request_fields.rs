//! Every request field that OpenAI, DeepSeek, vLLM, llama.cpp, Anthropic and Ollama document, and what this server does with it.
//!
//! The rule: a field that changes the response is implemented or rejected by name, never silently ignored. One table
//! per dialect drives both the check of requests and the tests, so a field becomes supported by changing its entry to
//! [`Support::Done`] and reading it. Fields that nobody documents are not in the table and are ignored, as other
//! servers ignore them.

use serde_json::Value;

use super::fields::Fields;
use crate::error::ApiError;

/// The routes that a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
    /// Both.
    Both,
    /// `/v1/messages`.
    Messages,
    /// `/v1/responses`.
    Responses,
    /// `/api/chat`.
    OllamaChat,
    /// `/api/generate`.
    OllamaGenerate,
    /// Both.
    Ollama,
    /// The object `options` of both.
    OllamaOptions,
}

impl Route {
    /// Whether a field of `self` is documented for the single route `route`.
    pub fn covers(self, route: Route) -> bool {
        match self {
            Route::Both => matches!(route, Route::Both | Route::Chat | Route::Text),
            Route::Ollama => matches!(route, Route::Ollama | Route::OllamaChat | Route::OllamaGenerate),
            single => single == route,
        }
    }
}

/// What the server does with a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Support {
    /// Implemented.
    Done,
    /// Ignored, because it cannot change the response; the reason.
    Harmless(&'static str),
    /// Rejected with a 400 that names it, unless the value is null or one of these, which ask for nothing; the text
    /// says what to do instead.
    Refused(&'static [Neutral], &'static str),
}

/// A value of a refused field that asks for what the server does anyway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Neutral {
    /// `false`.
    False,
    /// `true`.
    True,
    /// This number.
    Number(f64),
    /// This string.
    Text(&'static str),
    /// An empty string, array or object.
    Empty,
    /// An array with this string as its only element.
    Only(&'static str),
}

impl Neutral {
    fn matches(self, value: &Value) -> bool {
        match (self, value) {
            (Neutral::False, Value::Bool(value)) => !value,
            (Neutral::True, Value::Bool(value)) => *value,
            (Neutral::Number(number), value) => value.as_f64() == Some(number),
            (Neutral::Text(text), Value::String(value)) => value == text,
            (Neutral::Empty, Value::String(value)) => value.is_empty(),
            (Neutral::Empty, Value::Array(value)) => value.is_empty(),
            (Neutral::Empty, Value::Object(value)) => value.is_empty(),
            (Neutral::Only(text), Value::Array(value)) => value.len() == 1 && value[0] == text,
            _ => false,
        }
    }

    /// The value as JSON.
    pub fn value(self) -> Value {
        match self {
            Neutral::False => false.into(),
            Neutral::True => true.into(),
            Neutral::Number(number) => number.into(),
            Neutral::Text(text) => text.into(),
            Neutral::Empty => "".into(),
            Neutral::Only(text) => vec![text].into(),
        }
    }
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestField {
    /// Its name in the body.
    pub name: &'static str,
    /// Where it is documented.
    pub route: Route,
    /// What happens to it.
    pub support: Support,
}

/// The fields of all dialects.
pub fn all() -> impl Iterator<Item = &'static RequestField> {
    [super::openai::FIELDS, super::openai_responses::FIELDS, super::anthropic::FIELDS, super::ollama::FIELDS]
        .into_iter()
        .flatten()
}

/// Rejects the first field of a body that would change the response and is not supported. `route` is a single one.
pub(crate) fn check(fields: Fields<'_>, route: Route) -> Result<(), ApiError> {
    for field in all().filter(|field| field.route.covers(route)) {
        if let (Support::Refused(neutral, advice), Some(value)) = (field.support, fields.get(field.name))
            && !neutral.iter().any(|neutral| neutral.matches(value))
        {
            return Err(ApiError::unsupported(
                fields.path_of(field.name),
                format!("is not supported; {advice}"),
            ));
        }
    }
    Ok(())
}

pub(super) const fn done(name: &'static str, route: Route) -> RequestField {
    RequestField { name, route, support: Support::Done }
}

pub(super) const fn harmless(name: &'static str, route: Route, reason: &'static str) -> RequestField {
    RequestField { name, route, support: Support::Harmless(reason) }
}

pub(super) const fn refused(
    name: &'static str,
    route: Route,
    neutral: &'static [Neutral],
    advice: &'static str,
) -> RequestField {
    RequestField { name, route, support: Support::Refused(neutral, advice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_entry_per_route() {
        for (at, field) in all().enumerate() {
            let twice = all().skip(at + 1).find(|other| {
                let overlap = field.route.covers(other.route) || other.route.covers(field.route);
                other.name == field.name && overlap
            });
            assert_eq!(twice, None);
        }
    }
}
