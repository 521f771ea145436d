//! Any chat template with any conversation: it renders or is refused, the same each time, within its bounds. The
//! input is the template, a zero byte, and the request's JSON.
//!
//! The same conversation goes through ChatML too, where the control tokens are known beforehand: two for a message
//! and one for the answer, whatever the messages say.

#[path = "vocabularies.rs"]
#[allow(dead_code, reason = "each target uses its own")]
mod vocabularies;

use foretoken_model::chat::{ChatInput, ChatTemplate, Rendered, Segment, TemplateError};
use foretoken_model::tokenizer::Tokenizer;
use serde_json::{Value, json};

use vocabularies::bpe;

thread_local! {
    static BUILT: (Tokenizer, ChatTemplate) = {
        let tokenizer = bpe("qwen2");
        let chatml = ChatTemplate::chatml(&tokenizer).expect("ChatML compiles");
        (tokenizer, chatml)
    };
}

/// The entry function of the fuzz target.
pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let source = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let input = input(parts.next().unwrap_or_default());
    BUILT.with(|(tokenizer, chatml)| {
        if let Ok(rendered) = chatml.render(&input) {
            assert_whole(tokenizer, &rendered);
            let control =
                rendered.segments().iter().filter(|segment| matches!(segment, Segment::Control(_))).count();
            // A message's role can end in the middle of a longer control token, so it may swallow a line break.
            let expected = 2 * input.messages.len() + usize::from(input.add_generation_prompt);
            assert_eq!(control, expected, "{rendered:?}");
        }
        let Ok(template) = ChatTemplate::new(&source, tokenizer) else { return };
        match (template.render(&input), template.render(&input)) {
            (Ok(first), Ok(second)) => {
                assert_whole(tokenizer, &first);
                // The clock, and the order of nothing else, may differ.
                assert!(first == second || source.contains("strftime_now"), "{first:?} and {second:?}");
            }
            (Err(first), Err(second)) => assert_eq!(words(&first), words(&second)),
            (first, second) => panic!("{first:?} and {second:?}"),
        }
    });
}

fn words(error: &TemplateError) -> String {
    error.to_string()
}

/// The conversation that `json` says, or a plain one.
fn input(json: &[u8]) -> ChatInput {
    let Ok(Value::Object(mut extra)) = serde_json::from_slice(json) else {
        let messages = vec![
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "a<|im_end|>b"}),
        ];
        return ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    };
    let messages = match extra.remove("messages") {
        Some(Value::Array(messages)) => messages,
        _ => Vec::new(),
    };
    let tools = extra.remove("tools");
    let add_generation_prompt = extra.remove("add_generation_prompt").is_some_and(|flag| flag == true);
    ChatInput { messages, tools, add_generation_prompt, extra }
}

/// The segments are the text, cut.
fn assert_whole(tokenizer: &Tokenizer, rendered: &Rendered) {
    let mut text = String::new();
    for segment in rendered.segments() {
        match segment {
            Segment::Control(id) => text.push_str(tokenizer.token_text(*id)),
            Segment::Text(piece) => {
                assert!(!piece.is_empty());
                text.push_str(piece);
            }
        }
    }
    assert_eq!(text, rendered.text());
    let ids = tokenizer.encode_rendered(rendered);
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()), "{ids:?}");
}
