//! Finite automata of the regular parts of a grammar, small ones: what may follow where.
//!
//! States are sets of places in an expression (subset construction). Whatever is larger than the bounds has no automaton.

use std::collections::HashMap;

use super::{Alternatives, What};

/// Largest number of places, and of sets of them.
const PLACES_MAX: usize = 4000;
const STATES_MAX: usize = 1500;

/// A set of characters: ranges of code points, rising and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<(u32, u32)>);

impl Set {
    pub(super) fn of(others: bool, ranges: &[(char, char)]) -> Set {
        let mut set = Set::default();
        ranges.iter().for_each(|&(first, last)| set.add(u32::from(first), u32::from(last)));
        if others { set.inverted() } else { set }
    }

    fn add(&mut self, first: u32, last: u32) {
        self.0.push((first, last));
        self.0.sort_unstable();
        let mut apart: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for &(first, last) in &self.0 {
            match apart.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => apart.push((first, last)),
            }
        }
        self.0 = apart;
    }

    fn inverted(&self) -> Set {
        let mut free = 0;
        let mut set = Set::default();
        for &(first, last) in &self.0 {
            if free < first {
                set.0.push((free, first - 1));
            }
            free = last + 1;
        }
        if free <= u32::from(char::MAX) {
            set.0.push((free, u32::from(char::MAX)));
        }
        set
    }

    /// Adds another set; true if that had something new.
    pub(super) fn extend(&mut self, other: &Set) -> bool {
        let before = self.clone();
        other.0.iter().for_each(|&(first, last)| self.add(first, last));
        *self != before
    }

    /// Number of its ranges.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn meets(&self, other: &Set) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
    }

    fn has(&self, point: u32) -> bool {
        self.0.iter().any(|&(first, last)| first <= point && point <= last)
    }
}

/// A state: whether a text may end here, and where each range of characters leads.
#[derive(Debug, Default)]
struct State {
    ends: bool,
    next: Vec<((u32, u32), usize)>,
}

/// See the [module](self). The first state is the start.
#[derive(Debug)]
pub(super) struct Automaton(Vec<State>);

impl Automaton {
    /// The automaton of an expression, in which all rules are regular. `None` if it is too large, or `work` is used up.
    pub(super) fn of(
        alternatives: &Alternatives,
        rules: &[&Alternatives],
        work: &mut usize,
    ) -> Option<Automaton> {
        let mut places = Places { rules, places: vec![Place::default(), Place::default()] };
        places.alternatives(alternatives, 0, 1)?;
        places.determinised(work)
    }

    /// Whether the empty text is one of its texts.
    pub(super) fn takes_nothing(&self) -> bool {
        self.0[0].ends
    }

    /// With what its texts begin.
    pub(super) fn first(&self) -> Set {
        self.after(0)
    }

    fn after(&self, state: usize) -> Set {
        let mut set = Set::default();
        self.0[state].next.iter().for_each(|&((first, last), _)| set.add(first, last));
        set
    }

    /// The characters that go on after a text of `self` towards a text of `other`, which may be the same: `None` if there
    /// are too many ways to tell. `work` is used up.
    pub(super) fn goes_on(&self, other: &Automaton, work: &mut usize) -> Option<Set> {
        let mut seen = HashMap::from([((0, 0), ())]);
        let mut left = vec![(0, 0)];
        let mut set = Set::default();
        while let Some((mine, theirs)) = left.pop() {
            if self.0[mine].ends && (mine, theirs) != (0, 0) {
                set.extend(&other.after(theirs));
            }
            for &(a, mine) in &self.0[mine].next {
                for &(b, theirs) in &other.0[theirs].next {
                    *work = work.checked_sub(1)?;
                    if a.0 <= b.1 && b.0 <= a.1 && seen.insert((mine, theirs), ()).is_none() {
                        left.push((mine, theirs));
                    }
                }
            }
        }
        Some(set)
    }
}

/// A place between characters.
#[derive(Clone, Default)]
struct Place {
    /// Characters, and the place after them.
    next: Vec<(Set, usize)>,
    /// Places that are reached without a character.
    free: Vec<usize>,
}

struct Places<'a> {
    rules: &'a [&'a Alternatives],
    places: Vec<Place>,
}

impl Places<'_> {
    fn add(&mut self) -> Option<usize> {
        self.places.push(Place::default());
        (self.places.len() <= PLACES_MAX).then_some(self.places.len() - 1)
    }

    fn alternatives(&mut self, alternatives: &Alternatives, from: usize, to: usize) -> Option<()> {
        for sequence in alternatives {
            let mut at = from;
            for item in sequence {
                at = self.repeated(&item.what, (item.min, item.max), at)?;
            }
            self.places[at].free.push(to);
        }
        Some(())
    }

    /// Adds an element as often as it comes; returns the place after it.
    fn repeated(&mut self, what: &What, (min, max): (u32, Option<u32>), from: usize) -> Option<usize> {
        let mut at = from;
        for _ in 0..min {
            at = self.once(what, at)?;
        }
        let Some(max) = max else {
            let start = self.add()?;
            self.places[at].free.push(start);
            let end = self.once(what, start)?;
            self.places[end].free.push(start);
            let after = self.add()?;
            self.places[start].free.push(after);
            return Some(after);
        };
        let after = self.add()?;
        for _ in min..max {
            self.places[at].free.push(after);
            at = self.once(what, at)?;
        }
        self.places[at].free.push(after);
        Some(after)
    }

    fn once(&mut self, what: &What, from: usize) -> Option<usize> {
        match what {
            What::Text(text) => text.chars().try_fold(from, |at, c| {
                let next = self.add()?;
                self.places[at].next.push((Set::of(false, &[(c, c)]), next));
                Some(next)
            }),
            What::Class(others, ranges) => {
                let next = self.add()?;
                self.places[from].next.push((Set::of(*others, ranges), next));
                Some(next)
            }
            What::Rule(id) => {
                let (start, after, rule) = (self.add()?, self.add()?, self.rules[*id]);
                self.places[from].free.push(start);
                self.alternatives(rule, start, after)?;
                Some(after)
            }
            What::Group(alternatives) => {
                let (start, after) = (self.add()?, self.add()?);
                self.places[from].free.push(start);
                self.alternatives(alternatives, start, after)?;
                Some(after)
            }
        }
    }

    /// A set of places with all that are reached without a character.
    fn closed(&self, mut left: Vec<usize>) -> Vec<usize> {
        let mut closed = Vec::new();
        let mut seen = vec![false; self.places.len()];
        while let Some(at) = left.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                closed.push(at);
                left.extend(&self.places[at].free);
            }
        }
        closed.sort_unstable();
        closed
    }

    fn determinised(&self, work: &mut usize) -> Option<Automaton> {
        let start = self.closed(vec![0]);
        let mut known = HashMap::from([(start.clone(), 0)]);
        let mut sets = vec![start];
        let mut states = Vec::new();
        while states.len() < sets.len() {
            let set = sets[states.len()].clone();
            let edges: Vec<&(Set, usize)> = set.iter().flat_map(|&at| &self.places[at].next).collect();
            // Between two neighbouring bounds all characters lead to the same places.
            let ranges = edges.iter().flat_map(|(set, _)| &set.0);
            let mut bounds: Vec<u32> = ranges.flat_map(|&(first, last)| [first, last + 1]).collect();
            bounds.sort_unstable();
            bounds.dedup();
            let mut state = State { ends: set.contains(&1), next: Vec::new() };
            for pair in bounds.windows(2) {
                let to: Vec<usize> =
                    edges.iter().filter(|(set, _)| set.has(pair[0])).map(|&&(_, to)| to).collect();
                if to.is_empty() {
                    continue;
                }
                *work = work.checked_sub(self.places.len() + edges.len())?;
                let to = self.closed(to);
                let id = *known.entry(to.clone()).or_insert_with(|| {
                    sets.push(to);
                    sets.len() - 1
                });
                state.next.push(((pair[0], pair[1] - 1), id));
            }
            states.push(state);
            if sets.len() > STATES_MAX {
                return None;
            }
        }
        Some(Automaton(states))
    }
}
