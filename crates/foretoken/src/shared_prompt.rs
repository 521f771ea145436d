//! System prompts whose blocks all tenants share (`--shared-prompt FILE`).
//!
//! A file holds a system prompt as text, or messages as a JSON array. Shared are the whole blocks of the rendered
//! prefix up to the first token of the user's message. Later blocks stay private to the tenant.

use std::path::Path;

use anyhow::{Context, Result, bail};
use foretoken_cache::BLOCK_TOKENS;
use foretoken_model::chat::{ChatInput, ChatTemplate};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// The token prefix common to all conversations that start with the file's messages.
pub(crate) fn read(path: &Path, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let name = || format!("--shared-prompt {}", path.display());
    let text = std::fs::read_to_string(path).with_context(name)?;
    let messages = messages(&text).with_context(name)?;
    // Two renderings that differ only in the user's message: their common prefix is what can be shared.
    let render = |user: &str| -> Result<Vec<u32>> {
        let mut messages = messages.clone();
        messages.push(json!({"role": "user", "content": user}));
        let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
        Ok(tokenizer.encode_rendered(&template.render(&input)?))
    };
    let (one, other) = (render("A").with_context(name)?, render("zebra").with_context(name)?);
    let common = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    if common < BLOCK_TOKENS {
        let path = path.display();
        tracing::warn!(
            "--shared-prompt {path} has {common} tokens; only whole blocks of {BLOCK_TOKENS} tokens are shared"
        );
    }
    Ok(one[..common].to_vec())
}

/// The messages in the file.
fn messages(text: &str) -> Result<Vec<Value>> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        bail!("the file is empty");
    }
    if !trimmed.starts_with('[') {
        return Ok(vec![json!({"role": "system", "content": trimmed})]);
    }
    let messages: Vec<Value> = serde_json::from_str(trimmed)
        .context("a file that begins with `[` must be a JSON array of messages")?;
    match messages.iter().all(|message| message["role"].is_string()) {
        true if !messages.is_empty() => Ok(messages),
        _ => bail!("every message needs a role, and there must be at least one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_system_prompt_and_a_json_array_is_messages() {
        assert_eq!(messages("Be brief.\n").unwrap(), [json!({"role": "system", "content": "Be brief."})]);
        let two = r#"[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]"#;
        assert_eq!(messages(two).unwrap().len(), 2);
    }

    #[test]
    fn other_content_is_rejected() {
        for text in ["", " \n", "[]", "[1]", "[{\"content\": \"a\"}]", "[not json"] {
            assert!(messages(text).is_err(), "{text}");
        }
    }
}
