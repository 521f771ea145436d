//! A model's vocabulary as `llguidance` reads it: a trie of the tokens' bytes, and the tokenizer for forced text.
//!
//! The invariant: tokens that have no text in an answer (control tokens, unknown, unused, broken ones) are never part of
//! a constrained text.

use std::sync::Arc;

use foretoken_model::tokenizer::{TokenKind, Tokenizer};
use toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// Longest token in bytes that the trie can hold.
const TOKEN_BYTES_MAX: usize = 1000;

struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

/// The vocabulary of a model whose logits have `len` values, which may be more than the tokenizer has tokens.
pub(super) fn of_tokenizer(tokenizer: Arc<Tokenizer>, len: usize) -> TokEnv {
    let words: Vec<Vec<u8>> = (0..len as u32).map(|id| word(&tokenizer, id)).collect();
    let ends: Vec<u32> = end_tokens(&tokenizer).filter(|&id| (id as usize) < len).collect();
    let info = TokRxInfo::new(len as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
    let trie = TokTrie::from(&info, &words);
    let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
    Arc::new(Vocabulary { tokenizer, trie })
}

/// The tokens that end an answer.
pub(super) fn end_tokens(tokenizer: &Tokenizer) -> impl Iterator<Item = u32> + '_ {
    (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_eog(id))
}

/// The bytes by which the trie finds a token; empty for tokens that are never wanted.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    let is_text =
        matches!(tokenizer.token_kind(id), TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte);
    // The trie takes a first byte of 255, which no text in UTF-8 has, for the mark of a control token.
    let is_marked = bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
    if id as usize >= tokenizer.vocab_size() || bytes.len() > TOKEN_BYTES_MAX || (is_text && is_marked) {
        Vec::new()
    } else if is_text && !tokenizer.is_eog(id) {
        bytes.to_vec()
    } else {
        [&[TokTrie::SPECIAL_TOKEN_MARKER], format!("[{id}]").as_bytes()].concat()
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let ids = self.tokenizer.encode_continuation(text);
            // Some tokenizers normalise; forced text must come out as it is.
            let same = ids.iter().flat_map(|&id| self.trie.token(id)).eq(text.as_bytes());
            if same { ids } else { self.trie.greedy_tokenize(text.as_bytes()) }
        })
    }
}
