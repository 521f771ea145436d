//! Which rules of a grammar can be terminals without losing a text.
//!
//! A lexer takes the longest match and tries no other. That loses nothing where no text of a terminal goes on, within it or
//! within another terminal, with a character that may also follow it in the grammar. So regular rules start as
//! terminals and literals as they are; those that are too greedy are taken apart, in the end down to single characters, of
//! which none is the beginning of another. The invariant: what is found is exact, unless the work for it is bounded.

use std::collections::{BTreeMap, BTreeSet};

use super::automaton::{Automaton, Set};
use super::{Alternatives, Item, What};

/// Steps of looking into a grammar after which the rest is left as it is: a tenth of a second, about.
const WORK_MAX: usize = 30_000_000;

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
    let mut known = Known { rules, automata: BTreeMap::new(), work: WORK_MAX };
    while !regular[root] && cut.improve(&mut known) {}
    cut
}

impl Cut {
    /// Takes apart what is too greedy; false if nothing is.
    fn improve(&mut self, known: &mut Known<'_>) -> bool {
        let Some(lexemes) = Follow::of(known, self) else { return false };
        for (one, followed_by) in &lexemes {
            for other in lexemes.keys() {
                match known.automata[one].goes_on(&known.automata[other], &mut known.work) {
                    Some(more) if more.meets(followed_by) => {}
                    Some(_) => continue,
                    None => return false,
                }
                match other {
                    Lexeme::Terminal(id) => self.terminals[*id] = false,
                    Lexeme::Text(text) => drop(self.split.insert(text.clone())),
                    // A single character does not go on.
                    Lexeme::Class(..) => continue,
                }
                return true;
            }
        }
        false
    }
}

/// What is known however the grammar is cut.
struct Known<'a> {
    rules: &'a [&'a Alternatives],
    automata: BTreeMap<Lexeme, Automaton>,
    /// Steps that are left.
    work: usize,
}

/// What may follow each lexeme.
struct Follow<'a, 'b> {
    known: &'a mut Known<'b>,
    cut: &'a Cut,
    lexemes: BTreeMap<Lexeme, Set>,
    /// By rule: what it begins with, whether it may be empty, what may follow it.
    of_rules: Vec<(Set, bool, Set)>,
    changed: bool,
}

impl<'a, 'b> Follow<'a, 'b> {
    /// `None` if a terminal is too large to be looked into, or the work is too much.
    fn of(known: &'a mut Known<'b>, cut: &'a Cut) -> Option<BTreeMap<Lexeme, Set>> {
        let rules = known.rules;
        let of_rules = vec![Default::default(); rules.len()];
        let mut follow = Follow { known, cut, lexemes: BTreeMap::new(), of_rules, changed: true };
        let recursive = || rules.iter().enumerate().filter(|(id, _)| !cut.terminals[*id]);
        for (_, rule) in recursive() {
            follow.collect(rule)?;
        }
        while std::mem::take(&mut follow.changed) {
            for (id, rule) in recursive() {
                let after = follow.of_rules[id].2.clone();
                let (first, empty) = follow.alternatives(rule, &after)?;
                let of = &mut follow.of_rules[id];
                follow.changed |= of.0.extend(&first) | (empty && !std::mem::replace(&mut of.1, empty));
            }
        }
        Some(follow.lexemes)
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
        self.lexemes.entry(lexeme.clone()).or_default();
        if self.known.automata.contains_key(&lexeme) {
            return Some(());
        }
        let once = |what| vec![vec![Item { what, min: 1, max: Some(1) }]];
        let Known { rules, work, .. } = self.known;
        let automaton = match &lexeme {
            Lexeme::Terminal(id) => Automaton::of(rules[*id], rules, work),
            Lexeme::Text(text) => Automaton::of(&once(What::Text(text.clone())), rules, work),
            Lexeme::Class(others, ranges) => {
                Automaton::of(&once(What::Class(*others, ranges.clone())), rules, work)
            }
        };
        self.known.automata.insert(lexeme, automaton?);
        Some(())
    }

    /// What an expression begins with and whether it may be empty, noting what follows its parts. `None` if the work is
    /// too much.
    fn alternatives(&mut self, alternatives: &Alternatives, after: &Set) -> Option<(Set, bool)> {
        let (mut first, mut empty) = (Set::default(), false);
        for sequence in alternatives {
            let (mut begins, mut nothing) = (Set::default(), true);
            let mut follows = after.clone();
            for item in sequence.iter().rev().filter(|item| item.max != Some(0)) {
                let (of_item, may_be_empty) = self.item(item, &follows)?;
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
        Some((first, empty))
    }

    fn item(&mut self, item: &Item, after: &Set) -> Option<(Set, bool)> {
        let mut after = after.clone();
        // What repeats follows itself; twice, since what it begins with is found on the way.
        let rounds = if item.max == Some(1) { 1 } else { 2 };
        let mut result = Default::default();
        for _ in 0..rounds {
            result = self.once(&item.what, &after)?;
            after.extend(&result.0);
        }
        Some((result.0, result.1 || item.min == 0))
    }

    fn once(&mut self, what: &What, after: &Set) -> Option<(Set, bool)> {
        self.known.work = self.known.work.checked_sub(1 + after.len())?;
        if let Some(lexeme) = self.lexeme(what) {
            self.changed |= self.lexemes.get_mut(&lexeme)?.extend(after);
            let automaton = self.known.automata.get(&lexeme)?;
            return Some((automaton.first(), automaton.takes_nothing()));
        }
        match what {
            What::Group(alternatives) => self.alternatives(alternatives, after),
            What::Rule(id) => {
                self.changed |= self.of_rules[*id].2.extend(after);
                Some((self.of_rules[*id].0.clone(), self.of_rules[*id].1))
            }
            What::Text(text) => {
                let one = |c| Item { what: What::Class(false, vec![(c, c)]), min: 1, max: Some(1) };
                self.alternatives(&vec![text.chars().map(one).collect()], after)
            }
            What::Class(..) => None,
        }
    }
}
