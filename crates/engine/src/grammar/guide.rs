//! Checks drafts against a grammar and finds forced tokens, without touching the parser that decides the answer.
//!
//! It has a parser of its own, which follows the answer and goes ahead along paths of the draft tree and back. The
//! invariant: between two calls it is somewhere after the answer's last token, on `path`. If its parser fails, it allows
//! everything and forces nothing: drafts are then verified for nothing, and no answer changes.

use llguidance::Matcher;

/// See the [module](self).
pub(crate) struct Guide {
    parser: Option<Matcher>,
    /// Tokens of the answer that the parser has not consumed yet.
    behind: Vec<u32>,
    /// Draft tokens that the parser has consumed after the answer.
    path: Vec<u32>,
    /// Tokens that must follow the answer, as the parser that decides has found.
    ahead: Vec<u32>,
}

impl Guide {
    pub(super) fn new(parser: Matcher) -> Guide {
        Guide { parser: Some(parser), behind: Vec::new(), path: Vec::new(), ahead: Vec::new() }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.parser.is_some()
    }

    /// Follows the answer by a token.
    pub(super) fn accept(&mut self, token: u32) {
        self.behind.push(token);
        match self.ahead.first() == Some(&token) {
            true => drop(self.ahead.remove(0)),
            false => self.ahead.clear(),
        }
    }

    /// Learns which tokens must follow the answer.
    pub(super) fn expect(&mut self, forced: &[u32]) {
        self.ahead.clear();
        self.ahead.extend(forced);
    }

    /// Whether the draft token may follow the draft tokens `path`.
    pub(crate) fn allows(&mut self, path: &[u32], token: u32) -> bool {
        let forced = self.forced(path);
        if let Some(&first) = forced.first() {
            return first == token;
        }
        if !self.is_alive() {
            return true;
        }
        // Nothing follows a complete text.
        self.path == path && self.with(|parser| parser.validate_tokens(&[token]).ok()) != Some(0)
    }

    /// The tokens that must follow the draft tokens `path`.
    pub(crate) fn forced(&mut self, path: &[u32]) -> Vec<u32> {
        if let Some(rest) = self.ahead.strip_prefix(path).filter(|rest| !rest.is_empty()) {
            return rest.to_vec();
        }
        if !self.go_to(path) {
            return Vec::new();
        }
        self.with(|parser| {
            let forced = if parser.is_stopped() { Vec::new() } else { parser.compute_ff_tokens() };
            (!parser.is_error()).then_some(forced)
        })
        .unwrap_or_default()
    }

    /// Follows the answer to its end.
    fn catch_up(&mut self) -> Option<()> {
        if self.behind.is_empty() {
            return Some(());
        }
        let back = std::mem::take(&mut self.path).len();
        let behind = std::mem::take(&mut self.behind);
        self.with(|parser| {
            parser.rollback(back).ok()?;
            parser.consume_tokens(&behind).ok()
        })
    }

    /// Goes to the end of `path`; false if the grammar does not allow it.
    fn go_to(&mut self, path: &[u32]) -> bool {
        if self.catch_up().is_none() {
            return false;
        }
        let common = self.path.iter().zip(path).take_while(|(a, b)| a == b).count();
        let back = self.path.len() - common;
        if back > 0 {
            self.path.truncate(common);
            if self.with(|parser| parser.rollback(back).ok()).is_none() {
                return false;
            }
        }
        for &token in &path[common..] {
            let taken = self.with(|parser| match parser.is_stopped() {
                true => Some(0),
                false => parser.try_consume_tokens(&[token]).ok(),
            });
            if taken != Some(1) {
                return false;
            }
            self.path.push(token);
        }
        self.is_alive()
    }

    /// Uses the parser, and gives it up if it fails.
    fn with<T>(&mut self, use_it: impl FnOnce(&mut Matcher) -> Option<T>) -> Option<T> {
        let result = use_it(self.parser.as_mut()?);
        if result.is_none() {
            self.parser = None;
        }
        result
    }
}
