//! Jinja expressions and statements: what they render, against Python's jinja2 (see
//! `fixtures/chat/make_expressions.py`).

mod tokenizer_fixtures;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foretoken_model::chat::{ChatInput, ChatTemplate};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::{Map, Value};
use tokenizer_fixtures::bpe;

/// 2024-02-29 12:34:56, as in `make_expressions.py`.
fn leap_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_709_210_096)
}

fn render(template: &str, context: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<String, String> {
    let template =
        ChatTemplate::with_clock(template, tokenizer, leap_day).map_err(|error| error.to_string())?;
    let input = ChatInput { extra: context.clone(), ..ChatInput::default() };
    template.render(&input).map(|rendered| rendered.text().to_owned()).map_err(|error| error.to_string())
}

#[test]
fn expressions_render_like_jinja2() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat/expressions.json");
    let file = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&file).unwrap_or_else(|error| panic!("{error}"));
    let context = file["context"].as_object().cloned().unwrap_or_default();
    let rendered = file["rendered"].as_array().cloned().unwrap_or_default();
    assert!(rendered.len() > 1000, "{} expressions", rendered.len());
    let tokenizer = bpe("qwen2");
    let mut wrong = Vec::new();
    for pair in &rendered {
        let template = pair[0].as_str().unwrap_or_default();
        let found = render(template, &context, &tokenizer);
        let same = match (&found, pair[1].as_str()) {
            (Ok(found), Some(expected)) => found == expected,
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            wrong.push(format!("{template:?}\n  expected {}\n  found    {found:?}", pair[1]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
