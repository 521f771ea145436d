//! Text from streamed ids.
//!
//! A token may end in the middle of a UTF-8 character. The invariant: the concatenation of everything that
//! [`TokenDecoder::push`] and [`TokenDecoder::flush`] return is `String::from_utf8_lossy` of all the tokens'
//! bytes. Nothing is lost or split, and invalid bytes become the same U+FFFD wherever tokens end.

use super::Tokenizer;

/// Bytes of an incomplete character (three at most), and whether control tokens are shown.
#[derive(Clone, Debug, Default)]
pub struct TokenDecoder {
    pending: Vec<u8>,
    show_control: bool,
}

impl TokenDecoder {
    /// `show_control`: control tokens decode to their text, otherwise to nothing.
    pub fn new(show_control: bool) -> Self {
        TokenDecoder { pending: Vec::new(), show_control }
    }

    /// The text that `id` completes: whole characters only, possibly empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !self.show_control && tokenizer.is_hidden(id) {
            return String::new();
        }
        self.push_bytes(tokenizer.token_bytes(id))
    }

    /// The same for bytes that do not come from a token.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let complete = self.pending.len() - incomplete_len(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// Whether the bytes so far end within a character.
    pub fn is_within_character(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The rest at the end of the stream: U+FFFD for an incomplete character, otherwise nothing.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Length of the incomplete but so far valid character at the end of `bytes`, 0 if there is none.
fn incomplete_len(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    for start in 0..tail.len() {
        let rest = &tail[start..];
        if rest[0] < 0xC2 {
            continue;
        }
        // `error_len` is `None` exactly where more bytes could still make it valid.
        if let Err(error) = std::str::from_utf8(rest)
            && error.valid_up_to() == 0
            && error.error_len().is_none()
        {
            return rest.len();
        }
    }
    0
}
