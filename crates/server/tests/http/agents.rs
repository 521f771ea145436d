//! Requests in the shape of coding agents', recorded from Claude Code 2.1 and Codex CLI 0.171 and filled with text of the
//! same size: long system prompts, two dozen tools, sessions in identifiers.

use std::sync::Arc;

use foretoken_server::{Server, ServerConfig};
use serde_json::{Value, json};

use crate::fake_server::{Engine, post, say, served};

/// A server with room for a long prompt.
fn start(pieces: &[&'static str]) -> (Server, Arc<Engine>) {
    let server = Server::new(ServerConfig::default()).unwrap();
    let (mut served, engine) = served(say(pieces));
    served.ctx = 1 << 20;
    server.ready(served);
    (server, engine)
}

fn words(count: usize) -> String {
    (0..count).map(|at| format!("word{} ", at % 997)).collect()
}

fn schema(fields: usize) -> Value {
    let field = |at: usize| (format!("field{at}"), json!({"type": "string", "description": words(12)}));
    let properties: serde_json::Map<String, Value> = (0..fields).map(field).collect();
    json!({"type": "object", "properties": properties, "required": ["field0"], "additionalProperties": false})
}

/// Claude Code's first request: about 76 kB, 20,000 tokens of a usual vocabulary.
fn claude_code(session: &str, checksum: &str) -> Value {
    let tool = |at: usize| json!({"name": format!("Tool{at}"), "description": words(240), "input_schema": schema(5)});
    let user = json!({"device_id": "ab".repeat(32), "account_uuid": "", "session_id": session});
    let header =
        format!("x-anthropic-billing-header: cc_version=2.1.197.123; cc_entrypoint=cli; cch={checksum};");
    let ephemeral = json!({"type": "ephemeral"});
    json!({
        "model": "tiny",
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": format!("<system-reminder>\n{}</system-reminder>\n", words(40))},
                {"type": "text", "text": "say hi", "cache_control": ephemeral},
            ]},
            {"role": "system", "content": words(800)},
        ],
        "system": [
            {"type": "text", "text": header},
            {"type": "text", "text": "You are an agent.", "cache_control": ephemeral},
            {"type": "text", "text": words(750), "cache_control": ephemeral},
        ],
        "tools": (0..24).map(tool).collect::<Vec<_>>(),
        "metadata": {"user_id": user.to_string()},
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": true,
    })
}

#[tokio::test]
async fn sessions_of_claude_code_have_the_same_prompt_and_tenant() {
    // Adaptive thinking opens reasoning in the prompt.
    let (server, engine) =
        start(&["hm", "</think>", "<tool_call>{\"name\":\"Tool3\",\"arguments\":{}}</tool_call>"]);
    let mut sent = Vec::new();
    for (session, checksum) in [("49ed72b9-8b84-4402-b60c-d6549366c604", "a5145"), ("another", "07f3c")] {
        let body = claude_code(session, checksum);
        assert!(body.to_string().len() > 70_000);
        let reply = post(&server, "/v1/messages?beta=true", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(reply.text.contains("event: message_stop"), "{}", reply.text);
        assert!(reply.text.contains("\"stop_reason\":\"tool_use\"") && reply.text.contains("\"Tool3\""));
        sent.push((engine.last().tenant, engine.last().prompt));
    }
    assert_eq!(sent[0], sent[1]);
    assert!(sent[0].0.contains("abab") && !sent[0].0.contains("49ed72b9"), "the device stays: {}", sent[0].0);
}

/// Codex CLI's first request.
fn codex() -> Value {
    let text = |text: String| json!({"type": "input_text", "text": text});
    let message = |role: &str, content: Vec<Value>| json!({"type": "message", "id": "msg_1", "role": role, "content": content});
    let function = |at: usize| {
        json!({
            "type": "function", "name": format!("tool{at}"), "description": words(30), "strict": false,
            "parameters": schema(10),
        })
    };
    let mut tools: Vec<Value> = (0..7).map(function).collect();
    tools.push(
        json!({"type": "namespace", "name": "multi_agent_v1", "description": "more", "tools": [function(8)]}),
    );
    tools.push(json!({"type": "web_search", "external_web_access": false}));
    json!({
        "model": "tiny",
        "stream": true,
        "input": [
            message("developer", vec![text(words(2500))]),
            message("developer", vec![text(words(300)), text(words(50))]),
            message("user", vec![text(words(60))]),
            message("user", vec![text("say hi".into())]),
        ],
        "tools": tools,
        "tool_choice": "auto",
        "parallel_tool_calls": true,
        "reasoning": {"summary": "auto"},
        "store": false,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2202f-c82d-7be3-974e-00a1890fbd96",
        "client_metadata": {"session_id": "01a2202f-c82d-7be3-974e-00a1890fbd96"},
    })
}

#[tokio::test]
async fn codex_is_answered_with_a_call() {
    let (server, engine) =
        start(&["<tool_call>{\"name\":\"tool3\",\"arguments\":{\"cmd\":\"ls\"}}</tool_call>"]);
    let reply = post(&server, "/v1/responses", &codex()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(reply.text.contains("event: response.completed"), "{}", reply.text);
    let done =
        reply.text.split("\n\n").find(|event| event.starts_with("event: response.output_item.done")).unwrap();
    let done: Value = serde_json::from_str(done.split_once("data: ").unwrap().1).unwrap();
    assert_eq!(
        (&done["item"]["name"], &done["item"]["arguments"]),
        (&json!("tool3"), &json!("{\"cmd\":\"ls\"}"))
    );
    let bytes: Vec<u8> = engine.last().prompt.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    let prompt = String::from_utf8(bytes).unwrap();
    assert!(
        prompt.contains("\"tool6\"") && !prompt.contains("multi_agent_v1") && !prompt.contains("web_search")
    );
}
