//! Pre-tokenizers: how a text is cut into words before byte pairs are merged inside each.
//!
//! Each is a list of regular expressions that llama.cpp applies one after the other, every one to the pieces
//! that the one before left; matches and what lies between them become pieces. Its expressions end in
//! `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word that follows. That look-ahead
//! would need a backtracking engine, which takes quadratic time on some texts; here the expression ends in
//! `\s+` and [`Stage::split`] gives the character back, so that a linear-time engine does.

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

/// Letters of alphabets with upper and lower case.
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ",
    r"Ὗ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻",
    r"𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
);

const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
);

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
    gives_back: GivesBack,
}

/// Which white space at the end of a match leaves its last character to what follows.
#[derive(Clone, Copy, PartialEq)]
enum GivesBack {
    Never,
    /// All.
    Always,
    /// All but a line break: those belong to alternatives without a look-ahead.
    UnlessLineBreak,
}

impl Splitter {
    pub(super) fn new(pre: &str) -> Result<Self, TokenizerError> {
        use GivesBack::{Always, Never, UnlessLineBreak};
        let stages: &[(&str, GivesBack)] = match pre {
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
                (r"\s?[[!-/:-~！-／：-～‘-‟　-。]--\s]+", Never),
                (r"\s+$", Never),
                (r"[[一-龥ࠀ-一가-퟿]--\s]+", Never),
                (r"\p{N}+", Never),
            ],
            "deepseek-v3" => {
                &[(r"\p{N}{1,3}", Never), (r"[一-龥぀-ゟ゠-ヿ]+", Never), (DEEPSEEK_V3, UnlessLineBreak)]
            }
            "gemma4" => &[(r"[^\n]+|\n+", Never)],
            other => return Err(TokenizerError::PreTokenizer { name: other.to_owned() }),
        };
        let stages = stages.iter().map(|(pattern, gives_back)| {
            let regex = Regex::new(pattern).map_err(|error| TokenizerError::Build(error.to_string()))?;
            Ok(Stage { regex, gives_back: *gives_back })
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

    /// The end of a match after the character of white space that it may have to give back.
    fn shortened(&self, text: &str, start: usize, end: usize) -> usize {
        if self.gives_back == GivesBack::Never || end == text.len() {
            return end;
        }
        let Some(last) = text[start..end].chars().next_back().filter(|c| c.is_whitespace()) else {
            return end;
        };
        let is_line_break = matches!(last, '\r' | '\n');
        let shorter = end - last.len_utf8();
        if shorter == start || (is_line_break && self.gives_back == GivesBack::UnlessLineBreak) {
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
    fn a_run_of_spaces_leaves_its_last_one_to_the_word() {
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
    fn smollm_cuts_digits_apart() {
        assert_eq!(words("smollm", "x 123"), ["x", " ", "1", "2", "3"]);
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_refused_by_name() {
        let message = Splitter::new("klingon").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("`klingon`") && message.contains("deepseek-v3"), "{message}");
    }

    #[test]
    fn every_listed_pre_tokenizer_exists() {
        let missing: Vec<_> = PRE_TOKENIZERS.iter().filter(|pre| Splitter::new(pre).is_err()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
