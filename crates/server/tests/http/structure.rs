//! Constraints on answers: every dialect's field reaches the engine as one compiled grammar, and whatever cannot be
//! enforced is a 400 that names the field that the client sent.

use foretoken_server::ServerConfig;
use serde_json::{Value, json};

use crate::fake_server::{post, say, start};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const ANTHROPIC: &str = "/v1/messages";
const OLLAMA_CHAT: &str = "/api/chat";
const OLLAMA_GENERATE: &str = "/api/generate";

fn body(path: &str, more: &Value) -> Value {
    let turns = json!([{"role": "user", "content": "x"}]);
    let mut body = match path {
        TEXT | OLLAMA_GENERATE => json!({"prompt": "x", "stream": false}),
        RESPONSES => json!({"input": "x"}),
        ANTHROPIC => json!({"max_tokens": 9, "messages": turns}),
        _ => json!({"messages": turns, "stream": false}),
    };
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The grammar that the engine got, as it shows itself.
async fn grammar(path: &str, more: Value) -> String {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let reply = post(&server, path, &body(path, &more)).await;
    assert_eq!(reply.status, 200, "{path} {more}: {}", reply.text);
    engine.last().grammar.map(|grammar| format!("{grammar:?}")).unwrap_or_default()
}

/// The field that an error names, and its message.
async fn refusal(path: &str, more: Value) -> (Option<String>, String) {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    let reply = post(&server, path, &body(path, &more)).await;
    assert_eq!(reply.status, 400, "{path} {more}: {}", reply.text);
    assert!(engine.seen.lock().unwrap().is_empty(), "{more} reached the engine");
    let reply = reply.json();
    let error = &reply["error"];
    let message = error["message"].as_str().or(error.as_str()).unwrap().to_owned();
    (error["param"].as_str().map(Into::into), message)
}

#[tokio::test]
async fn every_dialects_field_becomes_a_grammar() {
    let schema = json!({"type": "integer", "maximum": 77});
    let format = json!({"type": "json_schema", "name": "n", "schema": schema, "strict": true});
    let of_schema = [
        (CHAT, json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})),
        (CHAT, json!({"guided_json": schema})),
        (CHAT, json!({"structured_outputs": {"json": schema}})),
        (CHAT, json!({"json_schema": schema})),
        (TEXT, json!({"response_format": {"type": "json_object", "schema": schema}})),
        (TEXT, json!({"guided_json": schema.to_string()})),
        (RESPONSES, json!({"text": {"format": format}})),
        (ANTHROPIC, json!({"output_config": {"format": format}})),
        (ANTHROPIC, json!({"output_format": format})),
        (OLLAMA_CHAT, json!({"format": schema})),
        (OLLAMA_GENERATE, json!({"format": schema})),
    ];
    for (path, more) in of_schema {
        let grammar = grammar(path, more.clone()).await;
        assert!(grammar.contains("maximum") && grammar.contains("77"), "{path} {more}: {grammar}");
    }
    for (path, more) in [
        (CHAT, json!({"response_format": {"type": "json_object"}})),
        (TEXT, json!({"structured_outputs": {"json_object": true}})),
        (RESPONSES, json!({"text": {"format": {"type": "json_object"}}})),
        (OLLAMA_CHAT, json!({"format": "json"})),
        (OLLAMA_GENERATE, json!({"format": "json"})),
    ] {
        let grammar = grammar(path, more.clone()).await;
        assert!(grammar.contains("source: \"o\""), "{path} {more}: {grammar}");
    }
    for (more, source) in [
        (json!({"guided_regex": "a+"}), "ra+"),
        (json!({"guided_choice": ["a"]}), "c["),
        (json!({"guided_grammar": "start: \"a\""}), "lstart"),
        (json!({"grammar": "root ::= \"a\""}), "groot"),
    ] {
        for path in [CHAT, TEXT] {
            let grammar = grammar(path, more.clone()).await;
            assert!(grammar.contains(&format!("source: \"{source}")), "{path} {more}: {grammar}");
        }
    }
}

#[tokio::test]
async fn what_asks_for_text_is_not_constrained() {
    for (path, more) in [
        (CHAT, json!({})),
        (CHAT, json!({"response_format": {"type": "text"}, "grammar": "", "guided_json": null})),
        (RESPONSES, json!({"text": {"format": {"type": "text"}}})),
        (ANTHROPIC, json!({"output_config": {"effort": "low"}, "output_format": null})),
        (OLLAMA_CHAT, json!({"format": ""})),
        (OLLAMA_GENERATE, json!({"format": null})),
    ] {
        assert_eq!(grammar(path, more.clone()).await, "", "{path} {more}");
    }
}

#[tokio::test]
async fn a_keyword_that_cannot_be_enforced_is_named_with_the_field_that_was_sent() {
    let schema = json!({"type": "array", "uniqueItems": true});
    let format = json!({"type": "json_schema", "name": "n", "schema": schema});
    for (path, more, param) in [
        (
            CHAT,
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}, "guided_json": null}),
            "response_format.json_schema.schema",
        ),
        (TEXT, json!({"structured_outputs": {"json": schema}}), "structured_outputs.json"),
        (RESPONSES, json!({"text": {"format": format}}), "text.format.schema"),
        (ANTHROPIC, json!({"output_config": {"format": format}}), "output_config.format.schema"),
        (ANTHROPIC, json!({"output_format": format}), "output_format.schema"),
        (OLLAMA_CHAT, json!({"format": schema}), "format"),
        (OLLAMA_GENERATE, json!({"format": schema}), "format"),
    ] {
        let (named, message) = refusal(path, more.clone()).await;
        assert!(message.contains("uniqueItems") && message.contains(&format!("'{param}'")), "{message}");
        assert!(named.is_none_or(|named| named == param), "{path} {more}");
    }
    let (_, message) = refusal(CHAT, json!({"grammar": "root ::= thing\nthing ::= <think>"})).await;
    assert!(message.starts_with("'grammar'") && message.contains("\"thing\""), "{message}");
}

#[tokio::test]
async fn two_constraints_are_refused_by_both_names() {
    let format = json!({"type": "json_schema", "schema": {}});
    for (path, more, names) in [
        (
            CHAT,
            json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}),
            ["response_format", "guided_regex"],
        ),
        (TEXT, json!({"guided_choice": ["a"], "grammar": "start: \"a\""}), ["guided_choice", "grammar"]),
        (
            ANTHROPIC,
            json!({"output_config": {"format": format}, "output_format": format}),
            ["output_config.format", "output_format"],
        ),
    ] {
        let (_, message) = refusal(path, more).await;
        assert!(names.iter().all(|name| message.contains(&format!("'{name}"))), "{message}");
    }
}

#[tokio::test]
async fn json_may_come_instead_of_calls_and_other_constraints_may_not() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]);
    let format = json!({"type": "json_object"});
    let shown = grammar(CHAT, json!({"tools": tools, "response_format": format})).await;
    assert!(shown.contains("| answer") && shown.contains("function0"), "{shown}");
    let (_, message) = refusal(CHAT, json!({"tools": tools, "guided_regex": "a"})).await;
    assert!(message.contains("'guided_regex'") && message.contains("'tools'"), "{message}");
    let allowed = json!({"tools": tools, "tool_choice": "none", "guided_regex": "a"});
    assert!(grammar(CHAT, allowed).await.contains("source: \"ra\""));
}

#[tokio::test]
async fn a_constraint_holds_for_whole_answers() {
    let begun = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]);
    let more = json!({"messages": begun, "continue_final_message": true, "guided_regex": "a"});
    let (_, message) = refusal(CHAT, more).await;
    assert!(message.contains("'guided_regex'") && message.contains("continues"), "{message}");
}

#[tokio::test]
async fn forced_calls_are_grammars_of_the_tools_that_may_be_called() {
    let schema =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": false});
    let names = ["rain", "snow"];
    let chat = json!(
        names.map(|name| json!({"type": "function", "function": {"name": name, "parameters": schema}}))
    );
    let flat = json!(names.map(|name| json!({"type": "function", "name": name, "parameters": schema})));
    let anthropic = json!(names.map(|name| json!({"name": name, "input_schema": schema})));
    for (path, tools, any, one) in [
        (CHAT, chat, json!("required"), json!({"type": "function", "function": {"name": "snow"}})),
        (RESPONSES, flat, json!("required"), json!({"type": "function", "name": "snow"})),
        (ANTHROPIC, anthropic, json!({"type": "any"}), json!({"type": "tool", "name": "snow"})),
    ] {
        let shown = grammar(path, json!({"tools": tools, "tool_choice": any})).await;
        assert!(
            shown.contains("rain") && shown.contains("snow") && shown.contains("city"),
            "{path}: {shown}"
        );
        assert!(shown.contains("~0.."), "several calls: {shown}");
        let shown = grammar(path, json!({"tools": tools, "tool_choice": one})).await;
        assert!(
            !shown.contains("rain") && shown.contains("snow") && !shown.contains("~0.."),
            "{path}: {shown}"
        );
    }
    let bad = json!([{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]);
    let (param, message) = refusal(CHAT, json!({"tools": bad, "tool_choice": "required"})).await;
    assert_eq!(param.as_deref(), Some("tools"));
    assert!(message.contains("\"f\"") && message.contains("not"), "{message}");
    let (param, _) =
        refusal(CHAT, json!({"tools": bad, "tool_choice": {"type": "function", "function": {"name": "g"}}}))
            .await;
    assert_eq!(param.as_deref(), Some("tool_choice"));
}

#[tokio::test]
async fn reasoning_comes_before_the_constraint() {
    let format = json!({"response_format": {"type": "json_object"}});
    let with = |more: Value| {
        let mut all = format.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let thinks = |on: bool| with(json!({"thinking": {"type": if on { "enabled" } else { "disabled" }}}));
    assert!(grammar(CHAT, thinks(true)).await.contains("reasoning: Open"));
    assert!(grammar(CHAT, thinks(false)).await.contains("reasoning: Never"));
    assert!(grammar(CHAT, format.clone()).await.contains("reasoning: Possible"));
    assert!(grammar(TEXT, format.clone()).await.contains("reasoning: Never"));
    assert!(
        grammar(OLLAMA_GENERATE, json!({"format": "json", "raw": true})).await.contains("reasoning: Never")
    );
}
