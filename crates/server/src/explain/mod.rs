//! Explains a cache miss: where two token sequences diverge, why, and what to do about it.
//!
//! The caches know tokens only. This module maps the first token at which a prompt diverges from the closest cached
//! prefix to a character of a request field ([`field_at`]), and classifies the difference ([`cause`]). It is a pure
//! function of the tokens, the request and the model's codec.
//!
//! Access control is up to the callers. The invariant: a report contains only the caller's own request and text that
//! was cached for the same tenant.

mod cause;
mod field_at;
mod report;
mod sourced_prompt;

pub use cause::Cause;
pub use report::{Divergence, Report};
pub(crate) use sourced_prompt::several;
pub use sourced_prompt::{Source, SourcedPrompt};

use foretoken_engine::Explained;

use crate::backend::Codec;

/// Tokens that agree and cannot be used, from which on the report says why: other reasons leave less than two blocks.
const UNUSABLE_MIN: usize = 128;
/// Characters of text shown per side.
const SHOWN_CHARS: usize = 120;
/// Replacement for an incomplete UTF-8 character.
const CUT_CHARACTER: char = '\u{FFFD}';

/// The closest cached sequence, relative to the prompt.
#[derive(Clone, Copy, Debug)]
pub struct CachedSequence<'a> {
    /// Length of the common prefix in tokens.
    pub agreed: usize,
    /// Its tokens after that, as far as known.
    pub rest: &'a [u32],
}

/// Finds where and why a prompt diverges from the other sequence.
pub fn compare(codec: &dyn Codec, prompt: &SourcedPrompt, other: CachedSequence<'_>) -> Report {
    let tokens = &prompt.tokens;
    let agreed = other.agreed.min(tokens.len());
    let report = |divergence, cause: Cause, message: String| Report {
        prompt_tokens: tokens.len(),
        agreed_tokens: agreed,
        tiers: None,
        divergence,
        cause,
        message,
    };
    if agreed == tokens.len() {
        let message = "The whole prompt is cached; only its last token has to be computed.";
        return report(None, Cause::Cached, message.into());
    }
    if agreed == 0 && other.rest.is_empty() {
        let message = "Nothing is cached that this prompt could be compared with: it is the first one of this API \
                       key, user_id and model, or what was there has been evicted or cleared.";
        return report(None, Cause::Nothing, message.into());
    }
    let here = codec.decode(tokens);
    let there = codec.decode(&[&tokens[..agreed], other.rest].concat());
    let there = there.trim_end_matches(CUT_CHARACTER);
    let at = common_bytes(&here, there);
    let place = field_at::locate(&here, at, &prompt.source);
    let difference = cause::Difference {
        before: &here[..at],
        here: &here[at..],
        there: &there[at..],
        place: &place,
        source: &prompt.source,
    };
    let (cause, message) = difference.explain();
    let divergence = Divergence {
        token: agreed,
        field: place.field,
        offset: place.offset,
        before: tail(&here[..at], SHOWN_CHARS / 2).to_owned(),
        prompt: head(&here[at..], SHOWN_CHARS).to_owned(),
        cached: head(&there[at..], SHOWN_CHARS).to_owned(),
    };
    report(Some(divergence), cause, message)
}

/// As [`compare`], for the engine's lookup result.
pub fn explain(codec: &dyn Codec, prompt: &SourcedPrompt, known: &Explained, may_read: bool) -> Report {
    let other = CachedSequence { agreed: known.closest.agreed, rest: &known.closest.cached };
    let mut report = compare(codec, prompt, other);
    report.tiers = Some((known.memory, known.disk, known.shared));
    let usable = known.memory + known.disk;
    if known.shared == Some(0) && usable + UNUSABLE_MIN <= report.agreed_tokens {
        let windows = format!(
            " Of the {} tokens that agree, {usable} can be used now: what the model's layers with a sliding window need \
             to resume after more is not kept there. Once this prompt was computed, it hits.",
            report.agreed_tokens
        );
        report.message += &windows;
    }
    if !may_read {
        report.cause = Cause::NotRead;
        report.message =
            "The request says that the cache must not be read (cache.read is false, or the header \
                          Cache-Control: no-cache); leave that out and it may hit."
                .into();
    }
    report
}

/// Length of the common prefix in bytes, in whole characters.
fn common_bytes(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    same.map_or(a.len().min(b.len()), |((at, _), _)| at)
}

fn head(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(at, _)| &text[..at])
}

fn tail(text: &str, chars: usize) -> &str {
    text.char_indices().rev().nth(chars.saturating_sub(1)).map_or(text, |(at, _)| &text[at..])
}

#[cfg(test)]
mod tests;
