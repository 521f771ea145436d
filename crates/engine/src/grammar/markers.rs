//! Tags in free text after which something else holds: the end of reasoning, the beginning of a tool call.
//!
//! Text is free up to the end of the tag, so a token must not go beyond it: what follows in the same token would be seen
//! by no grammar.

use foretoken_model::tokenizer::Tokenizer;

use super::Allowed;
use super::calls;
use super::matcher::{CLOSE, OPEN};
use super::vocabulary::end_tokens;

/// A tag, and the tokens that go beyond it.
pub(super) struct Marker {
    text: &'static str,
    /// Tokens, with the bytes of the tag that come before them.
    beyond: Vec<(usize, u32)>,
}

impl Marker {
    /// `may_follow` says what may follow the tag in a token.
    fn of(text: &'static str, tokenizer: Option<&Tokenizer>, may_follow: fn(&[u8]) -> bool) -> Marker {
        let tag = text.as_bytes();
        let mut beyond = Vec::new();
        if let Some(tokenizer) = tokenizer {
            for id in (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_hidden(id)) {
                let bytes = tokenizer.token_bytes(id);
                let within = bytes.windows(tag.len()).position(|window| window == tag);
                if within.is_some_and(|at| !may_follow(&bytes[at + tag.len()..])) {
                    beyond.push((0, id));
                }
                let rest = |before: usize| bytes.strip_prefix(&tag[before..]);
                let goes_beyond = |&before: &usize| rest(before).is_some_and(|rest| !may_follow(rest));
                beyond.extend((1..tag.len()).filter(goes_beyond).map(|before| (before, id)));
            }
        }
        Marker { text, beyond }
    }

    /// Adds bytes to the text since the tag was last looked for; true if the tag is in it, which then begins anew.
    pub(super) fn find(&self, tail: &mut Vec<u8>, bytes: &[u8]) -> bool {
        tail.extend_from_slice(bytes);
        let found = tail.windows(self.text.len()).any(|window| window == self.text.as_bytes());
        let kept = if found { 0 } else { self.text.len() - 1 };
        tail.drain(..tail.len().saturating_sub(kept));
        found
    }

    /// The tokens that go beyond the tag after a text that ends with `tail`.
    fn forbidden(&self, tail: &[u8]) -> impl Iterator<Item = u32> {
        let begun = |before: usize| tail.ends_with(&self.text.as_bytes()[..before]);
        self.beyond.iter().filter(move |(before, _)| begun(*before)).map(|&(_, id)| id)
    }
}

/// The tags of a vocabulary.
pub(super) struct Tags {
    /// The token of the tag that opens reasoning.
    pub(super) open: Option<u32>,
    /// The end of reasoning.
    pub(super) close: Marker,
    /// The beginning of a tool call.
    pub(super) call: Marker,
    /// Tokens that end an answer.
    ends: Vec<u32>,
}

impl Tags {
    /// Without a tokenizer, of a vocabulary that spells none of them.
    pub(super) fn of(tokenizer: Option<&Tokenizer>) -> Tags {
        let open =
            tokenizer.and_then(|tokenizer| tokenizer.token_id(OPEN).filter(|&id| !tokenizer.is_eog(id)));
        Tags {
            open,
            close: Marker::of(CLOSE, tokenizer, |rest| rest.iter().all(u8::is_ascii_whitespace)),
            call: Marker::of(calls::OPEN, tokenizer, <[u8]>::is_empty),
            ends: tokenizer.map_or_else(Vec::new, |tokenizer| end_tokens(tokenizer).collect()),
        }
    }

    /// What may come within reasoning that ends with `tail`: it must not be the end of the answer.
    pub(super) fn in_reasoning(&self, tail: &[u8]) -> Allowed {
        Allowed::AllBut(self.ends.iter().copied().chain(self.close.forbidden(tail)).collect())
    }

    /// What may come within text that ends with `tail`, before a call.
    pub(super) fn in_text(&self, tail: &[u8]) -> Allowed {
        Allowed::AllBut(self.call.forbidden(tail).collect())
    }
}
