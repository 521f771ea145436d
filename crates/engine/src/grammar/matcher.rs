//! Where one answer is in its grammar.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compile::{Compiled, lock};
use super::{Allowed, Guide, Reasoning};

/// Ends reasoning.
pub(super) const CLOSE: &str = "</think>";
/// Begins it.
pub(super) const OPEN: &str = "<think>";

/// Why a grammar ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is complete, and nothing can follow.
    Complete,
    /// It takes more work than a request may cause. The answer is incomplete.
    Limit,
}

/// What is being matched.
enum Phase {
    /// Nothing yet: the answer, or first reasoning, which this token begins.
    Start { open: u32 },
    /// Reasoning. The last bytes of it, too few for the closing tag.
    Reasoning(Vec<u8>),
    /// The answer.
    Answer,
}

/// See the [module](self). One per sequence.
pub(crate) struct Matcher {
    compiled: Arc<Compiled>,
    phase: Phase,
    parser: llguidance::Matcher,
    allowed: Allowed,
    guide: Option<Guide>,
    masks: u64,
    masks_took: Duration,
}

impl Matcher {
    /// A matcher at the start of an answer. `drafts`: its sequence speculates.
    pub(super) fn new(compiled: &Arc<Compiled>, reasoning: Reasoning, drafts: bool) -> Matcher {
        let fresh = || lock(&compiled.fresh).deep_clone();
        let first = Allowed::Only(compiled.first.clone());
        let (phase, allowed) = match (reasoning, compiled.tags.open) {
            (Reasoning::Open, _) => (Phase::Reasoning(Vec::new()), compiled.tags.allowed_after(&[])),
            (Reasoning::Possible, Some(open)) => {
                let mut allowed = first;
                allowed.add(open);
                (Phase::Start { open }, allowed)
            }
            (Reasoning::Never | Reasoning::Possible, _) => (Phase::Answer, first),
        };
        let guide = drafts.then(|| Guide::new(fresh()));
        Matcher {
            compiled: Arc::clone(compiled),
            phase,
            parser: fresh(),
            allowed,
            guide,
            masks: 0,
            masks_took: Duration::ZERO,
        }
    }

    /// The tokens that may come next.
    pub(crate) fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// Masks computed so far, and the time that they took.
    pub(crate) fn cost(&self) -> (u64, Duration) {
        (self.masks, self.masks_took)
    }

    /// What knows which drafts may come next; `None` where everything may.
    pub(crate) fn guide(&mut self) -> Option<&mut Guide> {
        match self.phase {
            Phase::Start { .. } | Phase::Answer => self.guide.as_mut().filter(|guide| guide.is_alive()),
            Phase::Reasoning(_) => None,
        }
    }

    /// Takes the next token of the answer, one of those allowed, with its bytes of text. `more`: another will be sampled.
    pub(crate) fn accept(&mut self, token: u32, bytes: &[u8], more: bool) -> Option<End> {
        match &mut self.phase {
            Phase::Start { open } if *open == token => {
                self.phase = Phase::Reasoning(Vec::new());
                self.allowed = self.compiled.tags.allowed_after(&[]);
                None
            }
            Phase::Reasoning(tail) => {
                tail.extend_from_slice(bytes);
                let close = CLOSE.as_bytes();
                if tail.windows(close.len()).any(|window| window == close) {
                    // Only white space may follow in the same token, and the answer begins after it.
                    self.phase = Phase::Answer;
                    self.allowed = Allowed::Only(self.compiled.first.clone());
                } else {
                    tail.drain(..tail.len().saturating_sub(close.len() - 1));
                    self.allowed = self.compiled.tags.allowed_after(tail);
                }
                None
            }
            Phase::Start { .. } | Phase::Answer => {
                self.phase = Phase::Answer;
                if let Some(guide) = &mut self.guide {
                    guide.accept(token);
                }
                self.advance(token, more)
            }
        }
    }

    fn advance(&mut self, token: u32, more: bool) -> Option<End> {
        let limit = |error: String| {
            tracing::warn!("a constrained answer is cut short: {}", first_line(&error));
            Some(End::Limit)
        };
        if let Err(error) = self.parser.consume_token(token) {
            return limit(error.to_string());
        }
        if self.parser.is_stopped() {
            return Some(End::Complete);
        }
        if !more {
            return None;
        }
        let start = Instant::now();
        let mask = self.parser.compute_mask();
        self.masks += 1;
        self.masks_took += start.elapsed();
        match mask {
            Ok(mask) => self.allowed = Allowed::Only(mask),
            Err(error) => return limit(error.to_string()),
        }
        None
    }
}

/// What an error of the parser says first; the rest is its state.
pub(super) fn first_line(error: &str) -> &str {
    error.lines().next().unwrap_or_default()
}
