//! llama.cpp's grammars (GBNF), converted to Lark as `llguidance` reads it.
//!
//! Rules without recursion become terminals, which are matched as one regular expression each, where the [longest
//! match](terminals) loses nothing; the others stay rules. What Lark cannot say (tokens by name or number) is an error that
//! names the rule. The syntax is that of llama.cpp's `grammars/README.md`.

mod automaton;
mod terminals;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use serde_json::json;

use super::GrammarError;
use terminals::{Cut, cut};

const RULES_MAX: usize = 2000;
const NESTING_MAX: usize = 64;
/// Largest number in a repetition.
const REPEAT_MAX: u32 = 100_000;

type Alternatives = Vec<Vec<Item>>;

/// An element of a sequence, and how often it comes.
struct Item {
    what: What,
    min: u32,
    /// `None` is without bound.
    max: Option<u32>,
}

enum What {
    Text(String),
    /// Ranges of characters, or all others.
    Class(bool, Vec<(char, char)>),
    Rule(usize),
    Group(Alternatives),
}

/// The grammar in Lark.
///
/// # Errors
/// A mistake in the grammar, or what cannot be converted, with the rule it is in.
pub(super) fn to_lark(gbnf: &str) -> Result<String, GrammarError> {
    let mut parser = Parser {
        chars: gbnf.chars().peekable(),
        line: 1,
        rule: String::new(),
        names: HashMap::new(),
        rules: Vec::new(),
    };
    parser.grammar()?;
    let named = |id: usize| parser.names.iter().find(|(_, of)| **of == id).map_or("", |(name, _)| name);
    let undefined =
        |id: usize| GrammarError(format!("uses the rule \"{}\", which it does not define", named(id)));
    let mut rules = Vec::with_capacity(parser.rules.len());
    for (id, rule) in parser.rules.iter().enumerate() {
        rules.push(rule.as_ref().ok_or_else(|| undefined(id))?);
    }
    let root = parser.names.get("root").ok_or_else(|| GrammarError("has no rule \"root\"".into()))?;
    let Cut { terminals, split } = cut(&rules, *root, &regular(&rules));
    let name = |id: usize| format!("{}{id}", if terminals[id] { 'R' } else { 'r' });
    let mut lark = format!("start: {}\n", name(*root));
    for (id, rule) in rules.into_iter().enumerate() {
        // Writing into a text cannot fail.
        let _ = write!(lark, "{}: ", name(id));
        let whole = BTreeSet::new();
        let split = if terminals[id] { &whole } else { &split };
        write_alternatives(&mut lark, rule, (&name, split));
        lark.push('\n');
    }
    Ok(lark)
}

/// The rules from which no way leads to a rule that contains itself.
fn regular(rules: &[&Alternatives]) -> Vec<bool> {
    let uses: Vec<Vec<usize>> = rules
        .iter()
        .map(|rule| {
            let mut used = Vec::new();
            collect_rules(rule, &mut used);
            used
        })
        .collect();
    // Rules become regular once all that they use are.
    let mut regular = vec![false; rules.len()];
    loop {
        let more: Vec<usize> = (0..rules.len())
            .filter(|&id| !regular[id] && uses[id].iter().all(|&used| regular[used]))
            .collect();
        if more.is_empty() {
            return regular;
        }
        more.into_iter().for_each(|id| regular[id] = true);
    }
}

fn collect_rules(alternatives: &Alternatives, used: &mut Vec<usize>) {
    for item in alternatives.iter().flatten() {
        match &item.what {
            What::Rule(id) => used.push(*id),
            What::Group(inner) => collect_rules(inner, used),
            What::Text(_) | What::Class(..) => {}
        }
    }
}

/// Names of rules, and literals that are written as single characters.
type Spelling<'a> = (&'a dyn Fn(usize) -> String, &'a BTreeSet<String>);

fn write_alternatives(lark: &mut String, alternatives: &Alternatives, spelling: Spelling<'_>) {
    for (at, sequence) in alternatives.iter().enumerate() {
        if at > 0 {
            lark.push_str(" | ");
        }
        if sequence.is_empty() {
            lark.push_str("\"\"");
        }
        for (at, item) in sequence.iter().enumerate() {
            if at > 0 {
                lark.push(' ');
            }
            write_item(lark, item, spelling);
        }
    }
}

fn write_item(lark: &mut String, item: &Item, (name, split): Spelling<'_>) {
    let mut what = String::new();
    match &item.what {
        // Literals of Lark are those of JSON.
        What::Text(text) if split.contains(text) => {
            let letters: Vec<String> = text.chars().map(|letter| json!(letter).to_string()).collect();
            what = format!("({})", letters.join(" "));
        }
        What::Text(text) => what = json!(text).to_string(),
        What::Class(others, ranges) => {
            what.push_str(if *others { "/[^" } else { "/[" });
            for &(first, last) in ranges {
                let _ = write!(what, "\\x{{{:X}}}-\\x{{{:X}}}", u32::from(first), u32::from(last));
            }
            what.push_str("]/");
        }
        What::Rule(id) => what = name(*id),
        What::Group(alternatives) => {
            what.push('(');
            write_alternatives(&mut what, alternatives, (name, split));
            what.push(')');
        }
    }
    let _ = match (item.min, item.max) {
        (1, Some(1)) => write!(lark, "{what}"),
        (0, None) => write!(lark, "{what}*"),
        (1, None) => write!(lark, "{what}+"),
        (0, Some(1)) => write!(lark, "{what}?"),
        (_, Some(0)) => write!(lark, "\"\""),
        (min, Some(max)) => write!(lark, "{what}~{min}..{max}"),
        (min, None) => write!(lark, "{what}~{min}..{min} {what}*"),
    };
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    /// The rule that is being read.
    rule: String,
    names: HashMap<String, usize>,
    rules: Vec<Option<Alternatives>>,
}

impl Parser<'_> {
    fn error<T>(&self, message: &str) -> Result<T, GrammarError> {
        Err(GrammarError(format!("{message} in line {} (rule \"{}\")", self.line, self.rule)))
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn skip(&mut self, wanted: char) -> bool {
        self.chars.next_if_eq(&wanted).is_some()
    }

    /// Skips blanks and comments, and with `lines` line breaks.
    fn space(&mut self, lines: bool) {
        while let Some(&next) = self.chars.peek() {
            match next {
                ' ' | '\t' => drop(self.next()),
                '\r' | '\n' if lines => drop(self.next()),
                '#' => while self.chars.next_if(|&next| next != '\n' && next != '\r').is_some() {},
                _ => return,
            }
        }
    }

    fn id(&mut self, name: String) -> Result<usize, GrammarError> {
        if self.names.len() >= RULES_MAX {
            return self.error("too many rules");
        }
        let new = self.rules.len();
        let id = *self.names.entry(name).or_insert(new);
        if id == new {
            self.rules.push(None);
        }
        Ok(id)
    }

    fn name(&mut self) -> String {
        let is_name = |next: &char| next.is_ascii_alphanumeric() || matches!(next, '-' | '_');
        std::iter::from_fn(|| self.chars.next_if(is_name)).collect()
    }

    fn grammar(&mut self) -> Result<(), GrammarError> {
        loop {
            self.space(true);
            if self.chars.peek().is_none() {
                return Ok(());
            }
            self.rule = self.name();
            self.space(false);
            if self.rule.is_empty() || !(self.skip(':') && self.skip(':') && self.skip('=')) {
                return self.error("expected a rule as in 'name ::= ...'");
            }
            self.space(true);
            let alternatives = self.alternatives(0)?;
            if !matches!(self.chars.peek(), None | Some('\n' | '\r')) {
                return self.error("expected the end of the rule");
            }
            let id = self.id(self.rule.clone())?;
            if self.rules[id].replace(alternatives).is_some() {
                return self.error("a second definition");
            }
        }
    }

    /// `nesting` counts the groups around.
    fn alternatives(&mut self, nesting: usize) -> Result<Alternatives, GrammarError> {
        if nesting > NESTING_MAX {
            return self.error("too many groups in groups");
        }
        let mut alternatives = vec![self.sequence(nesting)?];
        while self.skip('|') {
            self.space(true);
            alternatives.push(self.sequence(nesting)?);
        }
        Ok(alternatives)
    }

    fn sequence(&mut self, nesting: usize) -> Result<Vec<Item>, GrammarError> {
        let mut items = Vec::new();
        loop {
            let what = match self.chars.peek() {
                Some('"') => What::Text(self.text()?),
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    What::Class(false, vec![('\0', char::MAX)])
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    let alternatives = self.alternatives(nesting + 1)?;
                    if !self.skip(')') {
                        return self.error("expected ')'");
                    }
                    What::Group(alternatives)
                }
                Some('<' | '!') => return self.error("tokens cannot be converted: write their text"),
                Some(next) if next.is_ascii_alphanumeric() => {
                    let name = self.name();
                    What::Rule(self.id(name)?)
                }
                _ => return Ok(items),
            };
            self.space(nesting > 0);
            let (min, max) = self.repetition(nesting)?;
            items.push(Item { what, min, max });
        }
    }

    fn repetition(&mut self, nesting: usize) -> Result<(u32, Option<u32>), GrammarError> {
        let range = match self.chars.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next();
                let min = self.number()?;
                let max = match self.skip(',') {
                    true => self.number()?,
                    false => Some(min.unwrap_or(0)),
                };
                let min = min.unwrap_or(0);
                if self.chars.peek() != Some(&'}') || max.is_some_and(|max| max < min) {
                    return self.error("expected a repetition as in {1,3}");
                }
                (min, max)
            }
            _ => return Ok((1, Some(1))),
        };
        self.next();
        self.space(nesting > 0);
        if matches!(self.chars.peek(), Some('*' | '+' | '?' | '{')) {
            return self.error("two repetitions of the same: write a group");
        }
        Ok(range)
    }

    /// A number with blanks around it, if there is one.
    fn number(&mut self) -> Result<Option<u32>, GrammarError> {
        self.space(false);
        let digits: String = std::iter::from_fn(|| self.chars.next_if(char::is_ascii_digit)).collect();
        self.space(false);
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) if number <= REPEAT_MAX => Ok(Some(number)),
            _ => self.error("too many repetitions"),
        }
    }

    fn text(&mut self) -> Result<String, GrammarError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.chars.peek() {
                Some('"') => break,
                None | Some('\n') => return self.error("expected '\"'"),
                Some(_) => text.push(self.character()?),
            }
        }
        self.next();
        Ok(text)
    }

    fn class(&mut self) -> Result<What, GrammarError> {
        self.next();
        let others = self.skip('^');
        let mut ranges = Vec::new();
        loop {
            match self.chars.peek() {
                Some(']') => break,
                None | Some('\n') => return self.error("expected ']'"),
                Some(_) => {}
            }
            let first = self.character()?;
            let mut last = first;
            if self.skip('-') {
                match self.chars.peek() {
                    // A last '-' is itself.
                    Some(']') => ranges.push(('-', '-')),
                    _ => last = self.character()?,
                }
            }
            if last < first {
                return self.error("a range of characters ends before it begins");
            }
            ranges.push((first, last));
        }
        self.next();
        match (ranges.is_empty(), others) {
            (true, false) => self.error("a class without characters"),
            (true, true) => Ok(What::Class(false, vec![('\0', char::MAX)])),
            (false, others) => Ok(What::Class(others, ranges)),
        }
    }

    /// A character of a text or class, which may be escaped.
    fn character(&mut self) -> Result<char, GrammarError> {
        let digits = match self.next() {
            Some('\\') => match self.next() {
                Some('n') => return Ok('\n'),
                Some('r') => return Ok('\r'),
                Some('t') => return Ok('\t'),
                Some(same @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'')) => return Ok(same),
                Some('x') => 2,
                Some('u') => 4,
                Some('U') => 8,
                _ => return self.error("an escape that is not known"),
            },
            Some(plain) => return Ok(plain),
            None => return self.error("expected a character"),
        };
        let hex: String = self.chars.by_ref().take(digits).collect();
        match u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits).and_then(char::from_u32) {
            Some(character) => Ok(character),
            None => self.error("an escape that is no character"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Constraint;
    use super::super::compile::Grammars;
    use super::*;

    /// Whether the grammar allows each byte of `text` and can end after it.
    fn takes(gbnf: &str, text: &str) -> bool {
        let grammar = Grammars::of_bytes().compile(&Constraint::Gbnf(gbnf.into())).unwrap();
        grammar.takes_bytes(text.as_bytes())
    }

    const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"#;

    #[test]
    fn llama_cpps_grammar_of_json_takes_json_and_nothing_else() {
        for text in ["{}", "{\"a\": [1, -2.5, {\"b\": \"c\\n\\u00e9\"}], \"d\": null}", "{\n\t\"a\": true}"] {
            assert!(takes(JSON, text), "{text}");
        }
        for text in ["[]", "{", "{\"a\": 01}", "{'a': 1}", "{\"a\" 1}", "{}x"] {
            assert!(!takes(JSON, text), "{text}");
        }
    }

    const ARITHMETIC: &str = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;

    #[test]
    fn llama_cpps_grammar_of_arithmetic_whose_numbers_and_lines_end_alike() {
        assert!(takes(ARITHMETIC, "(a +2)*b_1= 7\n"));
        assert!(takes(ARITHMETIC, "a=1\n\n  \nb-(2)=3\n"));
        assert!(!takes(ARITHMETIC, "a+=1\n"));
        assert!(!takes(ARITHMETIC, "(a=1\n"));
    }

    #[test]
    fn parts_that_overlap_are_divided_in_every_way() {
        // A word may be a prefix of a literal, of itself and what follows, and of another word.
        let gbnf = r#"root ::= "(" root ")" | word "b" | "if" [a-c] | "iffy" "!"
word ::= [a-z]+"#;
        for text in ["ab", "(bbb)", "((aabb))", "ifa", "iffy!", "(ifb)"] {
            assert!(takes(gbnf, text), "{text}");
        }
        for text in ["b", "()", "a", "iffy", "ifd", "(ab"] {
            assert!(!takes(gbnf, text), "{text}");
        }
        let lark = to_lark(JSON).unwrap();
        assert!(lark.matches("R").count() > 6, "what does not overlap stays whole: {lark}");
    }

    #[test]
    fn a_large_grammar_is_converted_as_well() {
        // Each rule overlaps with every other and with itself.
        let names = (0..300).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" | ");
        let rules = (0..300).map(|n| format!("w{n} ::= ([a-z] | \"w{n}\"){{1,200}} [a-m]*\n"));
        let gbnf = format!("root ::= \"(\" root \")\" | {names}\n{}", rules.collect::<String>());
        assert!(to_lark(&gbnf).is_ok());
    }

    #[test]
    fn a_grammar_without_recursion_is_matched_as_a_regular_expression() {
        // Cut into terminals with the longest match first, the last letter would be gone before it is wanted.
        let gbnf = "root ::= word \"b\"\nword ::= [a-z]{2,}";
        assert!(takes(gbnf, "aab") && takes(gbnf, "abbb") && !takes(gbnf, "ab") && !takes(gbnf, "aac"));
        let gbnf = "root ::= (\"yes\" | \"no\")? | \"maybe\" . [^x-z\\]-]";
        for text in ["", "yes", "no", "maybe!a", "maybeéw"] {
            assert!(takes(gbnf, text), "{text}");
        }
        for text in ["yesno", "maybe", "maybe!y", "maybe!]", "maybe!-"] {
            assert!(!takes(gbnf, text), "{text}");
        }
    }

    #[test]
    fn repetitions_are_counted() {
        let gbnf = "root ::= \"a\"{2} \"b\"{1,2} \"c\"{,1} \"d\"{2,} \"e\"{0}";
        for text in ["aabdd", "aabbcdddd"] {
            assert!(takes(gbnf, text), "{text}");
        }
        for text in ["abdd", "aadd", "aabbbdd", "aabccdd", "aabd", "aabdde"] {
            assert!(!takes(gbnf, text), "{text}");
        }
    }

    #[test]
    fn mistakes_and_what_cannot_be_converted_name_the_rule() {
        for (gbnf, message) in [
            ("", "has no rule \"root\""),
            ("a ::= \"x\"", "has no rule \"root\""),
            ("root ::= thing", "uses the rule \"thing\""),
            (
                "root ::= a\na ::= <think>",
                "tokens cannot be converted: write their text in line 2 (rule \"a\")",
            ),
            ("root ::= !<[1]>", "tokens cannot be converted"),
            ("root ::= \"a", "expected '\"' in line 1 (rule \"root\")"),
            ("root ::= [a", "expected ']'"),
            ("root ::= []", "a class without characters"),
            ("root ::= [z-a]", "ends before it begins"),
            ("root ::= (\"a\"", "expected ')'"),
            ("root ::= \"a\"\nroot ::= \"b\"", "a second definition in line 2"),
            ("root ::= \"a\"{3,1}", "expected a repetition"),
            ("root ::= \"a\"{9999999}", "too many repetitions"),
            ("root ::= \"a\"*+", "two repetitions"),
            ("root ::= \"\\q\"", "an escape that is not known"),
            ("root ::= \"\\uD800\"", "an escape that is no character"),
            ("root = \"a\"", "expected a rule"),
            ("root ::= \"a\" )", "expected the end of the rule"),
        ] {
            let error = to_lark(gbnf).unwrap_err().0;
            assert!(error.contains(message), "{gbnf}: {error}");
        }
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(to_lark(&deep).unwrap_err().0.contains("too many groups"));
    }
}
