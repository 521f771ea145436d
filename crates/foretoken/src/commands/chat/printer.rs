//! Prints an answer as it streams: wrapped at words, reasoning dimmed or drafted tokens coloured.
//!
//! Where standard output is no terminal, the text is written as it is. Keeps the text for the conversation.

use std::io::{IsTerminal, StdoutLock, Write};

use anyhow::Result;

use super::backend::Piece;
use crate::draft_colors::paint;
use crate::output;
use crate::reasoning_dim::{DIM_OFF, DIM_ON, Dimmer};
use crate::word_wrap::WordWrap;

/// How answers are shown.
#[derive(Clone, Copy)]
pub(super) struct View {
    /// Wrap lines at words.
    pub(super) wrap: bool,
    /// Colour tokens by drafter.
    pub(super) show_draft: bool,
}

/// The state of one answer.
pub(super) struct Printer {
    out: StdoutLock<'static>,
    show_draft: bool,
    /// Dims `<think>` in the text; only on a terminal.
    dimmer: Option<Dimmer>,
    wrap: Option<WordWrap>,
    /// Separated reasoning was printed last.
    after_reasoning: bool,
    /// Anything was printed.
    printed: bool,
    text: String,
}

impl Printer {
    pub(super) fn new(view: View) -> Printer {
        let terminal = std::io::stdout().is_terminal();
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        let width = width.filter(|_| terminal && view.wrap);
        Printer {
            out: output::stdout(),
            show_draft: view.show_draft,
            dimmer: (terminal && !view.show_draft).then(Dimmer::default),
            wrap: width.map(WordWrap::new),
            after_reasoning: false,
            printed: false,
            text: String::new(),
        }
    }

    pub(super) fn show_draft(&self) -> bool {
        self.show_draft
    }

    /// Prints a piece.
    pub(super) fn piece(&mut self, piece: &Piece<'_>) -> Result<()> {
        match piece {
            Piece::OpensReasoning => {
                let Some(dimmer) = &mut self.dimmer else { return Ok(()) };
                let start;
                (*dimmer, start) = Dimmer::new(true);
                self.write(start)
            }
            Piece::Reasoning(text) => {
                self.after_reasoning = true;
                match self.dimmer {
                    Some(_) => self.write(&format!("{DIM_ON}{text}{DIM_OFF}")),
                    None => self.write(text),
                }
            }
            Piece::Text(text, source) => {
                if std::mem::take(&mut self.after_reasoning) {
                    self.write("\n\n")?;
                }
                self.text.push_str(text);
                let shown = match &mut self.dimmer {
                    Some(dimmer) => dimmer.push(text),
                    None => paint(text, source.filter(|_| self.show_draft)),
                };
                self.write(&shown)
            }
        }
    }

    /// Ends the answer's last line, if it has one: an answer that failed before its first text has none. Returns the
    /// text.
    pub(super) fn finish(mut self, complete: bool) -> Result<String> {
        if let Some(dimmer) = self.dimmer.take() {
            let rest = dimmer.finish();
            self.write(&rest)?;
        }
        let rest = self.wrap.take().map_or_else(String::new, WordWrap::finish);
        if complete || self.printed {
            writeln!(self.out, "{rest}")?;
        }
        Ok(self.text)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.printed |= !text.is_empty();
        match &mut self.wrap {
            Some(wrap) => self.out.write_all(wrap.push(text).as_bytes())?,
            None => self.out.write_all(text.as_bytes())?,
        }
        Ok(self.out.flush()?)
    }
}
