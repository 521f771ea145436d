//! The tokens inside a Jinja tag, by the rules of Jinja2's own lexer.

use super::super::TemplateError;

/// A token and its line, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Name(String),
    /// A string literal, unescaped.
    Str(String),
    /// A number literal without underscores.
    Number(String),
    Op(&'static str),
}

/// Longest first, so that the first that matches is the right one.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// The content of a tag and where it ends.
pub(super) struct Tag {
    pub(super) tokens: Vec<Token>,
    /// `-`, `+` or nothing.
    pub(super) end_sign: &'static str,
    /// Byte offset behind the tag.
    pub(super) end: usize,
    /// Line of the end of the tag.
    pub(super) end_line: usize,
}

/// Reads tokens from `start` to the end marker `close` (`%}` or `}}`).
pub(super) fn lex_tag(
    source: &str,
    start: usize,
    line: usize,
    close: &'static str,
) -> Result<Tag, TemplateError> {
    let mut lexer = Lexer { source, at: start, line };
    let mut tokens = Vec::new();
    let mut open = 0usize;
    loop {
        lexer.skip_white_space();
        let rest = lexer.rest();
        if open == 0 {
            let signs: &[&'static str] = if close == "%}" { &["-", "+", ""] } else { &["-", ""] };
            let sign = signs
                .iter()
                .find(|sign| rest.strip_prefix(**sign).is_some_and(|rest| rest.starts_with(close)));
            if let Some(sign) = sign {
                let end = lexer.at + sign.len() + close.len();
                return Ok(Tag { tokens, end_sign: sign, end, end_line: lexer.line });
            }
        }
        if rest.is_empty() {
            return Err(syntax(lexer.line, format!("the tag is not closed by `{close}`")));
        }
        let token = lexer.token()?;
        match &token.kind {
            Kind::Op("(" | "[" | "{") => open += 1,
            Kind::Op(op @ (")" | "]" | "}")) => {
                open = open.checked_sub(1).ok_or_else(|| syntax(token.line, format!("unexpected `{op}`")))?;
            }
            _ => {}
        }
        tokens.push(token);
    }
}

pub(super) fn syntax(line: usize, message: String) -> TemplateError {
    TemplateError::Render { line: Some(line), message: format!("syntax error: {message}") }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.line += taken.matches('\n').count();
        self.at += bytes;
        taken
    }

    fn skip_white_space(&mut self) {
        let rest = self.rest();
        self.advance(rest.len() - rest.trim_start().len());
    }

    fn token(&mut self) -> Result<Token, TemplateError> {
        let (rest, line) = (self.rest(), self.line);
        let first = rest.chars().next().unwrap_or_default();
        let kind = if first == '_' || first.is_alphabetic() {
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            Kind::Name(self.advance(end).to_owned())
        } else if first.is_ascii_digit() {
            Kind::Number(self.number())
        } else if matches!(first, '\'' | '"') {
            self.string(first)?
        } else {
            let op = OPERATORS.iter().find(|op| rest.starts_with(**op));
            let op = op.ok_or_else(|| syntax(line, format!("unexpected character `{first}`")))?;
            self.advance(op.len());
            Kind::Op(op)
        };
        Ok(Token { kind, line })
    }

    /// Digits with a radix, or with a fraction and an exponent. `1.x` is an attribute of 1.
    fn number(&mut self) -> String {
        let bytes = self.rest().as_bytes();
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let digits = |mut at: usize| {
            while is_digit(at) || (bytes.get(at) == Some(&b'_') && is_digit(at + 1)) {
                at += 1;
            }
            at
        };
        let radix = match bytes.get(1).map(u8::to_ascii_lowercase) {
            Some(b'x') if bytes[0] == b'0' => Some(16),
            Some(b'o') if bytes[0] == b'0' => Some(8),
            Some(b'b') if bytes[0] == b'0' => Some(2),
            _ => None,
        };
        if let Some(radix) = radix {
            let rest = &self.rest()[2..];
            let len = rest.find(|c: char| c != '_' && !c.is_digit(radix)).unwrap_or(rest.len());
            let text = self.advance(2 + len)[2..].replace('_', "");
            return i128::from_str_radix(&text, radix).map_or(text, |number| number.to_string());
        }
        let follows_dot = self.source[..self.at].ends_with('.');
        let mut end = digits(0);
        if bytes.get(end) == Some(&b'.') && is_digit(end + 1) && !follows_dot {
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) && !follows_dot {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if is_digit(end + 1 + sign) {
                end = digits(end + 1 + sign);
            }
        }
        self.advance(end).replace('_', "")
    }

    fn string(&mut self, quote: char) -> Result<Kind, TemplateError> {
        let line = self.line;
        let mut escaped = false;
        let end = self.rest()[1..].find(|c: char| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.ok_or_else(|| syntax(line, "a string is not closed".into()))?;
        let text = self.advance(end + 2);
        unescape(&text[1..=end]).map(Kind::Str).ok_or_else(|| syntax(line, format!("bad escape in {text}")))
    }
}

/// Python's `unicode-escape`, except `\N{...}`.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escape = chars.next()?;
        let mut hex = |digits: usize| {
            let text: String = chars.by_ref().take(digits).collect();
            let code = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits)?;
            char::from_u32(code)
        };
        match escape {
            '\n' => {}
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            'x' => out.push(hex(2)?),
            'u' => out.push(hex(4)?),
            'U' => out.push(hex(8)?),
            'N' => return None,
            '\\' | '\'' | '"' => out.push(escape),
            '0'..='7' => {
                let mut code = escape.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                out.push(char::from_u32(code)?);
            }
            other => out.extend(['\\', other]),
        }
    }
    Some(out)
}
