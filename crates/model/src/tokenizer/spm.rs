//! SentencePiece-style merging by score, as llama.cpp does it for `tokenizer.ggml.model = llama`.
//!
//! Starting from single characters, the neighbours whose joint text is the token with the highest score are
//! merged, leftmost first among equals, until no two neighbours form a token. Characters without a token become
//! byte tokens. `tokenizers` has no such algorithm: its BPE merges by rank of a pair, its unigram model
//! maximises a sum, and both give other ids for some texts.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::vocab::Vocab;

/// Tokens by text, their scores, and the byte tokens.
pub(super) struct Spm {
    ids: HashMap<String, u32>,
    /// Empty if the file has none: all are zero.
    scores: Vec<f32>,
    bytes: Vec<Option<u32>>,
}

/// A piece of the text, in a linked list that covers it.
struct Symbol {
    start: usize,
    /// 0 once it was merged into its left neighbour.
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be merged. `len` tells later whether either changed in the meantime.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl Spm {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let ids: HashMap<String, u32> =
            (0..vocab.len() as u32).map(|id| (vocab.text(id).to_owned(), id)).collect();
        let byte_token = |byte: u8| ids.get(&format!("<0x{byte:02X}>")).copied().or(vocab.unk());
        let bytes = (0..=255).map(byte_token).collect();
        Spm { ids, scores: vocab.scores().to_vec(), bytes }
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Appends the ids of `text`; `prefix`: as if a space preceded it.
    pub(super) fn encode(&self, text: &str, prefix: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + 3);
        if prefix {
            escaped.push('▁');
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { '▁' } else { c }));
        for symbol in self.merge(&escaped) {
            let piece = &escaped[symbol.start..symbol.start + symbol.len];
            match self.id(piece) {
                Some(id) => ids.push(id),
                None => ids.extend(piece.bytes().filter_map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// The pieces of `text` that are left when nothing more can be joined.
    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: i.checked_sub(1),
                next: Some(i + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            queue.extend(self.candidate(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(Candidate { left, right, len, .. }) = queue.pop() {
            let (left_len, right_len) = (symbols[left].len, symbols[right].len);
            if left_len == 0 || right_len == 0 || left_len + right_len != len {
                continue;
            }
            let next = symbols[right].next;
            symbols[left].len = len;
            symbols[left].next = next;
            symbols[right].len = 0;
            if let Some(next) = next {
                symbols[next].prev = Some(left);
            }
            let prev = symbols[left].prev;
            queue.extend(self.candidate(text, &symbols, prev, Some(left)));
            queue.extend(self.candidate(text, &symbols, Some(left), next));
        }
        symbols.retain(|symbol| symbol.len > 0);
        symbols
    }

    fn candidate(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
    ) -> Option<Candidate> {
        let (left, right) = (left?, right?);
        let len = symbols[left].len + symbols[right].len;
        let start = symbols[left].start;
        let id = self.id(&text[start..start + len])?;
        let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
        Some(Candidate { score, left, right, len })
    }
}
