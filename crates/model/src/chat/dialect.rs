//! The format of messages that a template expects, found by rendering probes when it is loaded.

use serde_json::{Value, json};

use super::{ChatInput, ChatTemplate};

/// What a template accepts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dialect {
    pub(super) arguments: Arguments,
    /// The content of a turn that only calls tools.
    pub(super) no_content: NoContent,
    /// String content has to be given as a list with one part.
    pub(super) content_as_parts: bool,
    /// Roles whose content is iterated over if it is a list of parts.
    pub(super) parts: Parts,
    /// The template mentions the `developer` role.
    pub(super) has_developer: bool,
}

/// How tool arguments are given: as objects, unless the template fails on them or prints them as Python would.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Arguments {
    #[default]
    Objects,
    Text,
}

/// How missing content is given: left out as transformers does, unless the template fails on that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum NoContent {
    #[default]
    Absent,
    Empty,
    Null,
}

/// Roles that take lists of parts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    system: bool,
    user: bool,
    assistant: bool,
    tool: bool,
}

impl Parts {
    pub(super) fn of(self, role: &str) -> bool {
        match role {
            "system" | "developer" => self.system,
            "assistant" => self.assistant,
            "tool" => self.tool,
            _ => self.user,
        }
    }
}

const PROBE: &str = "foretoken_probe";
const SECOND: &str = "foretoken_second";

impl Dialect {
    pub(super) fn probe(template: &ChatTemplate) -> Self {
        let render = |messages: Value| {
            let messages = messages.as_array().cloned().unwrap_or_default();
            let rendered = template.render_prepared(messages, &ChatInput::default());
            rendered.ok().map(|rendered| rendered.text().to_owned())
        };
        let (arguments, no_content) = probe_calls(&render);
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let shows = |messages: Value| render(messages).is_some_and(|text| text.contains(PROBE));
        let content_as_parts =
            !shows(user(json!(PROBE))) && shows(user(json!([{"type": "text", "text": PROBE}])));
        let parts = probe_parts(&render, arguments);
        Dialect {
            arguments,
            no_content,
            content_as_parts,
            parts,
            has_developer: template.source().contains("developer"),
        }
    }
}

fn call(arguments: Arguments) -> Value {
    let arguments = match arguments {
        Arguments::Objects => json!({PROBE: "value"}),
        Arguments::Text => json!(format!("{{\"{PROBE}\": \"value\"}}")),
    };
    json!([{"type": "function", "id": "call00001", "function": {"name": "f", "arguments": arguments}}])
}

/// The first format that renders without Python's `repr` of the arguments, in order of preference.
fn probe_calls(render: &dyn Fn(Value) -> Option<String>) -> (Arguments, NoContent) {
    let conversation = |arguments, no_content, with_result: bool| {
        let mut turn = json!({"role": "assistant", "tool_calls": call(arguments)});
        match no_content {
            NoContent::Absent => {}
            NoContent::Empty => turn["content"] = json!(""),
            NoContent::Null => turn["content"] = Value::Null,
        }
        let mut messages = vec![json!({"role": "user", "content": "q"}), turn];
        if with_result {
            messages.push(json!({"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "r"}));
        }
        Value::Array(messages)
    };
    let repr = format!("{{'{PROBE}'");
    let passes = |arguments, no_content, with_result| {
        let text = render(conversation(arguments, no_content, with_result));
        text.is_some_and(|text| !text.contains(&repr))
    };
    let no_contents = [NoContent::Absent, NoContent::Empty, NoContent::Null];
    let formats = no_contents.into_iter().flat_map(|no_content| {
        [Arguments::Objects, Arguments::Text].map(|arguments| (arguments, no_content))
    });
    let both = |(arguments, no_content): &(Arguments, NoContent)| {
        passes(*arguments, *no_content, true) && passes(*arguments, *no_content, false)
    };
    if let Some(format) = formats.clone().find(both) {
        return format;
    }
    let either = |(arguments, no_content): &(Arguments, NoContent)| {
        passes(*arguments, *no_content, true) || passes(*arguments, *no_content, false)
    };
    if let Some(format) = formats.clone().find(either) {
        return format;
    }
    // Templates without tools: an empty text is what every template takes.
    (Arguments::Objects, NoContent::Empty)
}

/// Probes with two parts: a template that prints both, and not as Python or JSON would print the list, iterates.
fn probe_parts(render: &dyn Fn(Value) -> Option<String>, arguments: Arguments) -> Parts {
    let parts = json!([{"type": "text", "text": PROBE}, {"type": "text", "text": SECOND}]);
    let message = |role: &str, content: Value| json!({"role": role, "content": content});
    let iterates = |messages: Value| {
        render(messages).is_some_and(|text| {
            let printed = ["'text':", "\"text\":"].iter().any(|key| text.contains(key));
            text.contains(PROBE) && text.contains(SECOND) && !printed
        })
    };
    let q = || message("user", json!("q"));
    let turn = json!({"role": "assistant", "content": "", "tool_calls": call(arguments)});
    let result = json!({"role": "tool", "tool_call_id": "call00001", "name": "f", "content": parts});
    Parts {
        system: iterates(json!([message("system", parts.clone()), q()])),
        user: iterates(json!([message("user", parts.clone())])),
        assistant: iterates(json!([q(), message("assistant", parts.clone()), q()])),
        tool: iterates(json!([q(), turn, result])),
    }
}
