//! The tokens of a file: texts, kinds, bytes, and which of them are special.
//!
//! GGUF files often omit which tokens end generation, or type control tokens as normal ones. llama.cpp then
//! recognises well-known texts; so does this, with the same lists, because ids and stops must agree with it.

use crate::gguf::{Gguf, GgufError};

use super::TokenizerError;

/// The type of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// The token for text that has none.
    Unknown,
    /// Structure written by templates: never encoded from user text, not part of a response.
    Control,
    /// Text that always encodes to this one token, such as `<think>`.
    UserDefined,
    /// A placeholder.
    Unused,
    /// One byte.
    Byte,
    /// An id or type without a meaning.
    Undefined,
}

impl TokenKind {
    fn from_ggml(id: i32) -> Self {
        match id {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Undefined,
        }
    }
}

/// Texts of tokens that end generation, whatever type the file gives them.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Texts of tokens that end a turn, used unless the file names the token.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// Tokens of fill-in-the-middle prompts: the key that may name each, the texts it is recognised by otherwise, and
/// whether it ends generation.
const FILL_IN_MIDDLE: &[(&str, &[&str], bool)] = &[
    (
        "tokenizer.ggml.fim_pre_token_id",
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        false,
    ),
    (
        "tokenizer.ggml.fim_suf_token_id",
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        false,
    ),
    (
        "tokenizer.ggml.fim_mid_token_id",
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        false,
    ),
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        true,
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"], true),
];

/// All tokens of a file.
pub(super) struct Vocab {
    model: String,
    texts: Strings,
    bytes: Strings,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    unk: Option<u32>,
    /// Further special tokens, by the names that chat templates use.
    named: Vec<(&'static str, u32)>,
    eog: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

/// Many short byte strings in one allocation.
struct Strings {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Strings {
    fn new(items: usize) -> Self {
        Strings { bytes: Vec::with_capacity(items * 8), ends: Vec::with_capacity(items) }
    }

    fn close(&mut self) -> Result<(), TokenizerError> {
        let end = u32::try_from(self.bytes.len());
        self.ends.push(end.map_err(|_| TokenizerError::Build("the vocabulary's texts exceed 4 GiB".into()))?);
        Ok(())
    }

    fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let Some(end) = self.ends.get(index) else { return &[] };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }
}

impl Vocab {
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let model =
            gguf.get_str("tokenizer.ggml.model")?.ok_or(TokenizerError::Missing("tokenizer.ggml.model"))?;
        if !matches!(model, "gpt2" | "llama" | "gemma4") {
            return Err(TokenizerError::Model(model.to_owned()));
        }
        let tokens = gguf.get_str_array("tokenizer.ggml.tokens")?;
        let tokens = tokens.ok_or(TokenizerError::Missing("tokenizer.ggml.tokens"))?;
        let kinds = read_kinds(gguf, tokens.len())?;
        let scores = read_scores(gguf, tokens.len())?;
        let mut texts = Strings::new(tokens.len());
        for (id, text) in tokens.iter().enumerate() {
            match text.is_empty() {
                true => texts.bytes.extend_from_slice(format!("[EMPTY_{id}]").as_bytes()),
                false => texts.bytes.extend_from_slice(text.as_bytes()),
            }
            texts.close()?;
        }
        let is_spm = model == "llama";
        let mut vocab = Vocab {
            model: model.to_owned(),
            texts,
            bytes: Strings::new(tokens.len()),
            kinds,
            scores,
            bos: is_spm.then_some(1).or((model == "gpt2").then_some(11)),
            eos: is_spm.then_some(2).or((model == "gpt2").then_some(11)),
            eot: None,
            unk: is_spm.then_some(0),
            named: Vec::new(),
            eog: Vec::new(),
            add_bos: is_spm,
            add_eos: false,
            add_space_prefix: is_spm,
        };
        vocab.read_special_ids(gguf)?;
        vocab.read_flags(gguf)?;
        vocab.find_special_texts(gguf)?;
        vocab.fill_bytes()?;
        Ok(vocab)
    }

    fn read_special_ids(&mut self, gguf: &Gguf) -> Result<(), TokenizerError> {
        let tokens = self.len();
        for (key, slot) in [
            ("tokenizer.ggml.bos_token_id", &mut self.bos),
            ("tokenizer.ggml.eos_token_id", &mut self.eos),
            ("tokenizer.ggml.eot_token_id", &mut self.eot),
            ("tokenizer.ggml.unknown_token_id", &mut self.unk),
        ] {
            // A default id outside the vocabulary is ignored; one that the file names is an error.
            *slot = slot.filter(|id| (*id as usize) < tokens);
            if let Some(id) = special_id(gguf, key, tokens)? {
                *slot = Some(id);
            }
        }
        self.named.extend(self.unk.map(|id| ("unk_token", id)));
        for (name, key) in [
            ("pad_token", "tokenizer.ggml.padding_token_id"),
            // The key's spelling is GGUF's.
            ("sep_token", "tokenizer.ggml.seperator_token_id"),
            ("mask_token", "tokenizer.ggml.mask_token_id"),
        ] {
            // Files with a placeholder here work elsewhere: an id outside the vocabulary is no token.
            let id = gguf.get_u32(key)?.filter(|id| (*id as usize) < tokens);
            self.named.extend(id.map(|id| (name, id)));
        }
        Ok(())
    }

    fn read_flags(&mut self, gguf: &Gguf) -> Result<(), GgufError> {
        let pre = gguf.get_str("tokenizer.ggml.pre")?.unwrap_or_default();
        if self.model == "gpt2" && super::pre_tokenizers::pre_tokenizer(pre).is_some_and(|pre| pre.wants_bos)
        {
            self.add_bos = true;
        }
        for (key, slot) in [
            ("tokenizer.ggml.add_bos_token", &mut self.add_bos),
            ("tokenizer.ggml.add_eos_token", &mut self.add_eos),
            ("tokenizer.ggml.add_space_prefix", &mut self.add_space_prefix),
        ] {
            if let Some(flag) = gguf.get_bool(key)? {
                *slot = flag;
            }
        }
        if self.model == "gemma4" {
            self.add_bos = true;
        }
        // Only the SentencePiece path prepends a space.
        self.add_space_prefix &= self.model == "llama";
        Ok(())
    }

    /// Finds end-of-turn, fill-in-the-middle and end-of-generation tokens, by key or by text. Those found by text
    /// become control tokens.
    fn find_special_texts(&mut self, gguf: &Gguf) -> Result<(), TokenizerError> {
        if self.eot.is_none() {
            self.eot = self.find_text(END_OF_TURN);
            self.set_kind(self.eot, TokenKind::Control);
        }
        let mut eog = Vec::from_iter(self.eos.into_iter().chain(self.eot));
        for (key, texts, ends) in FILL_IN_MIDDLE {
            let mut id = special_id(gguf, key, self.len())?;
            if id.is_none() {
                id = self.find_text(texts);
                self.set_kind(id, TokenKind::Control);
            }
            eog.extend(id.filter(|_| *ends));
        }
        eog.extend(special_id(gguf, "tokenizer.ggml.eom_token_id", self.len())?);
        for id in 0..self.len() as u32 {
            if END_OF_GENERATION.contains(&self.text(id)) {
                eog.push(id);
                self.set_kind(Some(id), TokenKind::Control);
            }
        }
        if self.find_text(&["<|tool_response>"]).is_some() {
            // Gemma 4 has a normal token `</s>`.
            let normal = self.find_text(&["</s>"]);
            eog.retain(|id| Some(*id) != normal);
            self.set_kind(normal, TokenKind::Normal);
        }
        eog.sort_unstable();
        eog.dedup();
        self.eog = eog;
        Ok(())
    }

    /// Tokens that strip the white space after them, ascending. Files don't say which do: llama.cpp decides by the
    /// model's name, and so do we. They are Phi-3's special tokens, but for those that its tokenizer was made with.
    pub(super) fn right_strip(&self, name: &str) -> Vec<u32> {
        let name = name.to_ascii_lowercase();
        if !name.contains("phi-3") && !name.contains("phi3") {
            return Vec::new();
        }
        let special = |kind| matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
        let strips = |&id: &u32| match self.text(id) {
            "<unk>" | "<s>" | "<|endoftext|>" => false,
            "</s>" => true,
            _ => special(self.kind(id)),
        };
        (0..self.len() as u32).filter(strips).collect()
    }

    fn find_text(&self, texts: &[&str]) -> Option<u32> {
        (0..self.len() as u32).find(|id| texts.contains(&self.text(*id)))
    }

    fn set_kind(&mut self, id: Option<u32>, kind: TokenKind) {
        if let Some(id) = id {
            self.kinds[id as usize] = kind;
        }
    }

    fn fill_bytes(&mut self) -> Result<(), TokenizerError> {
        let byte_level = self.model == "gpt2";
        for id in 0..self.len() as u32 {
            let text = text_of(&self.texts, id);
            let bytes = &mut self.bytes.bytes;
            match self.kinds[id as usize] {
                TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes());
                }
                TokenKind::Normal if byte_level => super::bpe::decode_byte_level(text, bytes),
                TokenKind::Normal => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
                TokenKind::Byte => bytes.extend(byte_of(text)),
                TokenKind::Unused | TokenKind::Undefined => {}
            }
            self.bytes.close()?;
        }
        Ok(())
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn text(&self, id: u32) -> &str {
        text_of(&self.texts, id)
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Undefined)
    }

    /// The scores of all tokens; empty if the file has none.
    pub(super) fn scores(&self) -> &[f32] {
        &self.scores
    }

    pub(super) fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub(super) fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub(super) fn eot(&self) -> Option<u32> {
        self.eot
    }

    pub(super) fn unk(&self) -> Option<u32> {
        self.unk
    }

    pub(super) fn named(&self) -> &[(&'static str, u32)] {
        &self.named
    }

    pub(super) fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    pub(super) fn add_bos(&self) -> bool {
        self.add_bos
    }

    pub(super) fn add_eos(&self) -> bool {
        self.add_eos
    }

    pub(super) fn add_space_prefix(&self) -> bool {
        self.add_space_prefix
    }
}

fn text_of(texts: &Strings, id: u32) -> &str {
    std::str::from_utf8(texts.get(id)).unwrap_or_default()
}

/// The byte that `<0x0A>` names.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

fn special_id(gguf: &Gguf, key: &'static str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
    match gguf.get_u32(key)? {
        Some(id) if id as usize >= tokens => Err(TokenizerError::Id { key, id, tokens }),
        id => Ok(id),
    }
}

fn read_kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    let key = "tokenizer.ggml.token_type";
    match gguf.get_i32_array(key)? {
        Some(kinds) if kinds.len() < tokens => {
            Err(TokenizerError::Length { key, found: kinds.len(), tokens })
        }
        Some(kinds) => Ok(kinds[..tokens].iter().map(|kind| TokenKind::from_ggml(*kind)).collect()),
        None => Ok(vec![TokenKind::Normal; tokens]),
    }
}

fn read_scores(gguf: &Gguf, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
    let key = "tokenizer.ggml.scores";
    match gguf.get_f32_array(key)? {
        Some(scores) if scores.len() < tokens => {
            Err(TokenizerError::Length { key, found: scores.len(), tokens })
        }
        // Adding zero makes -0 and 0 the same score.
        Some(scores) => Ok(scores[..tokens].iter().map(|score| score + 0.0).collect()),
        None => Ok(Vec::new()),
    }
}
