//! Tools for templates that have no place for them: described to the model in text, in Hermes' form.
//!
//! The description, earlier calls and their results become text of ordinary messages, as Qwen's template writes them.
//! What a model answers in that form, `<tool_call>` tags around JSON, is recognised like that of any model.

use serde_json::{Value, json};

use super::ChatInput;

const BEFORE: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
                      function signatures within <tools></tools> XML tags:\n<tools>";
const AFTER: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
                     <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": \
                     <args-json-object>}\n</tool_call>";

/// Where the description stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the end of the system message, which is made if there is none.
    System,
    /// At the beginning of the first user message, for templates that refuse system messages.
    FirstUser,
}

impl ChatInput {
    /// The same conversation with its tools, calls and results as text. Unchanged if it has no tools.
    pub fn with_described_tools(&self, place: Place) -> ChatInput {
        let tools = self.tools.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if tools.is_empty() {
            return self.clone();
        }
        let lines: String = tools.iter().map(|tool| format!("\n{tool}")).collect();
        let description = format!("{BEFORE}{lines}{AFTER}");
        let mut messages: Vec<Value> = Vec::with_capacity(self.messages.len() + 1);
        let mut after_result = false;
        for message in &self.messages {
            let is_result = message["role"] == "tool";
            match (as_text(message), messages.last_mut()) {
                // Results that follow each other are one turn.
                (message, Some(last)) if is_result && after_result => {
                    add_text(last, &message["content"], "\n", false);
                }
                (message, _) => messages.push(message),
            }
            after_result = is_result;
        }
        describe(&mut messages, description, place);
        ChatInput { messages, tools: None, ..self.clone() }
    }
}

fn describe(messages: &mut Vec<Value>, description: String, place: Place) {
    let is_system = |message: &Value| message["role"] == "system" || message["role"] == "developer";
    let description = Value::String(description);
    match place {
        Place::System if messages.first().is_some_and(is_system) => {
            add_text(&mut messages[0], &description, "\n\n", false);
        }
        Place::System => messages.insert(0, json!({"role": "system", "content": description})),
        Place::FirstUser => match messages.iter_mut().find(|message| message["role"] == "user") {
            Some(message) => add_text(message, &description, "\n\n", true),
            None => messages.insert(0, json!({"role": "user", "content": description})),
        },
    }
}

/// A message whose calls or result are text.
fn as_text(message: &Value) -> Value {
    let mut message = message.clone();
    if message["role"] == "tool" {
        let mut result = json!({"role": "user", "content": "<tool_response>"});
        add_text(&mut result, &message["content"], "\n", false);
        add_text(&mut result, &"</tool_response>".into(), "\n", false);
        return result;
    }
    let calls = message.as_object_mut().and_then(|message| message.remove("tool_calls"));
    for call in calls.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let function = &call["function"];
        // Arguments are an object, or its text.
        let arguments = match &function["arguments"] {
            Value::String(text) => text.clone(),
            object => object.to_string(),
        };
        let call = format!(
            "<tool_call>\n{{\"name\": {}, \"arguments\": {arguments}}}\n</tool_call>",
            function["name"]
        );
        add_text(&mut message, &call.into(), "\n", false);
    }
    message
}

/// Adds a content to that of a message: text or parts to text or parts.
fn add_text(message: &mut Value, more: &Value, between: &str, in_front: bool) {
    let text = |content: &Value| match content {
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        content => content.as_str().unwrap_or_default().to_owned(),
    };
    let (own, more) = (text(&message["content"]), text(more));
    let (first, second) = if in_front { (more, own) } else { (own, more) };
    let between = if first.is_empty() || second.is_empty() { "" } else { between };
    message["content"] = format!("{first}{between}{second}").into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(messages: Value) -> ChatInput {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        ChatInput {
            messages: messages.as_array().cloned().unwrap_or_default(),
            tools: Some(tools),
            add_generation_prompt: true,
            ..ChatInput::default()
        }
    }

    #[test]
    fn the_description_ends_the_system_message_or_begins_the_first_question() {
        let with = |messages, place| input(messages).with_described_tools(place).messages;
        let tool = r#"{"type":"function","function":{"name":"f"}}"#;
        let description = format!("{BEFORE}\n{tool}{AFTER}");
        let question = json!({"role": "user", "content": "hi"});
        let kind = json!({"role": "system", "content": [{"type": "text", "text": "Be kind."}]});
        let described = with(json!([kind, question]), Place::System);
        assert_eq!(described[0]["content"], format!("Be kind.\n\n{description}"));
        let described = with(json!([question]), Place::System);
        assert_eq!(described, [json!({"role": "system", "content": description}), question.clone()]);
        let described = with(json!([question]), Place::FirstUser);
        assert_eq!(described, [json!({"role": "user", "content": format!("{description}\n\nhi")})]);
    }

    #[test]
    fn calls_and_results_are_text_and_results_in_a_row_one_turn() {
        let call =
            |arguments: Value| json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
        let calls = json!([call(json!({"a": 1})), call(json!("{\"a\": 2}"))]);
        let messages = json!([
            {"role": "assistant", "content": "Look:", "tool_calls": calls},
            {"role": "tool", "content": "one"},
            {"role": "tool", "content": "two"},
        ]);
        let described = input(messages).with_described_tools(Place::System);
        assert_eq!(described.tools, None);
        assert_eq!(
            described.messages[1..],
            [
                json!({"role": "assistant", "content": "Look:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n\
                    </tool_call>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 2}}\n</tool_call>"}),
                json!({"role": "user", "content": "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n\
                    </tool_response>"}),
            ]
        );
    }

    #[test]
    fn a_conversation_without_tools_is_left_as_it_is() {
        let plain = ChatInput { tools: Some(json!([])), ..input(json!([{"role": "tool", "content": "x"}])) };
        let described = plain.with_described_tools(Place::System);
        assert_eq!((described.messages, described.tools), (plain.messages, plain.tools));
    }
}
