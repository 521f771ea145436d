//! Why did it miss? From two sequences of tokens that part to a sentence that says what changed and what to do.
//!
//! The caches know tokens only. Here the token at which a prompt leaves the closest cached prefix becomes a
//! character of a field of the request ([`fields`]), and what differs there is compared with what usually does
//! ([`cause`]). Pure: given the tokens, the request and the model's own codec, it asks nobody and changes nothing.
//!
//! It does not decide whose cache is looked at; its callers do. The invariant: a report holds nothing but the
//! caller's own request and text that was cached for the same caller.

mod asked;
mod cause;
mod fields;
mod report;

pub(crate) use asked::several;
pub use asked::{Asked, Source};
pub use cause::Cause;
pub use report::{Divergence, Report};

use foretoken_engine::Explained;

use crate::backend::Codec;

/// Characters of text shown on each side, and before.
const SHOWN_CHARS: usize = 120;
/// What stands for a character of which only the first bytes are there.
const CUT_CHARACTER: char = '\u{FFFD}';

/// The other side: how a cached prompt agrees with the one asked about, and goes on.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// Tokens that are the same from the beginning.
    pub agreed: usize,
    /// The tokens after those, as far as they are known.
    pub goes_on: &'a [u32],
}

/// Says where and why a prompt leaves the other one.
pub fn compare(codec: &dyn Codec, asked: &Asked, other: Other<'_>) -> Report {
    let tokens = &asked.tokens;
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
    if agreed == 0 && other.goes_on.is_empty() {
        let message = "Nothing is cached that this prompt could be compared with: it is the first one of this API \
                       key, user_id and model, or what was there has been evicted or cleared.";
        return report(None, Cause::Nothing, message.into());
    }
    let here = codec.decode(tokens);
    let there = codec.decode(&[&tokens[..agreed], other.goes_on].concat());
    let there = there.trim_end_matches(CUT_CHARACTER);
    let at = common_bytes(&here, there);
    let place = fields::locate(&here, at, &asked.source);
    let difference = cause::Difference {
        before: &here[..at],
        here: &here[at..],
        there: &there[at..],
        place: &place,
        source: &asked.source,
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

/// As [`compare`], for what the engine knows of a prompt.
pub fn explain(codec: &dyn Codec, asked: &Asked, known: &Explained, may_read: bool) -> Report {
    let other = Other { agreed: known.closest.agreed, goes_on: &known.closest.cached };
    let mut report = compare(codec, asked, other);
    report.tiers = Some((known.memory, known.disk, known.shared));
    if !may_read {
        report.cause = Cause::NotRead;
        report.message =
            "The request says that the cache must not be read (cache.read is false, or the header \
                          Cache-Control: no-cache); leave that out and it may hit."
                .into();
    }
    report
}

/// Bytes in which two texts agree, in whole characters.
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
