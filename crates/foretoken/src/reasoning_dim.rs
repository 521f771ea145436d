//! Dims the reasoning of a model (`<think>…</think>`) while it streams to a terminal.
//!
//! The invariant: what comes out, joined, is what went in plus escape sequences around the tags, however
//! the text was cut into pieces.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const DIM_ON: &str = "\x1b[2m";
const DIM_OFF: &str = "\x1b[0m";

/// Takes an answer's text as it comes.
#[derive(Default)]
pub(crate) struct Dimmer {
    inside: bool,
    held: String,
}

impl Dimmer {
    /// A dimmer for an answer whose prompt ended inside `<think>`, if `inside`.
    pub(crate) fn new(inside: bool) -> (Self, &'static str) {
        (Self { inside, held: String::new() }, if inside { DIM_ON } else { "" })
    }

    /// The text to print for `text`; the beginning of a possible tag is held back.
    pub(crate) fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let mut out = String::new();
        loop {
            let tag = if self.inside { CLOSE } else { OPEN };
            let Some(at) = self.held.find(tag) else { break };
            let end = at + tag.len();
            out.push_str(&self.held[..at]);
            out.push_str(&if self.inside { format!("{tag}{DIM_OFF}") } else { format!("{DIM_ON}{tag}") });
            self.held.drain(..end);
            self.inside = !self.inside;
        }
        let tag = if self.inside { CLOSE } else { OPEN };
        let held = (1..tag.len()).rev().find(|&n| self.held.ends_with(&tag[..n])).unwrap_or(0);
        let certain = self.held.len() - held;
        out.extend(self.held.drain(..certain));
        out
    }

    /// The end of the answer: what was held back, and normal brightness.
    pub(crate) fn finish(self) -> String {
        if self.inside { self.held + DIM_OFF } else { self.held }
    }
}

/// The answer without its reasoning, as it belongs into the conversation's history.
pub(crate) fn without_reasoning(answer: &str) -> &str {
    answer.split_once(CLOSE).map_or(answer, |(_, rest)| rest).trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "<think>a < b</think>\n\nYes, <thin</think> air.";

    #[test]
    fn reasoning_is_dimmed_however_the_text_is_cut() {
        let expected = "\x1b[2m<think>a < b</think>\x1b[0m\n\nYes, <thin</think> air.";
        for size in 1..ANSWER.len() {
            let (mut dimmer, mut out) = (Dimmer::default(), String::new());
            for piece in ANSWER.as_bytes().chunks(size) {
                out += &dimmer.push(std::str::from_utf8(piece).unwrap());
            }
            out += &dimmer.finish();
            assert_eq!(out, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_answer_cut_off_while_reasoning_leaves_the_terminal_normal() {
        let (mut dimmer, start) = Dimmer::new(true);
        let out = start.to_owned() + &dimmer.push("hm </th") + &dimmer.finish();
        assert_eq!(out, "\x1b[2mhm </th\x1b[0m");
    }

    #[test]
    fn history_keeps_the_answer_alone() {
        assert_eq!(without_reasoning("<think>hm</think>\n\nYes."), "Yes.");
        assert_eq!(without_reasoning("Yes."), "Yes.");
    }
}
