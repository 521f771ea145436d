//! Which drafter proposed which stretch of a text.

use foretoken_engine::Source;

/// Stretches of a text, in bytes, with the drafter of their tokens; `None` where nothing was drafted. Together they are the
/// text, and neighbours differ. A stretch may end within a character whose bytes came with two tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drafted(Vec<(usize, Option<Source>)>);

impl Drafted {
    pub(super) fn push(&mut self, bytes: usize, source: Option<Source>) {
        match self.0.last_mut() {
            _ if bytes == 0 => {}
            Some((last, by)) if *by == source => *last += bytes,
            _ => self.0.push((bytes, source)),
        }
    }

    pub(super) fn append(&mut self, more: Drafted) {
        more.0.into_iter().for_each(|(bytes, source)| self.push(bytes, source));
    }

    /// The stretches of `text`, whose drafters these are. A character belongs to the token that began it.
    pub(crate) fn stretches<'a>(&self, text: &'a str) -> Vec<(&'a str, Option<Source>)> {
        let (mut from, mut end) = (0, 0);
        let mut stretches = Vec::with_capacity(self.0.len());
        for &(bytes, source) in &self.0 {
            end += bytes;
            let to = text.ceil_char_boundary(end);
            if to > from {
                stretches.push((&text[from..to], source));
                from = to;
            }
        }
        stretches
    }
}
