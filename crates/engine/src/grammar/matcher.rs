//! Where one answer is in its grammar.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compile::{Compiled, lock};
use super::{Allowed, Guide, Reasoning};
use crate::api::GrammarTimes;

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
    /// Free text before a call. The last bytes of it.
    Text(Vec<u8>),
    /// What the grammar is of.
    Answer,
}

/// See the [module](self). One per sequence.
pub(crate) struct Matcher {
    compiled: Arc<Compiled>,
    phase: Phase,
    parser: llguidance::Matcher,
    allowed: Allowed,
    /// Whether `allowed` is not known yet: for one token it is cheaper to ask for that alone.
    unmasked: bool,
    /// Tokens that must come next, if any must: as the tokenizer spells the text that the grammar forces.
    forced: VecDeque<u32>,
    guide: Option<Guide>,
    times: GrammarTimes,
    /// Time that the next token has taken so far.
    spent: Duration,
}

impl Matcher {
    /// A matcher at the start of an answer. `drafts`: its sequence speculates.
    pub(super) fn new(compiled: &Arc<Compiled>, reasoning: Reasoning, drafts: bool) -> Matcher {
        let fresh = || lock(&compiled.fresh).deep_clone();
        let mut matcher = Matcher {
            compiled: Arc::clone(compiled),
            phase: Phase::Answer,
            parser: fresh(),
            allowed: Allowed::AllBut(Vec::new()),
            unmasked: false,
            forced: VecDeque::new(),
            guide: drafts.then(|| Guide::new(fresh())),
            times: GrammarTimes::default(),
            spent: Duration::ZERO,
        };
        matcher.begin();
        match (reasoning, compiled.tags.open) {
            (Reasoning::Open, _) => matcher.reason(),
            (Reasoning::Possible, Some(open)) => {
                if !compiled.after_call_tag {
                    let mut first = compiled.first.clone();
                    first.allow_token(open);
                    matcher.allowed = Allowed::Only(first);
                    matcher.expect(Vec::new());
                }
                matcher.phase = Phase::Start { open };
            }
            (Reasoning::Never | Reasoning::Possible, _) => {}
        }
        matcher
    }

    /// The tokens that must come next, in order, as far as they are known.
    pub(crate) fn forced(&self) -> impl ExactSizeIterator<Item = u32> {
        self.forced.iter().copied()
    }

    /// Whether what may come next is not known yet.
    pub(crate) fn is_unmasked(&self) -> bool {
        self.unmasked
    }

    /// Whether a token may come next, where that is cheaper to tell than what else may: `None` if
    /// [`allowed`](Self::allowed) is.
    pub(crate) fn allows(&mut self, token: u32) -> Option<bool> {
        if !self.unmasked {
            return None;
        }
        let start = Instant::now();
        // A token without text would change nothing, and never ends.
        let has_text = self.parser.tok_env().is_ok_and(|env| !env.tok_trie().token(token).is_empty());
        let allows = has_text && self.parser.validate_tokens(&[token]).is_ok_and(|valid| valid == 1);
        self.spent += start.elapsed();
        Some(allows)
    }

    /// The tokens that may come next.
    ///
    /// # Errors
    /// It takes too much work to tell. The answer ends without another token.
    pub(crate) fn allowed(&mut self) -> Result<&Allowed, End> {
        if self.unmasked {
            let start = Instant::now();
            let mask = self.parser.compute_mask();
            self.spent += start.elapsed();
            self.allowed = Allowed::Only(mask.map_err(|error| limit(&error.to_string()))?);
            self.unmasked = false;
        }
        Ok(&self.allowed)
    }

    /// Time taken so far.
    pub(crate) fn times(&self) -> GrammarTimes {
        self.times
    }

    /// What knows which drafts may come next; `None` where everything may.
    pub(crate) fn guide(&mut self) -> Option<&mut Guide> {
        let constrains = match self.phase {
            Phase::Answer => true,
            Phase::Start { .. } => !self.compiled.after_call_tag,
            Phase::Reasoning(_) | Phase::Text(_) => false,
        };
        self.guide.as_mut().filter(|guide| constrains && guide.is_alive())
    }

    /// Takes the next token of the answer, one of those allowed, with its bytes of text. `more`: another will be sampled.
    pub(crate) fn accept(&mut self, token: u32, bytes: &[u8], more: bool) -> Option<End> {
        let tags = Arc::clone(&self.compiled.tags);
        match &mut self.phase {
            Phase::Start { open } if *open == token => {
                self.reason();
                None
            }
            Phase::Start { .. } => {
                self.begin();
                self.accept(token, bytes, more)
            }
            Phase::Reasoning(tail) => {
                // Only white space may follow in the same token, and what is matched begins after it.
                match tags.close.find(tail, bytes) {
                    true => self.begin(),
                    false => self.allowed = tags.in_reasoning(tail),
                }
                None
            }
            Phase::Text(tail) => {
                match tags.call.find(tail, bytes) {
                    true => self.answer(),
                    false => self.allowed = tags.in_text(tail),
                }
                None
            }
            Phase::Answer => {
                if let Some(guide) = &mut self.guide {
                    guide.accept(token);
                }
                let start = Instant::now();
                let end = self.advance(token, more);
                // What was spent before is this token's, too.
                self.times.record(std::mem::take(&mut self.spent) + start.elapsed());
                match end {
                    Some(End::Complete) if self.compiled.after_call_tag => {
                        self.restart();
                        None
                    }
                    end => end,
                }
            }
        }
    }

    fn reason(&mut self) {
        self.unmasked = false;
        self.expect(Vec::new());
        self.allowed = self.compiled.tags.in_reasoning(&[]);
        self.phase = Phase::Reasoning(Vec::new());
    }

    /// Goes to what comes after reasoning.
    fn begin(&mut self) {
        self.unmasked = false;
        if self.compiled.after_call_tag {
            self.expect(Vec::new());
            self.allowed = self.compiled.tags.in_text(&[]);
            self.phase = Phase::Text(Vec::new());
        } else {
            self.answer();
        }
    }

    /// Goes to where the grammar begins. Its parser has consumed nothing.
    fn answer(&mut self) {
        self.phase = Phase::Answer;
        self.expect(self.compiled.forced.clone());
        if self.forced.is_empty() {
            self.allowed = Allowed::Only(self.compiled.first.clone());
        }
    }

    /// Sets the tokens that must come next.
    fn expect(&mut self, forced: Vec<u32>) {
        if let Some(&first) = forced.first() {
            self.allowed = Allowed::One(first);
        }
        if let Some(guide) = &mut self.guide {
            guide.expect(&forced);
        }
        self.forced = forced.into();
    }

    /// Goes back to free text after a call.
    fn restart(&mut self) {
        let fresh = || lock(&self.compiled.fresh).deep_clone();
        self.parser = fresh();
        self.guide = self.guide.take().map(|_| Guide::new(fresh()));
        self.begin();
    }

    fn advance(&mut self, token: u32, more: bool) -> Option<End> {
        if let Err(error) = self.parser.consume_token(token) {
            return Some(limit(&error.to_string()));
        }
        if self.parser.is_stopped() {
            return Some(End::Complete);
        }
        if self.forced.pop_front() == Some(token)
            && let Some(&next) = self.forced.front()
        {
            self.allowed = Allowed::One(next);
            return None;
        }
        if !more {
            return None;
        }
        let forced = self.parser.compute_ff_tokens();
        if let Some(error) = self.parser.get_error() {
            return Some(limit(&error));
        }
        self.unmasked = forced.is_empty();
        self.expect(forced);
        None
    }
}

/// Says that an answer ends because its grammar takes too much work.
fn limit(error: &str) -> End {
    tracing::warn!("a constrained answer is cut short: {}", first_line(error));
    End::Limit
}

/// What an error of the parser says first; the rest is its state.
pub(super) fn first_line(error: &str) -> &str {
    error.lines().next().unwrap_or_default()
}
