//! Which rules of a grammar can be terminals without losing a text.
//!
//! A lexer takes the longest match and tries no other. That loses nothing where no text of a terminal goes on, within it or
//! within another terminal, with a character that may also follow it in the grammar. So regular rules start as
//! terminals and literals as they are; those that are too greedy are taken apart, in the end down to single characters, of
//! which none is the beginning of another. The invariant: what is found is exact, unless the work for it is bounded.

use std::collections::{BTreeMap, BTreeSet};

use super::automaton::{Automaton, Set};
use super::{Alternatives, Item, What};

/// Steps of comparisons after which the rest is left as it is.
const WORK_MAX: usize = 3_000_000;

/// How the grammar is cut.
pub(super) struct Cut {
    /// By rule: whether it is a terminal.
    pub(super) terminals: Vec<bool>,
    /// Literals that are written as single characters, outside of terminals.
    pub(super) split: BTreeSet<String>,
}

/// Something that the lexer matches as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lexeme {
    Terminal(usize),
    Text(String),
    Class(bool, Vec<(char, char)>),
}

/// Cuts a grammar. `regular`: the rules that contain no recursion.
pub(super) fn cut(rules: &[&Alternatives], root: usize, regular: &[bool]) -> Cut {
    let mut cut = Cut { terminals: regular.to_vec(), split: BTreeSet::new() };
    let mut work = WORK_MAX;
    while !regular[root] && cut.improve(rules, &mut work) {}
    cut
}

impl Cut {
    /// Takes apart what is too greedy; false if nothing is.
    fn improve(&mut self, rules: &[&Alternatives], work: &mut usize) -> bool {
        let Some(follow) = Follow::of(rules, self) else { return false };
        let lexemes: Vec<(&Lexeme, &Set)> = follow.lexemes.iter().collect();
        for (one, followed_by) in &lexemes {
            for (other, _) in &lexemes {
                // A single character does not go on.
                if matches!(other, Lexeme::Class(..)) {
                    continue;
                }
                let (one, other) = (&follow.automata[*one], &follow.automata[*other]);
                match one.goes_on(other, work) {
                    Some(more) if more.meets(followed_by) => {}
                    Some(_) => continue,
                    None => return false,
                }
                match follow
                    .automata
                    .iter()
                    .find(|(_, of)| std::ptr::eq(*of, other))
                    .map(|(lexeme, _)| lexeme)
                {
                    Some(Lexeme::Terminal(id)) => self.terminals[*id] = false,
                    Some(Lexeme::Text(text)) => drop(self.split.insert(text.clone())),
                    Some(Lexeme::Class(..)) | None => return false,
                }
                return true;
            }
        }
        false
    }
}

/// What may follow each lexeme.
struct Follow<'a> {
    rules: &'a [&'a Alternatives],
    cut: &'a Cut,
    automata: BTreeMap<Lexeme, Automaton>,
    lexemes: BTreeMap<Lexeme, Set>,
    /// By rule: what it begins with, whether it may be empty, what may follow it.
    of_rules: Vec<(Set, bool, Set)>,
    changed: bool,
}

impl<'a> Follow<'a> {
    /// `None` if a terminal is too large to be looked into.
    fn of(rules: &'a [&'a Alternatives], cut: &'a Cut) -> Option<Follow<'a>> {
        let mut follow = Follow {
            rules,
            cut,
            automata: BTreeMap::new(),
            lexemes: BTreeMap::new(),
            of_rules: vec![Default::default(); rules.len()],
            changed: true,
        };
        for (id, rule) in rules.iter().enumerate().filter(|(id, _)| !cut.terminals[*id]) {
            follow.collect(rule)?;
            follow.of_rules[id] = Default::default();
        }
        while std::mem::take(&mut follow.changed) {
            for (id, rule) in rules.iter().enumerate().filter(|(id, _)| !cut.terminals[*id]) {
                let after = follow.of_rules[id].2.clone();
                let (first, empty) = follow.alternatives(rule, &after);
                let of = &mut follow.of_rules[id];
                follow.changed |= of.0.extend(&first) | (empty && !std::mem::replace(&mut of.1, empty));
            }
        }
        Some(follow)
    }

    fn lexeme(&self, what: &What) -> Option<Lexeme> {
        match what {
            What::Text(text) if !text.is_empty() && !self.cut.split.contains(text) => {
                Some(Lexeme::Text(text.clone()))
            }
            What::Class(others, ranges) => Some(Lexeme::Class(*others, ranges.clone())),
            What::Rule(id) if self.cut.terminals[*id] => Some(Lexeme::Terminal(*id)),
            What::Text(_) | What::Rule(_) | What::Group(_) => None,
        }
    }

    /// Makes the automata of all lexemes in an expression.
    fn collect(&mut self, alternatives: &Alternatives) -> Option<()> {
        for item in alternatives.iter().flatten() {
            match &item.what {
                What::Group(inner) => self.collect(inner)?,
                What::Text(text) if self.cut.split.contains(text) => {
                    text.chars().try_for_each(|c| self.make(Lexeme::Class(false, vec![(c, c)])))?;
                }
                what => {
                    if let Some(lexeme) = self.lexeme(what) {
                        self.make(lexeme)?;
                    }
                }
            }
        }
        Some(())
    }

    fn make(&mut self, lexeme: Lexeme) -> Option<()> {
        if self.automata.contains_key(&lexeme) {
            return Some(());
        }
        let once = |what| vec![vec![Item { what, min: 1, max: Some(1) }]];
        let automaton = match &lexeme {
            Lexeme::Terminal(id) => Automaton::of(self.rules[*id], self.rules),
            Lexeme::Text(text) => Automaton::of(&once(What::Text(text.clone())), self.rules),
            Lexeme::Class(others, ranges) => {
                Automaton::of(&once(What::Class(*others, ranges.clone())), self.rules)
            }
        };
        self.lexemes.insert(lexeme.clone(), Set::default());
        self.automata.insert(lexeme, automaton?);
        Some(())
    }

    /// What an expression begins with and whether it may be empty, noting what follows its parts.
    fn alternatives(&mut self, alternatives: &Alternatives, after: &Set) -> (Set, bool) {
        let (mut first, mut empty) = (Set::default(), false);
        for sequence in alternatives {
            let (mut begins, mut nothing) = (Set::default(), true);
            let mut follows = after.clone();
            for item in sequence.iter().rev() {
                if item.max == Some(0) {
                    continue;
                }
                let (of_item, may_be_empty) = self.item(item, &follows);
                if may_be_empty {
                    begins.extend(&of_item);
                    follows.extend(&of_item);
                } else {
                    (begins, nothing, follows) = (of_item.clone(), false, of_item);
                }
            }
            first.extend(&begins);
            empty |= nothing;
        }
        (first, empty)
    }

    fn item(&mut self, item: &Item, after: &Set) -> (Set, bool) {
        let mut after = after.clone();
        // What repeats follows itself; twice, since what it begins with is found on the way.
        let rounds = if item.max == Some(1) { 1 } else { 2 };
        let mut result = Default::default();
        for _ in 0..rounds {
            result = self.once(&item.what, &after);
            after.extend(&result.0);
        }
        (result.0, result.1 || item.min == 0)
    }

    fn once(&mut self, what: &What, after: &Set) -> (Set, bool) {
        if let Some(lexeme) = self.lexeme(what) {
            self.changed |= self.lexemes.entry(lexeme.clone()).or_default().extend(after);
            let automaton = &self.automata[&lexeme];
            return (automaton.first(), automaton.takes_nothing());
        }
        match what {
            What::Group(alternatives) => self.alternatives(alternatives, after),
            What::Rule(id) => {
                self.changed |= self.of_rules[*id].2.extend(after);
                (self.of_rules[*id].0.clone(), self.of_rules[*id].1)
            }
            What::Text(text) => {
                let letters: Vec<Item> = text
                    .chars()
                    .map(|c| Item { what: What::Class(false, vec![(c, c)]), min: 1, max: Some(1) })
                    .collect();
                self.alternatives(&vec![letters], after)
            }
            What::Class(..) => Default::default(),
        }
    }
}
