//! Text to token ids and back, from the vocabulary that a GGUF file carries.
//!
//! What it is for: the ids that llama.cpp gives for the same file and text, and text for ids, also
//! when they are streamed ([`TokenDecoder`]). What it is not for: training vocabularies, normalisation that llama.cpp
//! doesn't do, or vocabularies that no supported model family uses (WordPiece, RWKV, T5's unigram).
//!
//! The invariant: the text of a control token becomes that token only where the caller says that the text may
//! (`parse_special`, or text that the template itself wrote in [`Rendered`]). User text never does.

mod bpe;
mod decoder;
mod error;
mod pre_tokenizers;
mod split;
mod spm;
mod vocab;

pub use decoder::TokenDecoder;
pub use error::TokenizerError;
pub use pre_tokenizers::pre_tokenizers;
pub use vocab::TokenKind;

use crate::gguf::Gguf;
use crate::rendered::{Rendered, Segment};
use crate::special_texts::{Fragment, SpecialTexts, without_leading_space};
use bpe::Bpe;
use spm::Spm;
use vocab::Vocab;

/// The tokenizer of a model file. Immutable and shared between threads.
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    /// Texts of user-defined tokens: they match in any text.
    user_defined: SpecialTexts,
    /// Texts of control and unknown tokens and of user-defined ones: they match where `parse_special` says so.
    all_special: SpecialTexts,
    /// Texts of control and unknown tokens alone.
    control: SpecialTexts,
    /// Tokens that strip the white space after them, ascending.
    right_strip: Vec<u32>,
}

enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Spm),
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`. A model or pre-tokenizer that is not supported is an error that names it.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let vocab = Vocab::from_gguf(gguf)?;
        let algorithm = match vocab.model() {
            "llama" => Algorithm::Spm(Spm::new(&vocab)),
            _ => Algorithm::Bpe(Box::new(Bpe::from_gguf(gguf, &vocab)?)),
        };
        let texts = |wanted: &dyn Fn(TokenKind) -> bool| {
            SpecialTexts::new((0..vocab.len() as u32).filter_map(|id| {
                let kind = vocab.kind(id);
                wanted(kind).then(|| (id, vocab.text(id)))
            }))
            .map_err(|error| TokenizerError::Build(error.to_string()))
        };
        let is_control = |kind| matches!(kind, TokenKind::Control | TokenKind::Unknown);
        let right_strip = vocab.right_strip(gguf.get_str("general.name")?.unwrap_or_default());
        let user_defined = texts(&|kind| kind == TokenKind::UserDefined)?.with_right_strip(&right_strip);
        let all_special = texts(&|kind| is_control(kind) || kind == TokenKind::UserDefined)?;
        let all_special = all_special.with_right_strip(&right_strip);
        let control = texts(&is_control)?;
        Ok(Tokenizer { vocab, algorithm, user_defined, all_special, control, right_strip })
    }

    /// The ids of `text`. `add_special`: add BOS and EOS if the model's metadata asks for them.
    /// `parse_special`: texts of control tokens encode to those tokens, the longest text first.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let special = if parse_special { &self.all_special } else { &self.user_defined };
        self.encode_fragments(&special.partition(text), add_special, true)
    }

    /// The ids of `text` that goes on from other text: no BOS, and no space that a SentencePiece model puts in front.
    /// Texts of control tokens stay text.
    pub fn encode_continuation(&self, text: &str) -> Vec<u32> {
        self.encode_fragments(&self.user_defined.partition(text), false, false)
    }

    /// The ids of a rendered chat: the template's control tokens as such, everything else as plain text. BOS is
    /// prepended if the model asks for it and the template did not write it.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Vec<u32> {
        let mut fragments = Vec::new();
        let mut strip = false;
        for segment in rendered.segments() {
            match segment {
                Segment::Control(id) => {
                    fragments.push(Fragment::Token(*id));
                    strip = self.right_strip.binary_search(id).is_ok();
                }
                Segment::Text(text) => {
                    let text = if strip { without_leading_space(text) } else { text };
                    fragments.extend(self.user_defined.partition(text));
                    strip = false;
                }
            }
        }
        let starts_with_bos =
            matches!(fragments.first(), Some(Fragment::Token(id)) if Some(*id) == self.bos());
        let mut ids = Vec::new();
        if self.vocab.add_bos() && !starts_with_bos {
            ids.extend(self.bos());
        }
        ids.extend(self.encode_fragments(&fragments, false, true));
        ids
    }

    /// `begins`: a text begins with the fragments.
    fn encode_fragments(&self, fragments: &[Fragment<'_>], add_special: bool, begins: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        if add_special && self.vocab.add_bos() {
            ids.extend(self.bos());
        }
        let mut after_special = begins;
        for fragment in fragments {
            match (fragment, &self.algorithm) {
                (Fragment::Token(id), _) => ids.push(*id),
                (Fragment::Text(text), Algorithm::Bpe(bpe)) => bpe.encode(text, &mut ids),
                (Fragment::Text(text), Algorithm::Spm(spm)) => {
                    let prefix = after_special && self.vocab.add_space_prefix();
                    spm.encode(text, prefix, &mut ids);
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if add_special && self.vocab.add_eos() {
            ids.extend(self.eos());
        }
        ids
    }

    /// The text of `ids`. `show_control`: control tokens decode to their text, otherwise to nothing. The space
    /// that a SentencePiece model prepends to a text is removed.
    pub fn decode(&self, ids: &[u32], show_control: bool) -> String {
        let mut bytes = Vec::new();
        for id in ids.iter().filter(|id| show_control || !self.is_hidden(**id)) {
            bytes.extend_from_slice(self.token_bytes(*id));
        }
        let padded = self.vocab.add_space_prefix() && ids.first().is_some_and(|id| !self.is_hidden(*id));
        let bytes = if padded { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// A decoder for streamed ids; control tokens decode to nothing.
    pub fn decoder(&self) -> TokenDecoder {
        TokenDecoder::new(false)
    }

    /// Why ids of `other` do not mean the same tokens as ours, or `None` if they do.
    pub fn difference(&self, other: &Tokenizer) -> Option<String> {
        let (ours, theirs) = (self.vocab_size(), other.vocab_size());
        if ours != theirs {
            return Some(format!("its vocabulary has {theirs} tokens and not {ours}"));
        }
        let text =
            |tokenizer: &Tokenizer, id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        let differs =
            |&id: &u32| self.token_bytes(id) != other.token_bytes(id) || self.is_eog(id) != other.is_eog(id);
        (0..ours as u32)
            .find(differs)
            .map(|id| format!("its token {id} is {:?} and not {:?}", text(other, id), text(self, id)))
    }

    /// Number of ids. Every id below it is valid for all methods here; ids from it on have no text.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token's text as the vocabulary spells it (byte-level alphabet, `▁` for spaces); empty for an id
    /// outside the vocabulary.
    pub fn token_text(&self, id: u32) -> &str {
        self.vocab.text(id)
    }

    /// The bytes that the token stands for; a control token's are its text.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// The id whose text in the vocabulary is exactly `text`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.id(text),
            Algorithm::Spm(spm) => spm.id(text),
        }
    }

    /// What the token is to the tokenizer.
    pub fn token_kind(&self, id: u32) -> TokenKind {
        self.vocab.kind(id)
    }

    /// Beginning of a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos()
    }

    /// End of a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos()
    }

    /// End of a turn.
    pub fn eot(&self) -> Option<u32> {
        self.vocab.eot()
    }

    /// Texts of special tokens by the names that chat templates use. BOS and EOS are always there, empty if the
    /// model has none.
    pub(crate) fn special_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let text = |id: Option<u32>| id.map_or("", |id| self.token_text(id));
        let always = [("bos_token", text(self.bos())), ("eos_token", text(self.eos()))];
        let named = self.vocab.named().iter().map(|(name, id)| (*name, self.token_text(*id)));
        always.into_iter().chain(named)
    }

    /// Whether the model's metadata asks for BOS before the prompt.
    pub fn add_bos(&self) -> bool {
        self.vocab.add_bos()
    }

    /// Whether the token ends generation (EOS, end of turn and similar, as llama.cpp recognises them).
    pub fn is_eog(&self, id: u32) -> bool {
        self.vocab.is_eog(id)
    }

    /// Whether the token is a control token: its text is not part of a response.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id) == TokenKind::Control
    }

    /// Control and unknown tokens, which decoding omits.
    pub fn is_hidden(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), TokenKind::Control | TokenKind::Unknown)
    }

    /// The matcher for texts of control tokens, for marking them in user text.
    pub(crate) fn control_texts(&self) -> &SpecialTexts {
        &self.control
    }
}
