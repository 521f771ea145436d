//! Pre-tokenizers: how a text is split into words before byte pairs are merged inside each.
//!
//! Each is a list of regular expressions that llama.cpp applies one after the other, each to the pieces
//! of the one before; matches and the text between them become pieces. Its expressions end in
//! `\s+(?!\S)|\s+`: the last character of a run of white space belongs to the following word. That look-ahead
//! would need a backtracking engine, which takes quadratic time on some texts; here the expression ends in
//! `\s+` and [`Stage::split`] shortens the match by that character, so that a linear-time engine suffices.

use regex::Regex;

use super::TokenizerError;
use super::pre_tokenizers::pre_tokenizer;

/// The pattern with its categories as of Unicode 15.1, which is llama.cpp's: characters that were assigned later
/// belong to none, and a newer `regex` crate doesn't change ids.
fn of_unicode_15(pattern: &str) -> String {
    let categories = ["L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S"];
    categories.iter().fold(pattern.to_owned(), |pattern, name| {
        pattern.replace(&format!(r"\p{{{name}}}"), &format!(r"[\p{{{name}}}&&\p{{Age=15.1}}]"))
    })
}

/// A pre-tokenizer.
pub(super) struct Splitter {
    stages: Vec<Stage>,
}

struct Stage {
    regex: Regex,
    shorten: Shorten,
}

/// Which matches that end in white space are shortened by their last character.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shorten {
    Never,
    /// All.
    Always,
    /// All except line breaks, which belong to alternatives without a look-ahead.
    UnlessLineBreak,
}

impl Splitter {
    pub(super) fn new(pre: &str) -> Result<Self, TokenizerError> {
        let unknown = || TokenizerError::PreTokenizer { name: pre.to_owned() };
        let stages = pre_tokenizer(pre).ok_or_else(unknown)?.stages;
        let stages = stages.iter().map(|(pattern, shorten)| {
            let regex = Regex::new(&of_unicode_15(pattern))
                .map_err(|error| TokenizerError::Build(error.to_string()))?;
            Ok(Stage { regex, shorten: *shorten })
        });
        Ok(Splitter { stages: stages.collect::<Result<_, TokenizerError>>()? })
    }

    /// Calls `word` with each word of `text`, in order. Together they are the text.
    pub(super) fn split<'a>(&self, text: &'a str, word: &mut dyn FnMut(&'a str)) {
        split_by(&self.stages, text, word);
    }
}

fn split_by<'a>(stages: &[Stage], text: &'a str, word: &mut dyn FnMut(&'a str)) {
    match stages {
        [] => word(text),
        [stage, rest @ ..] => stage.split(text, &mut |piece| split_by(rest, piece, word)),
    }
}

impl Stage {
    fn split<'a>(&self, text: &'a str, piece: &mut dyn FnMut(&'a str)) {
        let mut done = 0;
        while let Some(found) = self.regex.find_at(text, done) {
            let end = self.shortened(text, found.start(), found.end());
            if found.start() > done {
                piece(&text[done..found.start()]);
            }
            piece(&text[found.start()..end]);
            done = end;
        }
        if done < text.len() {
            piece(&text[done..]);
        }
    }

    /// The end of the match, without the white-space character that belongs to the following word.
    fn shortened(&self, text: &str, start: usize, end: usize) -> usize {
        if self.shorten == Shorten::Never || end == text.len() {
            return end;
        }
        let Some(last) = text[start..end].chars().next_back().filter(|c| c.is_whitespace()) else {
            return end;
        };
        let is_line_break = matches!(last, '\r' | '\n');
        let shorter = end - last.len_utf8();
        if shorter == start || (is_line_break && self.shorten == Shorten::UnlessLineBreak) {
            return end;
        }
        shorter
    }
}

#[cfg(test)]
mod tests {
    use super::super::pre_tokenizers::pre_tokenizers;
    use super::*;

    fn words(pre: &str, text: &'static str) -> Vec<&'static str> {
        let mut words = Vec::new();
        let splitter = Splitter::new(pre).unwrap_or_else(|error| panic!("{error}"));
        splitter.split(text, &mut |word| words.push(word));
        words
    }

    #[test]
    fn the_last_of_a_run_of_spaces_belongs_to_the_word() {
        assert_eq!(words("gpt-2", "a   b"), ["a", "  ", " b"]);
    }

    #[test]
    fn a_run_of_spaces_at_the_end_stays_whole() {
        assert_eq!(words("gpt-2", "a   "), ["a", "   "]);
    }

    #[test]
    fn gpt_2_treats_line_breaks_as_other_white_space() {
        assert_eq!(words("gpt-2", "a\n\nb"), ["a", "\n", "\n", "b"]);
    }

    #[test]
    fn llama_3_keeps_line_breaks_together() {
        assert_eq!(words("llama-bpe", "a\n\n  b"), ["a", "\n\n", " ", " b"]);
    }

    #[test]
    fn smollm_splits_digits() {
        assert_eq!(words("smollm", "x 123"), ["x", " ", "1", "2", "3"]);
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_an_error_that_names_it() {
        let message = Splitter::new("klingon").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("`klingon`") && message.contains("deepseek-v3"), "{message}");
    }

    #[test]
    fn every_listed_pre_tokenizer_exists_once() {
        let mut names: Vec<_> = pre_tokenizers().collect();
        let broken: Vec<_> = names.iter().filter(|pre| Splitter::new(pre).is_err()).collect();
        assert!(broken.is_empty(), "{broken:?}");
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands twice");
    }
}
