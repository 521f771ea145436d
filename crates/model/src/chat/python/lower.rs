//! Rewrites a template for minijinja: expressions whose meaning there differs from Python's become calls of the
//! functions that [`super::install`] registers. Text, comments, raw blocks and white-space control stay as they
//! are, and every token keeps its line, so that errors point at the template as it was written.

use super::super::TemplateError;
use super::lexer::{Kind, Tag, Token, lex_tag, syntax};
use super::methods::is_method_name;
use super::parser::{Arg, Expr, Node, Parser};

type Result<T> = std::result::Result<T, TemplateError>;

/// Maximum size of a text between two tags that is not counted every time that it is printed; the instructions around
/// it are.
const UNCOUNTED_TEXT_BYTES: usize = 32;
/// Maximum number of `elif` of one `if`, which minijinja nests.
const ELIF_MAX: usize = 500;
/// Maximum number of lines: minijinja counts them in 16 bits.
const LINES_MAX: usize = 60_000;

/// The rewritten template.
pub(in super::super) fn lower(source: &str) -> Result<String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.lines().count() > LINES_MAX {
        return Err(syntax(LINES_MAX, format!("more than {LINES_MAX} lines are not supported")));
    }
    let mut out = Emitter {
        out: String::with_capacity(source.len() * 2),
        line: 1,
        macros: 0,
        elifs: Vec::new(),
        unsupported: None,
    };
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        let start = at + found;
        out.text(&source[at..start]);
        let rest = &source[start..];
        at = if rest.starts_with("{#") {
            let end = rest.find("#}").map(|end| start + end + 2);
            let end = end.ok_or_else(|| syntax(out.line, "a comment is not closed".into()))?;
            out.text(&source[start..end]);
            end
        } else if let Some(end) = raw_block_end(rest) {
            out.text(&rest[..end]);
            start + end
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            tag(&source, start, &mut out)?
        } else {
            out.text("{");
            start + 1
        };
    }
    out.text(&source[at..]);
    Ok(out.out)
}

/// The end of a `{% raw %}` block at the start of `text`.
fn raw_block_end(text: &str) -> Option<usize> {
    let body = marker(text, "raw")?;
    let mut at = body;
    while let Some(found) = text[at..].find("{%") {
        if let Some(end) = marker(&text[at + found..], "endraw") {
            return Some(at + found + end);
        }
        at += found + 2;
    }
    None
}

/// Length of the tag `{% name %}` at the start of `text`.
fn marker(text: &str, name: &str) -> Option<usize> {
    let signs: &[char] = &['-', '+'];
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(signs).unwrap_or(inner).trim_start();
    let inner = inner.strip_prefix(name)?.trim_start();
    let inner = inner.strip_prefix(signs).unwrap_or(inner).strip_prefix("%}")?;
    Some(text.len() - inner.len())
}

fn tag(source: &str, start: usize, out: &mut Emitter) -> Result<usize> {
    let is_block = source[start..].starts_with("{%");
    let (open, close) = if is_block { ("{%", "%}") } else { ("{{", "}}") };
    let inside = &source[start + 2..];
    let sign = ["-", "+"].into_iter().find(|sign| inside.starts_with(*sign)).unwrap_or_default();
    let Tag { tokens, end_sign, end, end_line } = lex_tag(source, start + 2 + sign.len(), out.line, close)?;
    let text_bytes = text_bytes(&source[end..]);
    let is_counted = text_bytes > UNCOUNTED_TEXT_BYTES;
    out.push(open);
    out.push(sign);
    out.push(" ");
    if is_counted && !is_block {
        out.push(&format!("{}text({text_bytes}) }}}}{{{{ ", super::PREFIX));
    }
    let mut parser = Parser::new(&tokens, end_line);
    if is_block {
        statement(&mut parser, &tokens, out)?;
    } else {
        let value = parser.tuple(true, None)?;
        parser.finish()?;
        out.expr(&value);
    }
    if let Some((name, line)) = out.unsupported.take() {
        return Err(syntax(line, format!("`{name}` of a macro is not supported")));
    }
    out.sync(end_line);
    out.push(" ");
    if is_counted && is_block {
        out.push(&format!("%}}{{% if {}text({text_bytes}) %}}{{% endif ", super::PREFIX));
    }
    out.push(end_sign);
    out.push(close);
    Ok(end)
}

/// The size of the text up to the next tag. Raw blocks count as text.
fn text_bytes(text: &str) -> usize {
    let (mut at, mut bytes) = (0, 0);
    while let Some(found) = text[at..].find('{') {
        bytes += found;
        at += found;
        let rest = &text[at..];
        let skipped = if rest.starts_with("{#") {
            rest.find("#}").map_or(rest.len(), |end| end + 2)
        } else if let Some(end) = raw_block_end(rest) {
            bytes += end;
            end
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            return bytes;
        } else {
            bytes += 1;
            1
        };
        at += skipped;
    }
    bytes + text.len() - at
}

fn statement(parser: &mut Parser<'_>, tokens: &[Token], out: &mut Emitter) -> Result<()> {
    out.sync(parser.line());
    let keyword = parser.expect_name()?;
    match keyword.as_str() {
        "if" | "elif" => {
            match out.elifs.last_mut().filter(|_| keyword == "elif") {
                Some(elifs) if *elifs == ELIF_MAX => {
                    return Err(syntax(out.line, format!("more than {ELIF_MAX} `elif` are not supported")));
                }
                Some(elifs) => *elifs += 1,
                None => out.elifs.push(0),
            }
            out.push(&keyword);
            out.push(" ");
            out.expr(&parser.tuple(false, None)?);
        }
        "for" => for_loop(parser, out)?,
        "set" => set(parser, out)?,
        "macro" => {
            out.macros += 1;
            out.push("macro ");
            out.push(&parser.expect_name()?);
            parameters(parser, out)?;
        }
        "call" => {
            out.push("call");
            if parser.is_op("(") {
                parameters(parser, out)?;
            }
            out.push(" ");
            out.expr(&parser.expr()?);
        }
        "filter" => {
            out.push("filter ");
            filters(parser, out, false)?;
        }
        "with" => with(parser, out)?,
        // Marks the assistant's text for training. Its body has a scope of its own and no effect on the prompt.
        "generation" => out.push("with"),
        "endgeneration" => out.push("endwith"),
        _ => {
            if keyword == "endif" {
                out.elifs.pop();
            }
            out.macros -= usize::from(keyword == "endmacro" && out.macros > 0);
            out.push(&keyword);
            tokens[1..].iter().for_each(|token| out.token(token));
            return Ok(());
        }
    }
    parser.finish()
}

fn for_loop(parser: &mut Parser<'_>, out: &mut Emitter) -> Result<()> {
    out.push("for ");
    target(parser, out, "in")?;
    parser.next();
    out.push(" in ");
    let items = parser.tuple(false, Some("recursive"))?;
    out.function("iter", [&items]);
    if parser.skip_name("if") {
        out.push(" if ");
        out.expr(&parser.or()?);
    }
    if parser.skip_name("recursive") {
        out.push(" recursive");
    }
    Ok(())
}

/// Copies the names that are assigned to, up to the name or operator `end`.
fn target(parser: &mut Parser<'_>, out: &mut Emitter, end: &str) -> Result<()> {
    let mut any = false;
    while !parser.is_name(end) && !parser.is_op(end) {
        let line = parser.line();
        match parser.peek() {
            Some(Kind::Op("|")) if any => return Ok(()),
            Some(kind @ (Kind::Name(_) | Kind::Op("," | "(" | ")" | "." | "[" | "]"))) => {
                out.token(&Token { kind: kind.clone(), line });
                parser.next();
            }
            None if any && end == "=" => return Ok(()),
            _ => return parser.fail("a name to assign to"),
        }
        any = true;
    }
    Ok(())
}

fn set(parser: &mut Parser<'_>, out: &mut Emitter) -> Result<()> {
    out.push("set ");
    let start = out.out.len();
    target(parser, out, "=")?;
    let is_attribute = out.out[start..].contains('.');
    if parser.skip_op("=") {
        out.push(" = ");
        let value = parser.tuple(true, None)?;
        match is_attribute {
            true => out.function("keep", [&value]),
            false => out.expr(&value),
        }
    } else {
        filters(parser, out, true)?;
    }
    Ok(())
}

/// The filters of a block; the first of a `{% set %}` has a `|` before it.
fn filters(parser: &mut Parser<'_>, out: &mut Emitter, leading_pipe: bool) -> Result<()> {
    let mut first = !leading_pipe;
    while first || parser.skip_op("|") {
        if !first {
            out.push("|");
        }
        first = false;
        let Node::Filter(_, name, args) = parser.filter(None)?.node else { return parser.fail("a filter") };
        out.push(&name);
        out.args(&args);
    }
    Ok(())
}

fn parameters(parser: &mut Parser<'_>, out: &mut Emitter) -> Result<()> {
    parser.expect_op("(")?;
    out.push("(");
    while !parser.skip_op(")") {
        out.push(&parser.expect_name()?);
        if parser.skip_op("=") {
            out.push("=");
            out.expr(&parser.expr()?);
        }
        if !parser.is_op(")") {
            parser.expect_op(",")?;
            out.push(", ");
        }
    }
    out.push(")");
    Ok(())
}

fn with(parser: &mut Parser<'_>, out: &mut Emitter) -> Result<()> {
    out.push("with ");
    while parser.peek().is_some() {
        target(parser, out, "=")?;
        parser.expect_op("=")?;
        out.push(" = ");
        out.expr(&parser.expr()?);
        if parser.skip_op(",") {
            out.push(", ");
        } else {
            break;
        }
    }
    Ok(())
}

struct Emitter {
    out: String,
    /// Line at the end of `out`.
    line: usize,
    /// Depth of macros.
    macros: usize,
    /// Number of `elif` so far of each open `if`.
    elifs: Vec<usize>,
    /// A name that has no meaning in minijinja, and its line.
    unsupported: Option<(String, usize)>,
}

impl Emitter {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn text(&mut self, text: &str) {
        self.line += text.matches('\n').count();
        self.out.push_str(text);
    }

    fn sync(&mut self, line: usize) {
        while self.line < line {
            self.out.push('\n');
            self.line += 1;
        }
    }

    fn token(&mut self, token: &Token) {
        self.sync(token.line);
        self.push(" ");
        match &token.kind {
            Kind::Name(text) | Kind::Number(text) => self.push(text),
            Kind::Str(text) => self.string(text),
            Kind::Op(op) => self.push(op),
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '"' | '\\' => self.out.extend(['\\', c]),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn list<'a>(&mut self, items: impl IntoIterator<Item = &'a Expr>, separator: &str) {
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.push(separator);
            }
            self.expr(item);
        }
    }

    fn function<'a>(&mut self, name: &str, args: impl IntoIterator<Item = &'a Expr>) {
        self.push(super::PREFIX);
        self.push(name);
        self.push("(");
        self.list(args, ", ");
        self.push(")");
    }

    fn args(&mut self, args: &[Arg]) {
        self.push("(");
        self.arg_list(args, true);
        self.push(")");
    }

    fn arg_list(&mut self, args: &[Arg], mut first: bool) {
        for arg in args {
            if !first {
                self.push(", ");
            }
            first = false;
            match arg {
                Arg::Positional(value) => self.expr(value),
                Arg::Keyword(name, value) => {
                    self.push(name);
                    self.push("=");
                    self.expr(value);
                }
                Arg::List(value) => {
                    self.push("*");
                    self.expr(value);
                }
                Arg::Dict(value) => {
                    self.push("**");
                    self.expr(value);
                }
            }
        }
    }

    /// The same for arguments that are compared as they are.
    fn flat_args(&mut self, args: &[Arg]) {
        self.push("(");
        for arg in args {
            if let Arg::Positional(value) = arg {
                self.function("flat", [value]);
                self.push(", ");
            } else {
                self.arg_list(std::slice::from_ref(arg), true);
                self.push(", ");
            }
        }
        self.push(")");
    }

    fn parens(&mut self, inside: impl FnOnce(&mut Self)) {
        self.push("(");
        inside(self);
        self.push(")");
    }

    /// Writes `value` such that any operator may follow.
    fn expr(&mut self, value: &Expr) {
        self.sync(value.line);
        match &value.node {
            Node::Name(name) => {
                if self.macros > 0 && matches!(name.as_str(), "varargs" | "kwargs") {
                    self.unsupported = Some((name.clone(), value.line));
                }
                self.push(name);
            }
            Node::Str(text) => self.string(text),
            Node::Number(text) => self.push(text),
            Node::List(items) => self.function("list", items),
            Node::Dict(entries) => {
                self.function("dict", entries.iter().flat_map(|(key, value)| [key, value]))
            }
            Node::Tuple(items) => self.function("tuple", items),
            Node::Attr(of, name) if is_method_name(name) => self.lookup("attr", of, name),
            Node::Attr(of, name) => {
                self.operand(of);
                self.push(".");
                self.push(name);
            }
            Node::Item(of, key) => match &key.node {
                Node::Str(text) if !is_method_name(text) => {
                    self.operand(of);
                    self.push("[");
                    self.string(text);
                    self.push("]");
                }
                _ => self.function("item", [&**of, &**key]),
            },
            Node::Slice(of, bounds) => {
                self.push(super::PREFIX);
                self.push("slice(");
                self.expr(of);
                for bound in bounds {
                    self.push(", ");
                    match bound {
                        Some(bound) => self.expr(bound),
                        None => self.push("none"),
                    }
                }
                self.push(")");
            }
            Node::Call(of, args) => self.call(of, args),
            operation => self.operation(operation),
        }
    }

    fn operation(&mut self, node: &Node) {
        match node {
            Node::Filter(of, name, args) => self.parens(|out| {
                if let Some(of) = of {
                    out.expr(of);
                }
                out.push("|");
                out.push(name);
                out.args(args);
            }),
            Node::Test { value, negated, name, args } => self.parens(|out| {
                out.expr(value);
                out.push(if *negated { " is not " } else { " is " });
                out.push(name);
                if !args.is_empty() {
                    out.args(args);
                }
            }),
            Node::Not(value) => self.parens(|out| {
                out.push("not ");
                out.expr(value);
            }),
            Node::And(items) => self.parens(|out| out.list(items, " and ")),
            Node::Or(items) => self.parens(|out| out.list(items, " or ")),
            Node::Cond { then, test, other } => self.parens(|out| out.cond(then, test, other.as_deref())),
            Node::Compare(first, operands) => self.compare(first, operands),
            Node::Binary(op, items) => self.function(operator_name(op), items),
            Node::Neg(value) => self.function("neg", [&**value]),
            Node::Pos(value) => self.function("pos", [&**value]),
            _ => {}
        }
    }

    /// The same for what a `.` or `[` follows.
    fn operand(&mut self, value: &Expr) {
        match value.node {
            Node::Number(_) => self.parens(|out| out.expr(value)),
            _ => self.expr(value),
        }
    }

    fn lookup(&mut self, function: &str, of: &Expr, name: &str) {
        self.push(super::PREFIX);
        self.push(function);
        self.push("(");
        self.expr(of);
        self.push(", ");
        self.string(name);
        self.push(")");
    }

    fn call(&mut self, of: &Expr, args: &[Arg]) {
        if let Node::Attr(of, name) = &of.node
            && is_method_name(name)
        {
            self.push(super::PREFIX);
            self.push("call(");
            self.expr(of);
            self.push(", ");
            self.string(name);
            self.arg_list(args, false);
            self.push(")");
            return;
        }
        match &of.node {
            // minijinja remembers the arguments and compares them with those of the next iteration.
            Node::Attr(_, name) if name == "changed" => {
                self.expr(of);
                return self.flat_args(args);
            }
            Node::Name(_) | Node::Attr(..) => self.expr(of),
            _ => self.parens(|out| out.expr(of)),
        }
        self.args(args);
    }

    fn cond(&mut self, then: &Expr, test: &Expr, other: Option<&Expr>) {
        self.expr(then);
        self.push(" if ");
        self.expr(test);
        if let Some(other) = other {
            self.push(" else ");
            self.expr(other);
        }
    }

    fn compare(&mut self, first: &Expr, operands: &[(&'static str, Expr)]) {
        match operands {
            [("in", right)] => self.function("in", [first, right]),
            [("not in", right)] => self.parens(|out| {
                out.push("not ");
                out.function("in", [first, right]);
            }),
            _ => {
                self.push(super::PREFIX);
                self.push("compare(");
                self.expr(first);
                for (op, right) in operands {
                    self.push(", ");
                    self.string(op);
                    self.push(", ");
                    self.expr(right);
                }
                self.push(")");
            }
        }
    }
}

fn operator_name(op: &str) -> &'static str {
    match op {
        "+" => "add",
        "-" => "sub",
        "~" => "concat",
        "*" => "mul",
        "/" => "div",
        "//" => "floordiv",
        "%" => "mod",
        _ => "pow",
    }
}
