//! Dims the reasoning of a model (`<think>…</think>`) while it streams to a terminal.
//!
//! Invariant: the concatenated output is the concatenated input plus escape sequences around the tags,
//! however the input is chunked.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
pub(crate) const DIM_ON: &str = "\x1b[2m";
pub(crate) const DIM_OFF: &str = "\x1b[0m";

/// Streaming filter over the text of one response.
#[derive(Default)]
pub(crate) struct Dimmer {
    inside: bool,
    pending: String,
}

impl Dimmer {
    /// `inside`: the prompt already ended inside `<think>`. Also returns the escape sequence to print first.
    pub(crate) fn new(inside: bool) -> (Self, &'static str) {
        (Self { inside, pending: String::new() }, if inside { DIM_ON } else { "" })
    }

    /// The output for `text`; a trailing partial tag is buffered.
    pub(crate) fn push(&mut self, text: &str) -> String {
        self.pending.push_str(text);
        let mut out = String::new();
        loop {
            let tag = if self.inside { CLOSE } else { OPEN };
            let Some(at) = self.pending.find(tag) else { break };
            let end = at + tag.len();
            out.push_str(&self.pending[..at]);
            out.push_str(&if self.inside { format!("{tag}{DIM_OFF}") } else { format!("{DIM_ON}{tag}") });
            self.pending.drain(..end);
            self.inside = !self.inside;
        }
        let tag = if self.inside { CLOSE } else { OPEN };
        let pending = (1..tag.len()).rev().find(|&n| self.pending.ends_with(&tag[..n])).unwrap_or(0);
        let certain = self.pending.len() - pending;
        out.extend(self.pending.drain(..certain));
        out
    }

    /// End of the response: the buffered text, then normal brightness.
    pub(crate) fn finish(self) -> String {
        if self.inside { self.pending + DIM_OFF } else { self.pending }
    }
}

/// The response without its reasoning, as chat templates expect it in the history.
pub(crate) fn without_reasoning(answer: &str) -> &str {
    answer.split_once(CLOSE).map_or(answer, |(_, rest)| rest).trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "<think>a < b</think>\n\nYes, <thin</think> air.";

    #[test]
    fn reasoning_is_dimmed_however_the_text_is_chunked() {
        let expected = "\x1b[2m<think>a < b</think>\x1b[0m\n\nYes, <thin</think> air.";
        for size in 1..ANSWER.len() {
            let (mut dimmer, mut out) = (Dimmer::default(), String::new());
            for piece in ANSWER.as_bytes().chunks(size) {
                out += &dimmer.push(std::str::from_utf8(piece).unwrap());
            }
            out += &dimmer.finish();
            assert_eq!(out, expected, "in chunks of {size}");
        }
    }

    #[test]
    fn a_response_truncated_in_its_reasoning_resets_the_terminal() {
        let (mut dimmer, start) = Dimmer::new(true);
        let out = start.to_owned() + &dimmer.push("hm </th") + &dimmer.finish();
        assert_eq!(out, "\x1b[2mhm </th\x1b[0m");
    }

    #[test]
    fn history_drops_the_reasoning() {
        assert_eq!(without_reasoning("<think>hm</think>\n\nYes."), "Yes.");
        assert_eq!(without_reasoning("Yes."), "Yes.");
    }
}
