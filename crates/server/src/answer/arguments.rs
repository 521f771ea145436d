//! Reads the arguments of a tool call as they come, as JSON.
//!
//! The invariant: what was read is the beginning of a JSON text, so that clients can parse it at any time, whatever the
//! model writes.

/// Where [`Arguments::read`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More text is needed.
    More,
    /// The object is complete.
    Complete,
    /// The closing tag comes before the end of the object.
    Cut,
    /// What follows is not JSON.
    Broken,
}

/// What may come next in an object's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    /// The rest of `true`, `false` or `null`.
    Word(&'static str),
    Number(Number),
    String {
        is_key: bool,
        escape: Escape,
    },
}

/// The last part of a number so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    ExponentDigits,
}

impl Number {
    fn first(c: char) -> Option<Number> {
        match c {
            '-' => Some(Number::Minus),
            '0' => Some(Number::Zero),
            '1'..='9' => Some(Number::Digits),
            _ => None,
        }
    }

    fn after(self, c: char) -> Option<Number> {
        match (self, c) {
            (Number::Minus, c) => Number::first(c).filter(|next| *next != Number::Minus),
            (Number::Digits, '0'..='9') => Some(Number::Digits),
            (Number::Zero | Number::Digits, '.') => Some(Number::Point),
            (Number::Point | Number::Fraction, '0'..='9') => Some(Number::Fraction),
            (Number::Zero | Number::Digits | Number::Fraction, 'e' | 'E') => Some(Number::Exponent),
            (Number::Exponent, '+' | '-') => Some(Number::Sign),
            (Number::Exponent | Number::Sign | Number::ExponentDigits, '0'..='9') => {
                Some(Number::ExponentDigits)
            }
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Number::Zero | Number::Digits | Number::Fraction | Number::ExponentDigits)
    }
}

/// Where a string is in an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// This many hexadecimal digits are left.
    Digits(u8),
}

/// Deepest nesting that is read.
const DEPTH_MAX: u32 = 64;

/// Reads an object's text to its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arguments {
    next: Next,
    /// Open brackets; the lowest bit is the innermost, set for an object.
    open: u64,
    depth: u32,
}

impl Arguments {
    /// A reader that stands after a comma in an object: reads its other members.
    pub(super) fn members() -> Arguments {
        Arguments { next: Next::Key, open: 1, depth: 1 }
    }

    /// Appends what `text` adds to the arguments, without white space outside of strings, and returns the bytes that
    /// were read. The beginning of a closing tag at the end of the text is left unread: only one outside of strings ends
    /// a call.
    pub(super) fn read(&mut self, text: &str, closes: &[&str], arguments: &mut String) -> (usize, Step) {
        // Brackets and such end lists of calls, not arguments.
        let is_tag = |close: &&&str| close.starts_with('<');
        for (at, c) in text.char_indices() {
            if let Next::String { is_key, escape } = self.next {
                let Some(next) = in_string(c, is_key, escape) else { return (at, Step::Broken) };
                self.next = next;
                push_in_string(c, escape, arguments);
                continue;
            }
            let rest = &text[at..];
            if closes.iter().filter(is_tag).any(|close| rest.starts_with(close)) {
                return (at, Step::Cut);
            }
            if closes.iter().filter(is_tag).any(|close| close.starts_with(rest)) {
                return (at, Step::More);
            }
            let Some(next) = self.after(c) else { return (at, Step::Broken) };
            self.next = next;
            if !c.is_ascii_whitespace() {
                arguments.push(c);
            }
            if self.depth == 0 {
                return (at + c.len_utf8(), Step::Complete);
            }
        }
        (text.len(), Step::More)
    }

    /// What may follow `c`, which is not in a string; `None` if it cannot stand here.
    fn after(&mut self, c: char) -> Option<Next> {
        let next = match self.next {
            Next::Word(rest) if !rest.is_empty() => return rest.strip_prefix(c).map(Next::Word),
            Next::Number(number) => match number.after(c) {
                Some(number) => return Some(Next::Number(number)),
                None if number.may_end() => Next::CommaOrEnd,
                None => return None,
            },
            Next::Word(_) => Next::CommaOrEnd,
            next => next,
        };
        let in_object = self.open & 1 == 1;
        let string = |is_key| Next::String { is_key, escape: Escape::None };
        match (next, c) {
            (next, c) if c.is_ascii_whitespace() => Some(next),
            (Next::Key | Next::KeyOrEnd, '"') => Some(string(true)),
            (Next::KeyOrEnd, '}') | (Next::ValueOrEnd, ']') => Some(self.ascend()),
            (Next::CommaOrEnd, '}') if in_object => Some(self.ascend()),
            (Next::CommaOrEnd, ']') if !in_object => Some(self.ascend()),
            (Next::CommaOrEnd, ',') => Some(if in_object { Next::Key } else { Next::Value }),
            (Next::Colon, ':') => Some(Next::Value),
            (Next::Value | Next::ValueOrEnd, c) => match c {
                '"' => Some(string(false)),
                '{' | '[' => self.descend(c == '{'),
                't' => Some(Next::Word("rue")),
                'f' => Some(Next::Word("alse")),
                'n' => Some(Next::Word("ull")),
                c => Number::first(c).map(Next::Number),
            },
            _ => None,
        }
    }

    fn descend(&mut self, is_object: bool) -> Option<Next> {
        self.depth += 1;
        self.open = (self.open << 1) | u64::from(is_object);
        let next = if is_object { Next::KeyOrEnd } else { Next::ValueOrEnd };
        (self.depth <= DEPTH_MAX).then_some(next)
    }

    fn ascend(&mut self) -> Next {
        self.depth -= 1;
        self.open >>= 1;
        Next::CommaOrEnd
    }
}

/// What may follow `c` in a string.
fn in_string(c: char, is_key: bool, escape: Escape) -> Option<Next> {
    let escape = match (escape, c) {
        (Escape::None, '"') => return Some(if is_key { Next::Colon } else { Next::CommaOrEnd }),
        (Escape::None, '\\') => Escape::Begun,
        (Escape::Begun, 'u') => Escape::Digits(4),
        (Escape::Digits(_), c) if !c.is_ascii_hexdigit() => return None,
        (Escape::Digits(left @ 2..), _) => Escape::Digits(left - 1),
        (Escape::None | Escape::Begun | Escape::Digits(_), _) => Escape::None,
    };
    Some(Next::String { is_key, escape })
}

/// Models write line breaks into strings that JSON wants escaped, and backslashes before characters that it does not.
fn push_in_string(c: char, escape: Escape, arguments: &mut String) {
    if escape == Escape::Begun && !"\"\\/bfnrtu".contains(c) {
        arguments.push('\\');
    }
    match c {
        '\n' => arguments.push_str("\\n"),
        '\r' => arguments.push_str("\\r"),
        '\t' => arguments.push_str("\\t"),
        c if c < ' ' => arguments.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => arguments.push(c),
    }
}
