//! Beginnings of conversations that an operator declares for all tenants (`--shared-prompt FILE`).
//!
//! A file holds a system prompt as text, or messages as a JSON array. What is shared is what the chat template makes
//! of it up to the point where the user's own words begin, in whole blocks. Everything after it stays the tenant's.

use std::path::Path;

use anyhow::{Context, Result, bail};
use foretoken_cache::BLOCK_TOKENS;
use foretoken_model::chat::{ChatInput, ChatTemplate};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// The tokens with which every conversation begins that starts as the file says.
pub(crate) fn read(path: &Path, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let name = || format!("--shared-prompt {}", path.display());
    let text = std::fs::read_to_string(path).with_context(name)?;
    let messages = messages(&text).with_context(name)?;
    // Where two conversations with nothing in common but these messages part, the user's own words begin.
    let render = |words: &str| -> Result<Vec<u32>> {
        let mut messages = messages.clone();
        messages.push(json!({"role": "user", "content": words}));
        let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
        Ok(tokenizer.encode_rendered(&template.render(&input)?))
    };
    let (one, other) = (render("A").with_context(name)?, render("zebra").with_context(name)?);
    let common = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    if common < BLOCK_TOKENS {
        let path = path.display();
        tracing::warn!("{path} makes {common} tokens; what is shared are whole blocks of {BLOCK_TOKENS}");
    }
    Ok(one[..common].to_vec())
}

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
    fn text_is_a_system_prompt_and_an_array_is_messages() {
        assert_eq!(messages("Be brief.\n").unwrap(), [json!({"role": "system", "content": "Be brief."})]);
        let two = r#"[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]"#;
        assert_eq!(messages(two).unwrap().len(), 2);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", " \n", "[]", "[1]", "[{\"content\": \"a\"}]", "[not json"] {
            assert!(messages(text).is_err(), "{text}");
        }
    }
}
