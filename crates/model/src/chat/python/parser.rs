//! Jinja expressions as a tree, by the grammar of Jinja2's own parser.

use super::super::TemplateError;
use super::lexer::{Kind, Token, syntax};

/// Maximum nesting of an expression.
const DEPTH_MAX: usize = 60;
/// Maximum number of operations in one tag that nest without brackets: attributes, subscripts, filters and so on. Each is
/// a level of the tree that is walked by recursion, here and in minijinja.
const CHAIN_MAX: usize = 500;
/// Maximum number of items of a list, operands of an operator and arguments of a call; minijinja has 16 bits for them.
const ITEMS_MAX: usize = 10_000;

/// An expression and its line.
pub(super) struct Expr {
    pub(super) node: Node,
    pub(super) line: usize,
}

pub(super) enum Node {
    Name(String),
    Str(String),
    Number(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attr(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Vec<Arg>),
    Filter(Option<Box<Expr>>, String, Vec<Arg>),
    Test {
        value: Box<Expr>,
        negated: bool,
        name: String,
        args: Vec<Arg>,
    },
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Cond {
        then: Box<Expr>,
        test: Box<Expr>,
        other: Option<Box<Expr>>,
    },
    Compare(Box<Expr>, Vec<(&'static str, Expr)>),
    /// A chain of one left-associative operator.
    Binary(&'static str, Vec<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
}

pub(super) enum Arg {
    Positional(Expr),
    Keyword(String, Expr),
    List(Expr),
    Dict(Expr),
}

type Result<T> = std::result::Result<T, TemplateError>;

/// Reads the tokens of one tag.
pub(super) struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Operations so far that count for [`CHAIN_MAX`].
    chained: usize,
    end_line: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token], end_line: usize) -> Self {
        Parser { tokens, at: 0, depth: 0, chained: 0, end_line }
    }

    pub(super) fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn look(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at + 1).map(|token| &token.kind)
    }

    pub(super) fn next(&mut self) -> Option<&'a Kind> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end_line, |token| token.line)
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Kind::Op(found)) if *found == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Kind::Name(found)) if found == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn fail<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.peek() {
            Some(Kind::Name(text) | Kind::Number(text)) => format!("`{text}`"),
            Some(Kind::Str(_)) => "a string".to_owned(),
            Some(Kind::Op(op)) => format!("`{op}`"),
            None => "the end of the tag".to_owned(),
        };
        Err(syntax(self.line(), format!("expected {wanted}, found {found}")))
    }

    /// Counts an operation that nests.
    fn chain_one(&mut self) -> Result<()> {
        self.chained += 1;
        let message = || format!("more than {CHAIN_MAX} operations in one tag are not supported");
        if self.chained > CHAIN_MAX { Err(syntax(self.line(), message())) } else { Ok(()) }
    }

    fn check_items(&self, items: usize) -> Result<()> {
        let message = || format!("more than {ITEMS_MAX} items are not supported");
        if items >= ITEMS_MAX { Err(syntax(self.line(), message())) } else { Ok(()) }
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { self.fail(&format!("`{op}`")) }
    }

    pub(super) fn expect_name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Kind::Name(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            _ => self.fail("a name"),
        }
    }

    pub(super) fn finish(&self) -> Result<()> {
        if self.at >= self.tokens.len() { Ok(()) } else { self.fail("the end of the tag") }
    }

    /// One expression, or several separated by commas, which are a tuple.
    pub(super) fn tuple(&mut self, with_cond: bool, end_name: Option<&str>) -> Result<Expr> {
        self.tuple_until(with_cond, end_name, false)
    }

    fn tuple_until(&mut self, with_cond: bool, end_name: Option<&str>, in_parens: bool) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let at_end =
                self.peek().is_none() || self.is_op(")") || end_name.is_some_and(|name| self.is_name(name));
            if at_end {
                break;
            }
            self.check_items(items.len())?;
            items.push(if with_cond { self.expr()? } else { self.or()? });
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(item) if !is_tuple => Ok(item),
            None if !in_parens => self.fail("an expression"),
            last => {
                items.extend(last);
                Ok(Expr { node: Node::Tuple(items), line })
            }
        }
    }

    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(syntax(
                self.line(),
                format!("the expression is nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        let mut then = self.or()?;
        while self.skip_name("if") {
            self.chain_one()?;
            let test = Box::new(self.or()?);
            let other = if self.skip_name("else") { Some(Box::new(self.expr()?)) } else { None };
            let line = then.line;
            then = Expr { node: Node::Cond { then: Box::new(then), test, other }, line };
        }
        self.depth -= 1;
        Ok(then)
    }

    fn chain(
        &mut self,
        name: &str,
        item: fn(&mut Self) -> Result<Expr>,
        node: fn(Vec<Expr>) -> Node,
    ) -> Result<Expr> {
        let first = item(self)?;
        if !self.is_name(name) {
            return Ok(first);
        }
        let line = first.line;
        let mut items = vec![first];
        while self.skip_name(name) {
            self.chain_one()?;
            items.push(item(self)?);
        }
        Ok(Expr { node: node(items), line })
    }

    pub(super) fn or(&mut self) -> Result<Expr> {
        self.chain("or", Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Expr> {
        self.chain("and", Self::not, Node::And)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            self.chain_one()?;
            return Ok(Expr { node: Node::Not(Box::new(self.not()?)), line });
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut operands = Vec::new();
        loop {
            let op = match self.peek() {
                Some(Kind::Op(op @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => *op,
                Some(Kind::Name(name)) if name == "in" => "in",
                Some(Kind::Name(name)) if name == "not" => match self.look() {
                    Some(Kind::Name(name)) if name == "in" => {
                        self.at += 1;
                        "not in"
                    }
                    _ => break,
                },
                _ => break,
            };
            self.at += 1;
            self.check_items(operands.len())?;
            operands.push((op, self.sum()?));
        }
        if operands.is_empty() {
            return Ok(first);
        }
        let line = first.line;
        Ok(Expr { node: Node::Compare(Box::new(first), operands), line })
    }

    fn binary(&mut self, ops: &[&'static str], item: fn(&mut Self) -> Result<Expr>) -> Result<Expr> {
        let mut left = item(self)?;
        loop {
            let Some(Kind::Op(op)) = self.peek() else { return Ok(left) };
            let Some(op) = ops.iter().find(|known| *known == op) else { return Ok(left) };
            self.at += 1;
            let right = item(self)?;
            left = match left {
                Expr { node: Node::Binary(before, mut items), line }
                    if before == *op && !items.is_empty() =>
                {
                    self.check_items(items.len())?;
                    items.push(right);
                    Expr { node: Node::Binary(op, items), line }
                }
                left => {
                    self.chain_one()?;
                    let line = left.line;
                    Expr { node: Node::Binary(op, vec![left, right]), line }
                }
            };
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(&["+", "-"], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        self.binary(&["~"], Self::product)
    }

    fn product(&mut self) -> Result<Expr> {
        self.binary(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(&["**"], Self::unary)
    }

    fn unary(&mut self) -> Result<Expr> {
        let value = self.unary_only()?;
        self.filters(value)
    }

    fn unary_only(&mut self) -> Result<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(syntax(
                self.line(),
                format!("the expression is nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        let line = self.line();
        let value = if self.skip_op("-") {
            Expr { node: Node::Neg(Box::new(self.unary_only()?)), line }
        } else if self.skip_op("+") {
            Expr { node: Node::Pos(Box::new(self.unary_only()?)), line }
        } else {
            self.primary()?
        };
        self.depth -= 1;
        self.postfix(value)
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let node = match self.peek() {
            Some(Kind::Name(name)) => Node::Name(name.clone()),
            Some(Kind::Number(number)) => Node::Number(number.clone()),
            Some(Kind::Str(text)) => {
                let mut text = text.clone();
                while let Some(Kind::Str(more)) = self.look() {
                    text.push_str(more);
                    self.at += 1;
                }
                Node::Str(text)
            }
            Some(Kind::Op("(")) => {
                self.at += 1;
                let inner = self.tuple_until(true, None, true)?;
                self.expect_op(")")?;
                return Ok(Expr { node: inner.node, line });
            }
            Some(Kind::Op("[")) => {
                self.at += 1;
                return Ok(Expr { node: Node::List(self.items("]", Self::expr)?), line });
            }
            Some(Kind::Op("{")) => {
                self.at += 1;
                let entry = |parser: &mut Self| {
                    let key = parser.expr()?;
                    parser.expect_op(":")?;
                    Ok((key, parser.expr()?))
                };
                return Ok(Expr { node: Node::Dict(self.items("}", entry)?), line });
            }
            _ => return self.fail("an expression"),
        };
        self.at += 1;
        Ok(Expr { node, line })
    }

    /// Items up to `close`; a comma may follow the last.
    fn items<T>(&mut self, close: &str, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.skip_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(close) {
                    break;
                }
            }
            self.check_items(items.len())?;
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(super) fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            let line = value.line;
            let node = if self.skip_op(".") {
                match self.next() {
                    Some(Kind::Name(name)) => Node::Attr(Box::new(value), name.clone()),
                    Some(Kind::Number(number)) => {
                        let index = Expr { node: Node::Number(number.clone()), line };
                        Node::Item(Box::new(value), Box::new(index))
                    }
                    _ => {
                        self.at -= 1;
                        return self.fail("a name or number");
                    }
                }
            } else if self.skip_op("[") {
                self.subscript(value)?
            } else if self.is_op("(") {
                Node::Call(Box::new(value), self.args()?)
            } else {
                return Ok(value);
            };
            self.chain_one()?;
            value = Expr { node, line };
        }
    }

    fn subscript(&mut self, value: Expr) -> Result<Node> {
        let line = value.line;
        let mut parts = [None, None, None];
        let mut is_slice = false;
        for (i, part) in parts.iter_mut().enumerate() {
            if !self.is_op(":") && !self.is_op("]") && !self.is_op(",") {
                *part = Some(Box::new(self.expr()?));
            }
            if i == 2 || !self.skip_op(":") {
                break;
            }
            is_slice = true;
        }
        if is_slice {
            self.expect_op("]")?;
            return Ok(Node::Slice(Box::new(value), parts));
        }
        let [Some(first), ..] = parts else { return self.fail("a subscript") };
        if !self.skip_op(",") {
            self.expect_op("]")?;
            return Ok(Node::Item(Box::new(value), first));
        }
        let mut items = vec![*first];
        items.extend(self.items("]", Self::expr)?);
        Ok(Node::Item(Box::new(value), Box::new(Expr { node: Node::Tuple(items), line })))
    }

    pub(super) fn args(&mut self) -> Result<Vec<Arg>> {
        self.expect_op("(")?;
        self.items(")", |parser| {
            if parser.skip_op("**") {
                return parser.expr().map(Arg::Dict);
            }
            if parser.skip_op("*") {
                return parser.expr().map(Arg::List);
            }
            match (parser.peek(), parser.look()) {
                (Some(Kind::Name(name)), Some(Kind::Op("="))) => {
                    parser.at += 2;
                    Ok(Arg::Keyword(name.clone(), parser.expr()?))
                }
                _ => parser.expr().map(Arg::Positional),
            }
        })
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.expect_name()?;
        while self.skip_op(".") {
            name = name + "." + &self.expect_name()?;
        }
        Ok(name)
    }

    /// A filter's name and arguments, behind the `|`.
    pub(super) fn filter(&mut self, value: Option<Expr>) -> Result<Expr> {
        let line = self.line();
        let name = self.dotted_name()?;
        let args = if self.is_op("(") { self.args()? } else { Vec::new() };
        Ok(Expr { node: Node::Filter(value.map(Box::new), name, args), line })
    }

    fn filters(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            let line = value.line;
            if self.skip_op("|") {
                value = self.filter(Some(value))?;
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_op("(") {
                value = Expr { node: Node::Call(Box::new(value), self.args()?), line };
            } else {
                return Ok(value);
            }
            self.chain_one()?;
        }
    }

    fn test(&mut self, value: Expr) -> Result<Expr> {
        let line = value.line;
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let takes_operand = match self.peek() {
            Some(Kind::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and" | "if"),
            Some(Kind::Str(_) | Kind::Number(_)) => true,
            Some(Kind::Op(op)) => matches!(*op, "[" | "{"),
            None => false,
        };
        let args = if self.is_op("(") {
            self.args()?
        } else if self.is_name("is") {
            return self.fail("no second test");
        } else if takes_operand {
            let operand = self.primary()?;
            vec![Arg::Positional(self.postfix(operand)?)]
        } else {
            Vec::new()
        };
        Ok(Expr { node: Node::Test { value: Box::new(value), negated, name, args }, line })
    }
}
