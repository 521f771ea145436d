//! Byte pair encoding: pre-tokenization by [`split`](super::split), merges by the `tokenizers` crate.

use std::sync::LazyLock;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges};

use super::TokenizerError;
use super::pre_tokenizers::pre_tokenizer;
use super::split::Splitter;
use super::vocab::Vocab;
use crate::gguf::Gguf;

/// A byte-level vocabulary spells every byte as a printable character. `gemma4`'s is the exception: it spells
/// characters as they are, spaces as `▁`, and characters without a token as byte tokens `<0x..>`.
pub(super) struct Bpe {
    model: BPE,
    splitter: Splitter,
    byte_level: bool,
}

impl Bpe {
    pub(super) fn from_gguf(gguf: &Gguf, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let byte_level = vocab.model() == "gpt2";
        let pre = match byte_level {
            true => gguf.get_str("tokenizer.ggml.pre")?.filter(|pre| !pre.is_empty()).unwrap_or("default"),
            false => "gemma4",
        };
        let splitter = Splitter::new(pre)?;
        let merges = gguf.get_str_array("tokenizer.ggml.merges")?;
        let merges = merges.ok_or(TokenizerError::Missing("tokenizer.ggml.merges"))?;
        let ids: tokenizers::models::bpe::Vocab =
            (0..vocab.len() as u32).map(|id| (vocab.text(id).to_owned(), id)).collect();
        let merges = usable_merges(&merges, &ids);
        let model = BPE::builder()
            .vocab_and_merges(ids, merges)
            .ignore_merges(pre_tokenizer(pre).is_some_and(|pre| pre.ignores_merges))
            .byte_fallback(!byte_level)
            .build()
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        Ok(Bpe { model, splitter, byte_level })
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut spelled = String::new();
        self.splitter.split(text, &mut |word| {
            spelled.clear();
            match self.byte_level {
                true => spelled.extend(word.bytes().map(|byte| BYTE_CHARS[usize::from(byte)])),
                false => spelled.extend(word.chars().map(|c| if c == ' ' { '▁' } else { c })),
            }
            self.encode_word(&spelled, ids);
        });
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        let is_line_breaks = !self.byte_level && word.starts_with('\n');
        if let Some(id) = self.model.token_to_id(word).filter(|_| is_line_breaks) {
            ids.push(id);
            return;
        }
        // Merging only fails if the configured unknown token is not in the vocabulary, and none is configured.
        if let Ok(tokens) = self.model.tokenize(word) {
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }
}

/// The merges as pairs, without those whose parts or result are not in the vocabulary: they can never apply.
fn usable_merges(merges: &[&str], ids: &tokenizers::models::bpe::Vocab) -> Merges {
    let mut joined = String::new();
    let pairs = merges.iter().filter_map(|merge| {
        // The first character belongs to the left part even if it is a space.
        let first = merge.chars().next()?.len_utf8();
        let (left, right) = merge.split_at(first + merge[first..].find(' ')?);
        let right = &right[1..];
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let usable = ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(&joined);
        usable.then(|| (left.to_owned(), right.to_owned()))
    });
    pairs.collect()
}

/// The character that spells each byte: printable ones spell themselves, the others follow from U+0100 on.
static BYTE_CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
});

/// Appends the bytes that `text` spells; characters outside the alphabet are appended as UTF-8.
pub(super) fn decode_byte_level(text: &str, bytes: &mut Vec<u8>) {
    for c in text.chars() {
        match byte_of_char(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x143 => BYTES_OF_REST[(code - 0x100) as usize],
        _ => None,
    }
}

/// The bytes spelled by the characters from U+0100 on.
static BYTES_OF_REST: LazyLock<[Option<u8>; 0x44]> = LazyLock::new(|| {
    std::array::from_fn(|i| {
        let position = BYTE_CHARS.iter().position(|c| u32::from(*c) == 0x100 + i as u32);
        position.and_then(|byte| u8::try_from(byte).ok())
    })
});
