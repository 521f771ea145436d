//! Splits an answer into reasoning and content.
//!
//! Reasoning models write `<think>…</think>` before the answer, or only the closing tag where the prompt
//! opened it. Only tags at the start count: a later `<think>` is ordinary content. The invariant: the output,
//! concatenated per kind, does not depend on how the text was split into pushes. White space around the reasoning
//! belongs to neither part.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text between the tags.
    Reasoning(String),
    /// Text after them.
    Content(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Only white space or a partial opening tag so far.
    Start,
    /// After the opening tag, before the first visible character.
    ReasoningStart,
    Reasoning,
    /// After the closing tag, before the first visible character.
    ContentStart,
    Content,
}

/// Splits a response incrementally.
#[derive(Clone, Debug)]
pub(crate) struct Splitter {
    state: State,
    held: String,
}

impl Splitter {
    /// `inside`: the prompt ended with the opening tag.
    pub(crate) fn new(inside: bool) -> Self {
        let state = if inside { State::ReasoningStart } else { State::Start };
        Splitter { state, held: String::new() }
    }

    /// Whether the next text would be reasoning.
    pub(crate) fn is_reasoning(&self) -> bool {
        matches!(self.state, State::ReasoningStart | State::Reasoning)
    }

    /// Takes the next text and appends the parts that are now certain.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// Ends the response: held-back text is emitted as text.
    pub(crate) fn finish(&mut self, out: &mut Vec<Part>) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::ReasoningStart => emit(out, Part::Reasoning(held.trim().into())),
            State::Reasoning => emit(out, Part::Reasoning(held.trim_end().into())),
            State::Start | State::ContentStart | State::Content => emit(out, Part::Content(held)),
        }
    }

    /// One state transition; false if more text is needed.
    fn step(&mut self, out: &mut Vec<Part>) -> bool {
        match self.state {
            State::Start => {
                let visible = self.held.trim_start();
                if let Some(rest) = visible.strip_prefix(OPEN) {
                    self.held = rest.into();
                    self.state = State::ReasoningStart;
                    return true;
                }
                if OPEN.starts_with(visible) {
                    return false;
                }
                self.state = State::Content;
                true
            }
            State::ReasoningStart => {
                self.held = self.held.trim_start().into();
                if self.held.is_empty() {
                    return false;
                }
                self.state = State::Reasoning;
                true
            }
            State::Reasoning => self.reason(out),
            State::ContentStart => {
                self.held = self.held.trim_start().into();
                if self.held.is_empty() {
                    return false;
                }
                self.state = State::Content;
                true
            }
            State::Content => {
                emit(out, Part::Content(std::mem::take(&mut self.held)));
                false
            }
        }
    }

    fn reason(&mut self, out: &mut Vec<Part>) -> bool {
        if let Some(at) = self.held.find(CLOSE) {
            emit(out, Part::Reasoning(self.held[..at].trim_end().into()));
            self.held.drain(..at + CLOSE.len());
            self.state = State::ContentStart;
            return true;
        }
        let certain = certain_len(&self.held, CLOSE);
        emit(out, Part::Reasoning(self.held.drain(..certain).collect()));
        false
    }
}

/// Bytes of `text` that no continuation can change, given that `tag` strips the white space before it: all but a
/// partial tag at the end and the white space before that.
pub(crate) fn certain_len(text: &str, tag: &str) -> usize {
    let partial = (1..tag.len()).rev().find(|&len| text.ends_with(&tag[..len])).unwrap_or(0);
    text[..text.len() - partial].trim_end().len()
}

fn emit(out: &mut Vec<Part>, part: Part) {
    let (Part::Reasoning(text) | Part::Content(text)) = &part;
    if !text.is_empty() {
        out.push(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(inside: bool, pieces: &[&str]) -> (String, String) {
        let mut splitter = Splitter::new(inside);
        let mut parts = Vec::new();
        for piece in pieces {
            splitter.push(piece, &mut parts);
        }
        splitter.finish(&mut parts);
        let (mut reasoning, mut content) = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Reasoning(text) => {
                    assert!(content.is_empty(), "reasoning after content");
                    reasoning.push_str(&text);
                }
                Part::Content(text) => content.push_str(&text),
            }
        }
        (reasoning, content)
    }

    #[test]
    fn splits_at_the_tags() {
        let cases = [
            (false, "hello", "", "hello"),
            (false, " hello ", "", " hello "),
            (false, "<think>\nwhy\n</think>\n\nbecause", "why", "because"),
            (true, "\nwhy</think>because", "why", "because"),
            (true, "still thinking <", "still thinking <", ""),
            (true, "  ", "", ""),
            (false, "<think>\n\n</think>\n\nfast", "", "fast"),
            (false, "<thin", "", "<thin"),
            (false, "a <think>b</think>", "", "a <think>b</think>"),
            (true, "a < b </ c </think> d </think>", "a < b </ c", "d </think>"),
        ];
        for (inside, text, reasoning, content) in cases {
            assert_eq!(split(inside, &[text]), (reasoning.into(), content.into()), "{text:?}");
        }
    }

    #[test]
    fn streams_certain_text_immediately() {
        let mut splitter = Splitter::new(true);
        let mut parts = Vec::new();
        splitter.push("one two", &mut parts);
        assert_eq!(parts, [Part::Reasoning("one two".into())]);
        splitter.push(" </thi", &mut parts);
        assert_eq!(parts.len(), 1);
        splitter.push("s", &mut parts);
        assert_eq!(parts[1], Part::Reasoning(" </this".into()));
    }

    proptest! {
        #[test]
        fn result_is_independent_of_chunking(
            inside: bool,
            words in prop::collection::vec(
                prop::sample::select(vec!["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "é", "a"]),
                0..12,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text = words.concat();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.retain(|&cut| text.is_char_boundary(cut));
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(inside, &pieces), split(inside, &[&text]));
        }
    }
}
