//! Finds the texts of special tokens in a string. The tokenizer partitions input with it, chat templates mark user
//! text with it; the file stands outside both so that neither imports the other for it.
//!
//! llama.cpp iterates over the special tokens from the longest text to the shortest and splits the input at every
//! occurrence. The same splits come out of one pass that finds all occurrences and then keeps, longest first and
//! from left to right, those that overlap no occurrence kept before. Tokens of some models strip the white space after
//! them, which is then part of their occurrence.

use aho_corasick::{AhoCorasick, BuildError, MatchKind};

/// A fragment of an input string: a special token, or the text between two of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    Token(u32),
    Text(&'a str),
}

/// A set of token texts, compiled for search.
#[derive(Clone)]
pub(crate) struct SpecialTexts {
    /// `None`: the set is empty.
    matcher: Option<AhoCorasick>,
    ids: Vec<u32>,
    /// Ids of the tokens that strip the white space after them, ascending.
    right_strip: Vec<u32>,
}

/// An occurrence of a special token's text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Occurrence {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) id: u32,
}

impl SpecialTexts {
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = (u32, &'a str)>) -> Result<Self, BuildError> {
        let (ids, texts): (Vec<u32>, Vec<&str>) = tokens.filter(|(_, text)| !text.is_empty()).unzip();
        let build = || AhoCorasick::builder().match_kind(MatchKind::Standard).build(&texts);
        let matcher = if texts.is_empty() { None } else { Some(build()) };
        Ok(SpecialTexts { matcher: matcher.transpose()?, ids, right_strip: Vec::new() })
    }

    /// The same set, in which the tokens of `right_strip` (ascending) strip the white space after them.
    pub(crate) fn with_right_strip(self, right_strip: &[u32]) -> Self {
        SpecialTexts { right_strip: right_strip.to_vec(), ..self }
    }

    /// All occurrences, overlapping ones included, in unspecified order.
    pub(crate) fn occurrences(&self, text: &str) -> impl Iterator<Item = Occurrence> {
        let found = self.matcher.iter().flat_map(move |matcher| matcher.find_overlapping_iter(text));
        found.map(|m| Occurrence { start: m.start(), end: m.end(), id: self.ids[m.pattern().as_usize()] })
    }

    /// The occurrences at which the text is split, from left to right, without overlap, with the white space that they
    /// strip.
    pub(crate) fn split_points(&self, text: &str) -> Vec<Occurrence> {
        let mut found: Vec<Occurrence> = self.occurrences(text).collect();
        found.sort_by_key(|o| (std::cmp::Reverse(o.end - o.start), o.id, o.start));
        let mut kept = std::collections::BTreeMap::new();
        for mut occurrence in found {
            let before = kept.range(..occurrence.end).next_back();
            if before.is_none_or(|(_, other): (&usize, &Occurrence)| other.end <= occurrence.start) {
                if self.right_strip.binary_search(&occurrence.id).is_ok() {
                    let next = kept.range(occurrence.end..).next().map_or(text.len(), |(&start, _)| start);
                    let after = &text[occurrence.end..next];
                    occurrence.end += after.len() - without_leading_space(after).len();
                }
                kept.insert(occurrence.start, occurrence);
            }
        }
        kept.into_values().collect()
    }

    /// The text split at special tokens. No text fragment is empty.
    pub(crate) fn partition<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let mut end = 0;
        for token in self.split_points(text) {
            if token.start > end {
                fragments.push(Fragment::Text(&text[end..token.start]));
            }
            fragments.push(Fragment::Token(token.id));
            end = token.end;
        }
        if end < text.len() {
            fragments.push(Fragment::Text(&text[end..]));
        }
        fragments
    }
}

/// The text without the white space that it begins with, as C's `isspace` has it.
pub(crate) fn without_leading_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&'static str]) -> SpecialTexts {
        SpecialTexts::new((0..).zip(list.iter().copied())).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_longer_text_wins_over_a_shorter_one_that_starts_earlier() {
        let special = texts(&["ab", "bcd"]);
        assert_eq!(special.partition("abcd"), [Fragment::Text("a"), Fragment::Token(1)]);
    }

    #[test]
    fn a_text_that_overlaps_itself_is_matched_from_the_left() {
        let special = texts(&["aa"]);
        assert_eq!(special.partition("aaa"), [Fragment::Token(0), Fragment::Text("a")]);
    }

    #[test]
    fn a_token_that_strips_white_space_takes_it_from_shorter_tokens_only() {
        let special = texts(&["<a>", "  ", "\n<long>"]).with_right_strip(&[0]);
        let (token, text) = (Fragment::Token, Fragment::Text);
        assert_eq!(special.partition("x <a>   \t y"), [text("x "), token(0), text("y")]);
        assert_eq!(special.partition("<a> \n<long>  "), [token(0), token(2), token(1)]);
        assert_eq!(special.partition("<a>\u{a0}<a>"), [token(0), text("\u{a0}"), token(0)]);
    }

    #[test]
    fn adjacent_tokens_are_both_found() {
        let special = texts(&["<a>", "<b>"]);
        assert_eq!(special.partition("<a><b>"), [Fragment::Token(0), Fragment::Token(1)]);
    }
}
