//! Any text becomes ids of the vocabulary and comes back from them, and any ids become text, also one by one. The
//! first byte chooses the vocabulary.
//!
//! A short text is also encoded many times over: where that takes more than linear time, the fuzzer's timeout
//! sees it.

#[path = "vocabularies.rs"]
#[allow(dead_code, reason = "each target uses its own")]
mod vocabularies;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use foretoken_model::tokenizer::{TokenDecoder, TokenKind, Tokenizer, pre_tokenizers};

use vocabularies::{bpe, spm};

/// Texts of so many bytes are repeated,
const SHORT_BYTES: usize = 8;
/// to so many: 64 KiB would take seconds in quadratic time and take milliseconds in linear time.
const LONG_BYTES: usize = 1 << 16;

thread_local! {
    static BUILT: RefCell<HashMap<usize, Rc<Tokenizer>>> = RefCell::default();
}

/// One for each pre-tokenizer, then SentencePiece; built once.
fn tokenizer(which: usize) -> Rc<Tokenizer> {
    let build = || match pre_tokenizers().nth(which) {
        Some(pre) => bpe(pre),
        None => spm(),
    };
    BUILT.with_borrow_mut(|built| Rc::clone(built.entry(which).or_insert_with(|| Rc::new(build()))))
}

/// The entry function of the fuzz target.
pub(crate) fn run(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let which = usize::from(*which) % (pre_tokenizers().count() + 1);
    let tokenizer = tokenizer(which);
    let text = String::from_utf8_lossy(data);
    round_trip(&tokenizer, &text, which < pre_tokenizers().count());
    if text.len() <= SHORT_BYTES {
        let long = text.repeat(LONG_BYTES / text.len().max(1));
        assert_valid(&tokenizer, &tokenizer.encode(&long, false, true));
    }
    let (pairs, _) = data.as_chunks::<2>();
    decode(&tokenizer, &pairs.iter().map(|pair| u32::from(u16::from_le_bytes(*pair))).collect::<Vec<_>>());
    let (quads, _) = data.as_chunks::<4>();
    decode(&tokenizer, &quads.iter().map(|quad| u32::from_le_bytes(*quad)).collect::<Vec<_>>());
}

fn round_trip(tokenizer: &Tokenizer, text: &str, byte_level: bool) {
    let plain = tokenizer.encode(text, false, false);
    assert_valid(tokenizer, &plain);
    let hidden = plain.iter().find(|id| tokenizer.is_control(**id));
    assert_eq!(hidden, None, "text became a control token");
    let special = tokenizer.encode(text, false, true);
    assert_valid(tokenizer, &special);
    if byte_level {
        assert_eq!(tokenizer.decode(&plain, false), text);
        assert_eq!(tokenizer.decode(&special, true), text);
    } else if !text.contains('▁')
        && plain.iter().all(|id| tokenizer.token_kind(*id) != TokenKind::UserDefined)
    {
        // Spaces around user-defined tokens do not come back, as in llama.cpp.
        assert_eq!(tokenizer.decode(&plain, false), text);
    }
}

fn assert_valid(tokenizer: &Tokenizer, ids: &[u32]) {
    let foreign = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size());
    assert_eq!(foreign, None, "an id outside the vocabulary");
}

/// Token by token the text is that of all the tokens' bytes.
fn decode(tokenizer: &Tokenizer, ids: &[u32]) {
    tokenizer.decode(ids, false);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id)).copied().collect();
    let mut decoder = TokenDecoder::new(true);
    let mut text: String = ids.iter().map(|id| decoder.push(tokenizer, *id)).collect();
    text.push_str(&decoder.flush());
    assert_eq!(text, String::from_utf8_lossy(&bytes));
}
