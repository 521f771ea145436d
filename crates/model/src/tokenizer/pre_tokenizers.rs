//! Pre-tokenizers by the name that a file gives (`tokenizer.ggml.pre`): their patterns and rules.
//!
//! It is data: the patterns that models were trained with, and what else llama.cpp ties to the name. How patterns are
//! applied is `split`'s. Where llama.cpp approximates a pattern because its engine lacks Unicode classes (`tekken`,
//! `gpt-4o`, `kimi-k2`), the model's own pattern stands here.

use super::split::Shorten::{self, Always, Never, UnlessLineBreak};

/// One or more names with the same rules.
pub(super) struct PreTokenizer {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Patterns, applied one after the other, each to the pieces of the one before.
    pub(super) stages: &'static [(&'static str, Shorten)],
    /// Whether the models start with BOS unless the file says otherwise.
    pub(super) wants_bos: bool,
    /// Whether a word that is a token is that token, whatever merging would give.
    pub(super) ignores_merges: bool,
}

const fn plain(names: &'static [&'static str], stages: &'static [(&'static str, Shorten)]) -> PreTokenizer {
    PreTokenizer { names, stages, wants_bos: false, ignores_merges: false }
}

/// The rules of a name.
pub(super) fn pre_tokenizer(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name))
}

/// The supported values of `tokenizer.ggml.pre`.
pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
    PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied()
}

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

/// Letters with the marks on them, and runs of such words with single spaces between (EXAONE MoE).
const EXAONE_MOE: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|",
    r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+"
);

/// Words as upper-case letters followed by lower-case ones, as in GPT-4o's encoding.
macro_rules! cased_words {
    ($and:literal, $suffix:literal, $rest:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}",
            $and,
            r"]*[\p{Ll}\p{Lm}\p{Lo}\p{M}",
            $and,
            r"]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}",
            $and,
            r"]+[\p{Ll}\p{Lm}\p{Lo}\p{M}",
            $and,
            r"]*",
            $suffix,
            $rest
        )
    };
}

const TEKKEN: &str = cased_words!("", "", r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+");
const GPT_4O: &str = cased_words!(
    "",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
const YOUTU: &str = cased_words!(
    "",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
/// One pattern, so that white space before Han is seen to be followed by something.
const KIMI_K2: &str = concat!(
    r"\p{Han}+|",
    cased_words!(
        r"&&[^\p{Han}]",
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    )
);

const QWEN_35: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);
const SEED_CODER: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+"
);
const BAILING: &str = concat!(
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+"
);
const MINICPM_5: &str = tiktoken_like!(r"\p{N}+");
/// Words end at white space and at the punctuation of several scripts.
const BLOOM: &str = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+";
const CJK_AND_KANA: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
/// `[！…“”‘’—：；，、-〿︰-﹏]`, Hangul, Bopomofo and Han, each by itself.
const YOUTU_SCRIPTS: &str = concat!(
    r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|",
    r"[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|",
    r"[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
);

static PRE_TOKENIZERS: &[PreTokenizer] = &[
    plain(
        &["default"],
        &[(r"[\p{P}\$\+<=>\^~\|]+", Never), (GPT_2, Always), (r"\p{N}+", Never), (r"[0-9][0-9][0-9]", Never)],
    ),
    plain(
        &[
            "gpt-2",
            "phi-2",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[(GPT_2, Always)],
    ),
    plain(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[(r"\p{N}", Never), (GPT_2, Always)],
    ),
    plain(&["falcon"], &[(r"[\p{P}\$\+<=>\^~\|`]+", Never), (GPT_2, Always), (r"[0-9][0-9][0-9]", Never)]),
    PreTokenizer {
        wants_bos: true,
        ignores_merges: true,
        ..plain(
            &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
            &[(LLAMA_3, UnlessLineBreak)],
        )
    },
    plain(&["smaug-bpe", "dbrx", "chatglm-bpe"], &[(LLAMA_3, UnlessLineBreak)]),
    PreTokenizer { ignores_merges: true, ..plain(&["glm4", "glm5"], &[(LLAMA_3, UnlessLineBreak)]) },
    PreTokenizer {
        ignores_merges: true,
        ..plain(&["minicpm5"], &[(r"\p{N}{1,3}", Never), (MINICPM_5, UnlessLineBreak)])
    },
    plain(
        &["qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[(QWEN_2, UnlessLineBreak)],
    ),
    plain(&["laguna"], &[(r"[^\n]+|\n+", Never), (QWEN_2, UnlessLineBreak)]),
    plain(&["qwen35"], &[(QWEN_35, UnlessLineBreak)]),
    plain(&["seed-coder"], &[(SEED_CODER, UnlessLineBreak)]),
    plain(&["bailingmoe", "bailingmoe2", "llada-moe"], &[(BAILING, UnlessLineBreak)]),
    plain(&["exaone-moe"], &[(EXAONE_MOE, UnlessLineBreak)]),
    // llama.cpp compares ranges without white space, hence `--\s`.
    plain(
        &["deepseek-llm"],
        &[
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
    ),
    plain(
        &["deepseek-coder"],
        &[
            (r"[\r\n]", Never),
            (r"\s?\p{L}+", Never),
            (r"\s?\p{P}+", Never),
            (r"[[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]--\s]+", Never),
            (r"\p{N}", Never),
        ],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[(r"\p{N}{1,3}", Never), (CJK_AND_KANA, Never), (DEEPSEEK_V3, UnlessLineBreak)],
    ),
    PreTokenizer {
        ignores_merges: true,
        ..plain(&["youtu"], &[(YOUTU_SCRIPTS, Never), (YOUTU, UnlessLineBreak)])
    },
    PreTokenizer {
        wants_bos: true,
        ignores_merges: true,
        ..plain(&["tekken"], &[(TEKKEN, UnlessLineBreak)])
    },
    plain(&["gpt-4o", "llama4", "kanana2", "minimax-m2"], &[(GPT_4O, UnlessLineBreak)]),
    plain(&["kimi-k2"], &[(KIMI_K2, UnlessLineBreak)]),
    plain(&["poro-chat", "bloom", "gpt3-finnish"], &[(BLOOM, Never)]),
    plain(&["viking"], &[(BLOOM, Never), (r"\p{N}", Never)]),
    plain(&["gemma4"], &[(r"[^\n]+|\n+", Never)]),
];
