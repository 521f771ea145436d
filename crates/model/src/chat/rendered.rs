//! A rendered prompt: the template's control tokens, and text.

use crate::tokenizer::SpecialTexts;

/// What a template wrote, in order. Only [`Segment::Control`] becomes control tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    segments: Vec<Segment>,
    text: String,
}

/// A piece of a rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A control token that the template itself wrote.
    Control(u32),
    /// Text, whatever it looks like.
    Text(String),
}

impl Rendered {
    /// Finds the control tokens in `marked`, then takes the marks out.
    pub(super) fn new(marked: &str, mark: char, control: &SpecialTexts) -> Self {
        let clean = |text: &str| text.replace(mark, "");
        let mut segments = Vec::new();
        let mut end = 0;
        for cut in control.cuts(marked) {
            if cut.start > end {
                segments.push(Segment::Text(clean(&marked[end..cut.start])));
            }
            segments.push(Segment::Control(cut.id));
            end = cut.end;
        }
        if end < marked.len() {
            segments.push(Segment::Text(clean(&marked[end..])));
        }
        Rendered { segments, text: clean(marked) }
    }

    /// The pieces. No text is empty, no two texts are neighbours.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The whole prompt as one string; what is a control token in it and what isn't can't be told any more.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the prompt ends inside a `<think>` that the template opened, as DeepSeek-R1's does: the answer
    /// then starts with reasoning.
    pub fn opens_reasoning(&self) -> bool {
        self.text.trim_end().ends_with("<think>")
    }
}
