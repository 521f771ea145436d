//! Breaks streamed text into lines at words, for a terminal.
//!
//! Text comes in chunks of any size; a word is written when the text after it shows where it ends (Unicode line
//! breaking, UAX 14). Escape sequences have no width. Code blocks and tables keep their lines. Invariant: the
//! visible output is the input, except that spaces at a line break become the break.

use unicode_linebreak::linebreaks;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const ESCAPE: char = '\x1b';
const FENCE: &str = "```";

/// The state of one answer.
pub(crate) struct WordWrap {
    width: usize,
    /// Columns written on the current line.
    column: usize,
    /// Spaces not written yet: they are dropped if the next word begins a line.
    spaces: usize,
    /// Visible text whose break opportunities are not known yet.
    pending: String,
    /// Escape sequences in `pending`, by the byte offset they stand before.
    escapes: Vec<(usize, String)>,
    /// An escape sequence that is not complete yet.
    escape: String,
    /// The first characters of the current line, as far as they decide whether it is wrapped.
    line_start: String,
    in_fence: bool,
}

impl WordWrap {
    /// Wraps at `width` columns.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width: width.max(1),
            column: 0,
            spaces: 0,
            pending: String::new(),
            escapes: Vec::new(),
            escape: String::new(),
            line_start: String::new(),
            in_fence: false,
        }
    }

    /// The output for a chunk of text; a word that may go on is kept back.
    pub(crate) fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            if c == ESCAPE || !self.escape.is_empty() {
                self.push_escape(c);
            } else if c == '\n' {
                self.end_line(&mut out);
            } else {
                if self.line_start.len() < FENCE.len() && !(self.line_start.is_empty() && c == ' ') {
                    self.line_start.push(c);
                }
                self.pending.push(c);
            }
        }
        if self.keeps_line() {
            self.write(self.pending.len(), &mut out);
            return out;
        }
        let len = self.pending.len();
        let breaks: Vec<usize> = linebreaks(&self.pending).map(|(at, _)| at).filter(|&at| at < len).collect();
        let mut written = 0;
        for at in breaks {
            self.write(at - written, &mut out);
            written = at;
        }
        out
    }

    /// The rest of the answer.
    pub(crate) fn finish(mut self) -> String {
        let mut out = String::new();
        self.write(self.pending.len(), &mut out);
        out.extend(self.escapes.drain(..).map(|(_, escape)| escape));
        out + &self.escape
    }

    fn push_escape(&mut self, c: char) {
        self.escape.push(c);
        if self.escape.len() > 1 && c.is_ascii_alphabetic() {
            self.escapes.push((self.pending.len(), std::mem::take(&mut self.escape)));
        }
    }

    fn end_line(&mut self, out: &mut String) {
        self.write(self.pending.len(), out);
        self.in_fence ^= self.line_start == FENCE;
        out.push('\n');
        (self.column, self.spaces) = (0, 0);
        self.line_start.clear();
    }

    /// Whether the current line is code or a row of a table.
    fn keeps_line(&self) -> bool {
        self.in_fence || self.line_start == FENCE || self.line_start.starts_with('|')
    }

    /// Writes the first `bytes` of the pending text, which may begin a line.
    fn write(&mut self, bytes: usize, out: &mut String) {
        let keeps = self.keeps_line();
        let segment: String = self.pending.drain(..bytes).collect();
        let word = if keeps { segment.as_str() } else { segment.trim_end_matches(' ') };
        if !word.is_empty() {
            let width = word.width();
            if !keeps && self.column > 0 && self.column + self.spaces + width > self.width {
                out.push('\n');
                (self.column, self.spaces) = (0, 0);
            }
            out.extend(std::iter::repeat_n(' ', self.spaces));
            self.column += self.spaces;
            self.spaces = 0;
            self.column = match keeps || self.column + width <= self.width {
                true => self.column + width,
                false => self.broken_by_terminal(word),
            };
        }
        self.spaces += segment.len() - word.len();
        let mut escapes = std::mem::take(&mut self.escapes).into_iter().peekable();
        for (at, c) in segment.char_indices() {
            while let Some((_, escape)) = escapes.next_if(|(before, _)| *before == at) {
                *out += &escape;
            }
            if at < word.len() {
                out.push(c);
            }
        }
        self.escapes = escapes.map(|(before, escape)| (before - bytes, escape)).collect();
    }

    /// The column after a word that is longer than a line: the terminal breaks it, and not inside a wide character.
    fn broken_by_terminal(&self, word: &str) -> usize {
        word.chars().fold(self.column, |column, c| {
            let width = c.width().unwrap_or(0);
            if column + width > self.width { width } else { column + width }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wraps `text` in chunks of so many characters.
    fn wrap(width: usize, text: &str, chunk: usize) -> String {
        let (mut wrap, mut out) = (WordWrap::new(width), String::new());
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(chunk) {
            out += &wrap.push(&piece.iter().collect::<String>());
        }
        out + &wrap.finish()
    }

    fn assert_wraps(width: usize, text: &str, expected: &str) {
        for chunk in 1..=text.chars().count().max(1) {
            assert_eq!(wrap(width, text, chunk), expected, "in chunks of {chunk}");
        }
    }

    #[test]
    fn lines_break_between_words_however_the_text_is_chunked() {
        assert_wraps(10, "The quick brown fox jumps", "The quick\nbrown fox\njumps");
        assert_wraps(9, "The quick brown", "The quick\nbrown");
        assert_wraps(10, "one\n\n  two three four", "one\n\n  two\nthree four");
    }

    #[test]
    fn a_word_longer_than_a_line_is_left_to_the_terminal() {
        assert_wraps(8, "a superlongword b", "a\nsuperlongword b");
    }

    #[test]
    fn wide_characters_count_two_columns_and_may_end_a_line() {
        assert_wraps(8, "日本語のテキスト", "日本語の\nテキスト");
        assert_wraps(7, "日本語の", "日本語\nの");
        // A terminal of 3 columns has the comma alone on its second line.
        assert_wraps(3, "は、とは", "は、\nと\nは");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_if_no_word_is() {
        let texts = [
            "今日は、とても良い天気です。散歩に行きましょう! Rust 1.95 で書いた。",
            "这是一个测试:中文没有空格,(括号)和「引号」也要正确换行。",
            "한국어 문장은 띄어쓰기가 있습니다. 그래도 줄을 바꿔야 합니다.",
            "Emoji 😀😀😀😀 and 👩‍👩‍👧‍👦 families 🇩🇪🇯🇵🇫🇷 flags ❤️ hearts 👍🏽 done",
            "cafe\u{301} re\u{301}sume\u{301} na\u{308}ive \u{200b}zero\u{200b}width",
        ];
        for text in texts {
            let ends: Vec<usize> = linebreaks(text).map(|(at, _)| at).collect();
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let longest = starts.zip(&ends).map(|(start, end)| text[start..*end].trim_end().width()).max();
            for width in longest.unwrap()..40 {
                for line in wrap(width, text, 1).lines() {
                    assert!(line.width() <= width, "{width}: {line:?} in {text:?}");
                }
            }
        }
    }

    #[test]
    fn escape_sequences_have_no_width_and_stay_in_place() {
        assert_wraps(
            9,
            "\x1b[32mThe\x1b[0m quick \x1b[2mbrown\x1b[0m",
            "\x1b[32mThe\x1b[0m quick\n\x1b[2mbrown\x1b[0m",
        );
    }

    #[test]
    fn code_and_tables_keep_their_lines() {
        let code = "```rust\nlet a = \"a long line\";\n```\n| a table | with a long row |\n";
        assert_wraps(10, code, code);
        assert_wraps(10, "```\nx\n```\nand then words", "```\nx\n```\nand then\nwords");
    }

    #[test]
    fn nothing_but_spaces_is_lost() {
        let text = "It costs 3.50 EUR, i.e. more-or-less (see http://a.example/b?c=d). 🙂 Ende…\n- a\n- b";
        for width in 1..40 {
            let lines = wrap(width, text, 3);
            let visible = |text: &str| text.replace([' ', '\n'], "");
            assert_eq!(visible(&lines), visible(text), "{width}");
        }
    }
}
