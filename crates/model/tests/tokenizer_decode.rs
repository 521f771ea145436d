//! Detokenisation of streamed ids.

mod tokenizer_fixtures;

use foretoken_model::tokenizer::TokenDecoder;
use proptest::prelude::*;
use tokenizer_fixtures::{bpe, corpus};

/// Bytes as models produce them: text, parts of characters, and invalid bytes.
fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let lead_and_tail =
        prop::sample::select(vec![0xC2u8, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0x80, 0x9F, 0xA0, 0xBF, b'a']);
    let hard = prop::collection::vec(lead_and_tail, 0..6);
    let garbage = prop::collection::vec(any::<u8>(), 0..5);
    let text = any::<String>().prop_map(String::into_bytes);
    let whole = prop::collection::vec(prop_oneof![hard, garbage, text], 0..12);
    (whole, prop::collection::vec(1usize..5, 1..20)).prop_map(|(pieces, sizes)| {
        let bytes: Vec<u8> = pieces.concat();
        let mut sizes = sizes.into_iter().cycle();
        let mut chunks = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
            chunks.push(chunk.to_vec());
            rest = tail;
        }
        chunks
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_join_to_the_lossy_text_of_the_whole(chunks in chunks()) {
        let mut decoder = TokenDecoder::new(false);
        let mut text: String = chunks.iter().map(|chunk| decoder.push_bytes(chunk)).collect();
        text.push_str(&decoder.flush());
        prop_assert_eq!(text, String::from_utf8_lossy(&chunks.concat()).into_owned());
    }
}

#[test]
fn a_character_waits_for_its_last_byte() {
    let mut decoder = TokenDecoder::new(false);
    let pieces: Vec<String> = "é".as_bytes().iter().map(|byte| decoder.push_bytes(&[*byte])).collect();
    assert_eq!(pieces, ["", "é"]);
}

#[test]
fn a_character_cut_short_by_text_is_replaced_at_once() {
    let mut decoder = TokenDecoder::new(false);
    decoder.push_bytes(&[0xE2, 0x82]);
    assert_eq!(decoder.push_bytes(b"a"), "\u{FFFD}a");
}

#[test]
fn streamed_ids_give_the_text() {
    let tokenizer = bpe("qwen2");
    for line in corpus() {
        let mut decoder = tokenizer.decoder();
        let ids = tokenizer.encode(&line, false, false);
        let mut text: String = ids.iter().map(|id| decoder.push(&tokenizer, *id)).collect();
        text.push_str(&decoder.flush());
        assert_eq!(text, line);
    }
}

#[test]
fn streaming_omits_control_tokens() {
    let tokenizer = bpe("qwen2");
    let mut decoder = tokenizer.decoder();
    let ids = tokenizer.encode("a<|im_end|>b", false, true);
    let text: String = ids.iter().map(|id| decoder.push(&tokenizer, *id)).collect();
    assert_eq!(text, "ab");
}
