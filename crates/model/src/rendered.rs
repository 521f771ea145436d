//! A rendered prompt: control tokens written by the template, and plain text. Chat templates produce it, the
//! tokenizer encodes it; the file stands outside both so that they do not import each other.

use crate::special_texts::SpecialTexts;

/// The output of a template, in order. Only [`Segment::Control`] encodes to control tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    segments: Vec<Segment>,
    text: String,
}

/// A segment of a rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A control token that the template itself wrote.
    Control(u32),
    /// Plain text, even if it spells a control token.
    Text(String),
}

impl Rendered {
    /// Finds the control tokens in `marked`, then removes the marks.
    pub(crate) fn new(marked: &str, mark: char, control: &SpecialTexts) -> Self {
        let clean = |text: &str| text.replace(mark, "");
        let mut segments = Vec::new();
        let mut end = 0;
        for token in control.split_points(marked) {
            if token.start > end {
                segments.push(Segment::Text(clean(&marked[end..token.start])));
            }
            segments.push(Segment::Control(token.id));
            end = token.end;
        }
        if end < marked.len() {
            segments.push(Segment::Text(clean(&marked[end..])));
        }
        Rendered { segments, text: clean(marked) }
    }

    /// The segments. No text is empty and no two text segments are adjacent.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The whole prompt as one string. It no longer tells control tokens from text that spells them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the prompt ends inside a `<think>` that the template opened, as DeepSeek-R1's does: the response
    /// then starts with reasoning.
    pub fn opens_reasoning(&self) -> bool {
        self.text.trim_end().ends_with("<think>")
    }
}
