//! Pre-tokenizers: how a text is split into words before byte pairs are merged inside each.
//!
//! Each is a list of regular expressions that llama.cpp applies one after the other, each to the pieces
//! of the one before; matches and the text between them become pieces. Its expressions end in
//! `\s+(?!\S)|\s+`: the last character of a run of white space belongs to the following word. That look-ahead
//! would need a backtracking engine, which takes quadratic time on some texts; here the expression ends in
//! `\s+` and [`Stage::split`] shortens the match by that character, so that a linear-time engine suffices.

use regex::Regex;

use super::TokenizerError;

/// The values of `tokenizer.ggml.pre` that are supported.
pub const PRE_TOKENIZERS: &[&str] = &[
    "default",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "qwen2",
    "deepseek-r1-qwen",
    "deepseek-llm",
    "deepseek-v3",
    "gemma4",
];

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

macro_rules! tiktoken_like {
    ($digits:literal) => {
        concat!(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
        )
    };
}

const LLAMA_3: &str = tiktoken_like!(r"\p{N}{1,3}");
const QWEN_2: &str = tiktoken_like!(r"\p{N}");

/// Letters of alphabets with upper and lower case. Escaped, because these characters change under normalisation.
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}",
    r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}",
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);

const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
);

/// The pattern with its categories as of Unicode 15.1, which is llama.cpp's: characters that were assigned later
/// belong to none, and a newer `regex` crate doesn't change ids.
fn of_unicode_15(pattern: &str) -> String {
    let categories = ["L", "M", "N", "P", "S"];
    categories.iter().fold(pattern.to_owned(), |pattern, name| {
        pattern.replace(&format!(r"\p{{{name}}}"), &format!(r"[\p{{{name}}}&&\p{{Age=15.1}}]"))
    })
}

/// Whether the pre-tokenizer's models start with BOS unless the file says otherwise.
pub(super) fn wants_bos(pre: &str) -> bool {
    is_llama_3(pre)
}

/// Whether a word that is a token is that token, whatever merging would give.
pub(super) fn ignores_merges(pre: &str) -> bool {
    is_llama_3(pre)
}

fn is_llama_3(pre: &str) -> bool {
    matches!(pre, "llama-bpe" | "llama3" | "llama-v3")
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
enum Shorten {
    Never,
    /// All.
    Always,
    /// All except line breaks, which belong to alternatives without a look-ahead.
    UnlessLineBreak,
}

impl Splitter {
    pub(super) fn new(pre: &str) -> Result<Self, TokenizerError> {
        use Shorten::{Always, Never, UnlessLineBreak};
        let stages: &[(&str, Shorten)] = match pre {
            "default" => &[
                (r"[\p{P}\$\+<=>\^~\|]+", Never),
                (GPT_2, Always),
                (r"\p{N}+", Never),
                (r"[0-9][0-9][0-9]", Never),
            ],
            "gpt-2" => &[(GPT_2, Always)],
            "smollm" => &[(r"\p{N}", Never), (GPT_2, Always)],
            "llama-bpe" | "llama3" | "llama-v3" => &[(LLAMA_3, UnlessLineBreak)],
            "qwen2" | "deepseek-r1-qwen" => &[(QWEN_2, UnlessLineBreak)],
            // llama.cpp compares ranges without white space, hence `--\s`.
            "deepseek-llm" => &[
                (r"[\r\n]", Never),
                (DEEPSEEK_LLM_LETTERS, Never),
                (
                    r"\s?[[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]--\s]+",
                    Never,
                ),
                (r"\s+$", Never),
                (r"[[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]--\s]+", Never),
                (r"\p{N}+", Never),
            ],
            "deepseek-v3" => &[
                (r"\p{N}{1,3}", Never),
                (r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", Never),
                (DEEPSEEK_V3, UnlessLineBreak),
            ],
            "gemma4" => &[(r"[^\n]+|\n+", Never)],
            other => return Err(TokenizerError::PreTokenizer { name: other.to_owned() }),
        };
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
    fn every_listed_pre_tokenizer_exists() {
        let missing: Vec<_> = PRE_TOKENIZERS.iter().filter(|pre| Splitter::new(pre).is_err()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
