//! A suffix automaton over sequences of tokens: where a text occurred before, and which tokens followed it.
//!
//! The online construction of Blumer et al. (1985) for several texts, with occurrence counts: a state stands for all
//! substrings that end at the same places, its link for the longest suffix that ends at more. Reading a text with
//! a [`Cursor`] finds at each token, in amortised constant time, the longest suffix of what was read that occurs in
//! the automaton. It only grows; removing a text means building a new automaton.
//!
//! The invariant: a state's length is greater than its link's, and following links ends at the root.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A text may be any tokens but this one.
pub const NO_TOKEN: u32 = u32::MAX;
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Set in [`State::more`] once the state's further edges are also in the hash table.
const WIDE: u32 = 1 << 31;
/// Edges that are searched one by one before the hash table takes over.
const NARROW_EDGES: u32 = 24;
/// Vectors grow by this fraction, so that capacity stays close to length.
const GROWTH: usize = 32;

/// The first edge is stored in the state itself: most states have no other.
#[derive(Clone, Copy)]
struct State {
    len: u32,
    link: u32,
    /// Occurrences of the state's substrings.
    count: u32,
    /// Where the latest one ended, counted over all tokens ever pushed.
    end: u32,
    token: u32,
    target: u32,
    /// First of the further edges, and [`WIDE`].
    more: u32,
}

#[derive(Clone, Copy)]
struct Edge {
    token: u32,
    target: u32,
    next: u32,
}

/// Mixes a state and a token; an attacker has little control over either.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A token that followed a place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// The next token.
    pub token: u32,
    /// How often it followed.
    pub count: u32,
    /// The place after it.
    pub cursor: Cursor,
}

/// A place in an automaton: the longest known suffix of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    state: u32,
    len: u32,
}

impl Cursor {
    /// Tokens of the suffix.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no suffix of what was read occurs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// See the [module](self).
pub struct SuffixAutomaton {
    states: Vec<State>,
    edges: Vec<Edge>,
    wide: HashMap<u64, u32, BuildHasherDefault<Mix>>,
    /// The state of the whole text that is being pushed.
    last: u32,
    pushed: u32,
}

impl Default for SuffixAutomaton {
    fn default() -> Self {
        let root =
            State { len: 0, link: NONE, count: 0, end: 0, token: NO_TOKEN, target: NONE, more: NONE & !WIDE };
        Self { states: vec![root], edges: Vec::new(), wide: HashMap::default(), last: ROOT, pushed: 0 }
    }
}

impl SuffixAutomaton {
    /// Begins another text: no match spans the boundary.
    pub fn begin(&mut self) {
        self.last = ROOT;
    }

    /// Appends a token to the text, which must not be [`NO_TOKEN`].
    pub fn push(&mut self, token: u32) {
        self.pushed += 1;
        self.read(token, Some(self.pushed));
    }

    /// Appends a token that is not counted as pushed: the text so far is known, occurs once more, and its latest
    /// occurrence that counts stays where it was.
    pub fn recall(&mut self, token: u32) {
        self.read(token, None);
    }

    fn read(&mut self, token: u32, end: Option<u32>) {
        debug_assert_ne!(token, NO_TOKEN);
        self.last = self.extend(self.last, token);
        let mut at = self.last;
        while at != ROOT {
            let state = &mut self.states[at as usize];
            state.count += 1;
            state.end = end.unwrap_or(state.end);
            at = state.link;
        }
    }

    /// Tokens pushed so far, in all texts.
    pub fn pushed(&self) -> usize {
        self.pushed as usize
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        // A hash table keeps a seventh of its room free and one byte of metadata per entry.
        let entry = size_of::<(u64, u32)>() + 1;
        self.states.capacity() * size_of::<State>()
            + self.edges.capacity() * size_of::<Edge>()
            + self.wide.capacity() * 8 / 7 * entry
    }

    /// The place after reading one more token from `cursor`.
    pub fn advance(&self, cursor: Cursor, token: u32) -> Cursor {
        let Cursor { state, mut len } = self.settle(cursor);
        let mut at = state;
        loop {
            if let Some((_, target)) = self.find(at, token) {
                return Cursor { state: target, len: len + 1 };
            }
            if at == ROOT {
                return Cursor::default();
            }
            at = self.states[at as usize].link;
            len = self.states[at as usize].len;
        }
    }

    /// The place of the longest proper suffix that occurs at more places.
    pub fn shorten(&self, cursor: Cursor) -> Cursor {
        let state = self.settle(cursor).state;
        match self.states[state as usize].link {
            NONE => Cursor::default(),
            link => Cursor { state: link, len: self.states[link as usize].len },
        }
    }

    /// The longest suffix of the text being pushed that occurs elsewhere too.
    pub fn repeated(&self) -> Cursor {
        let len = self.states[self.last as usize].len;
        let whole = Cursor { state: self.last, len };
        // A text that was pushed before occurs elsewhere as a whole.
        if self.states[self.last as usize].count > 1 { whole } else { self.shorten(whole) }
    }

    /// How often the suffix occurs.
    pub fn count(&self, cursor: Cursor) -> u32 {
        self.states[self.settle(cursor).state as usize].count
    }

    /// Where its latest occurrence ended: the number of tokens pushed by then.
    pub fn latest_end(&self, cursor: Cursor) -> usize {
        self.states[self.settle(cursor).state as usize].end as usize
    }

    /// The most frequent next tokens, best first, at most `N`; ties go to the more recent.
    pub fn continuations<const N: usize>(&self, cursor: Cursor) -> ([Option<Continuation>; N], u32) {
        let Cursor { state, len } = self.settle(cursor);
        let mut best: [Option<Continuation>; N] = [None; N];
        let mut total = 0;
        self.each_edge(state, |token, target| {
            let State { count, end, .. } = self.states[target as usize];
            total += count;
            let mut new =
                Some((Continuation { token, count, cursor: Cursor { state: target, len: len + 1 } }, end));
            for slot in &mut best {
                let Some((candidate, end)) = new else { break };
                let have = slot.map(|have| (have.count, self.states[have.cursor.state as usize].end));
                if have.is_none_or(|have| (candidate.count, end) > have) {
                    let old = slot.replace(candidate);
                    new = old.map(|old| (old, self.states[old.cursor.state as usize].end));
                }
            }
        });
        (best, total)
    }

    /// Pushing may have split the cursor's state; its suffix then belongs to one of the links.
    fn settle(&self, cursor: Cursor) -> Cursor {
        let mut state = cursor.state;
        while state != ROOT && cursor.len <= self.states[self.states[state as usize].link as usize].len {
            state = self.states[state as usize].link;
        }
        Cursor { state, ..cursor }
    }

    fn extend(&mut self, last: u32, token: u32) -> u32 {
        let len = self.states[last as usize].len + 1;
        if let Some((_, next)) = self.find(last, token) {
            // This text is a known one so far.
            return if self.states[next as usize].len == len { next } else { self.split(last, next, token) };
        }
        let new = self.add_state(State {
            len,
            link: ROOT,
            count: 0,
            end: 0,
            token: NO_TOKEN,
            target: NONE,
            more: NONE & !WIDE,
        });
        let mut at = last;
        while at != NONE {
            if let Some((_, next)) = self.find(at, token) {
                let fits = self.states[next as usize].len == self.states[at as usize].len + 1;
                let link = if fits { next } else { self.split(at, next, token) };
                self.states[new as usize].link = link;
                break;
            }
            self.add_edge(at, token, new);
            at = self.states[at as usize].link;
        }
        new
    }

    /// Splits off a state for the substrings of `next` that are reached from `from` by `token`.
    fn split(&mut self, from: u32, next: u32, token: u32) -> u32 {
        let State { link, count, end, .. } = self.states[next as usize];
        let len = self.states[from as usize].len + 1;
        let new = self.add_state(State {
            len,
            link,
            count,
            end,
            token: NO_TOKEN,
            target: NONE,
            more: NONE & !WIDE,
        });
        let mut copies = Vec::new();
        self.each_edge(next, |token, target| copies.push((token, target)));
        // Edges are listed newest first; the copy keeps their order.
        for (token, target) in copies.into_iter().rev() {
            self.add_edge(new, token, target);
        }
        self.states[next as usize].link = new;
        let mut at = from;
        while at != NONE {
            match self.find(at, token) {
                Some((place, target)) if target == next => self.retarget(at, place, new),
                _ => break,
            }
            at = self.states[at as usize].link;
        }
        new
    }

    /// The edge of `token`: where it is kept (`NONE`: in the state itself) and where it leads.
    fn find(&self, state: u32, token: u32) -> Option<(u32, u32)> {
        let State { token: first, target, more, .. } = self.states[state as usize];
        if first == token {
            return Some((NONE, target));
        }
        if more & WIDE != 0 {
            let place = *self.wide.get(&wide_key(state, token))?;
            return Some((place, self.edges[place as usize].target));
        }
        let mut place = more;
        while place != NONE & !WIDE {
            let edge = self.edges[place as usize];
            if edge.token == token {
                return Some((place, edge.target));
            }
            place = edge.next;
        }
        None
    }

    fn each_edge(&self, state: u32, mut each: impl FnMut(u32, u32)) {
        let State { token, target, more, .. } = self.states[state as usize];
        if token == NO_TOKEN {
            return;
        }
        let mut place = more & !WIDE;
        while place != NONE & !WIDE {
            let edge = self.edges[place as usize];
            each(edge.token, edge.target);
            place = edge.next;
        }
        each(token, target);
    }

    fn add_state(&mut self, state: State) -> u32 {
        reserve_a_little(&mut self.states);
        self.states.push(state);
        (self.states.len() - 1) as u32
    }

    fn add_edge(&mut self, state: u32, token: u32, target: u32) {
        let at = state as usize;
        if self.states[at].token == NO_TOKEN {
            (self.states[at].token, self.states[at].target) = (token, target);
            return;
        }
        let wide = self.states[at].more & WIDE;
        let next = self.states[at].more & !WIDE;
        reserve_a_little(&mut self.edges);
        self.edges.push(Edge { token, target, next });
        let place = (self.edges.len() - 1) as u32;
        self.states[at].more = place | wide;
        if wide != 0 {
            self.wide.insert(wide_key(state, token), place);
        } else if self.is_long(place) {
            self.widen(state);
        }
    }

    fn is_long(&self, mut place: u32) -> bool {
        let mut edges = 0;
        while place != NONE & !WIDE && edges <= NARROW_EDGES {
            place = self.edges[place as usize].next;
            edges += 1;
        }
        edges > NARROW_EDGES
    }

    fn widen(&mut self, state: u32) {
        let mut place = self.states[state as usize].more;
        while place != NONE & !WIDE {
            let edge = self.edges[place as usize];
            self.wide.insert(wide_key(state, edge.token), place);
            place = edge.next;
        }
        self.states[state as usize].more |= WIDE;
    }

    fn retarget(&mut self, state: u32, place: u32, target: u32) {
        match place {
            NONE => self.states[state as usize].target = target,
            place => self.edges[place as usize].target = target,
        }
    }
}

fn wide_key(state: u32, token: u32) -> u64 {
    u64::from(state) << 32 | u64::from(token)
}

fn reserve_a_little<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact((items.len() / GROWTH).max(64));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(texts: &[Vec<u32>]) -> SuffixAutomaton {
        let mut automaton = SuffixAutomaton::default();
        for text in texts {
            automaton.begin();
            text.iter().for_each(|&token| automaton.push(token));
        }
        automaton
    }

    /// Occurrences of `part` in `texts`, each as the number of tokens pushed when it ended.
    fn ends(texts: &[Vec<u32>], part: &[u32]) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut before = 0;
        for text in texts {
            for end in part.len()..=text.len() {
                if text[..end].ends_with(part) {
                    ends.push(before + end);
                }
            }
            before += text.len();
        }
        ends
    }

    fn texts() -> impl Strategy<Value = Vec<Vec<u32>>> {
        // Few symbols make repeats; a few rare ones make wide states.
        let token = prop_oneof![4 => 0u32..3, 1 => 0u32..40];
        prop::collection::vec(prop::collection::vec(token, 0..40), 1..4)
    }

    proptest! {
        #[test]
        fn a_cursor_finds_the_longest_known_suffix_its_count_and_its_continuations(
            known in texts(),
            read in prop::collection::vec(0u32..4, 0..40),
        ) {
            let automaton = of(&known);
            let mut cursor = Cursor::default();
            for end in 1..=read.len() {
                cursor = automaton.advance(cursor, read[end - 1]);
                let longest = (0..=end).rev().find(|&n| n == 0 || !ends(&known, &read[end - n..end]).is_empty());
                prop_assert_eq!(Some(cursor.len()), longest);
                if cursor.is_empty() {
                    continue;
                }
                let suffix = &read[end - cursor.len()..end];
                let places = ends(&known, suffix);
                prop_assert_eq!(automaton.count(cursor) as usize, places.len());
                prop_assert_eq!(Some(automaton.latest_end(cursor)), places.iter().max().copied());
                let (next, total) = automaton.continuations::<64>(cursor);
                let mut sum = 0;
                for found in next.into_iter().flatten() {
                    let longer: Vec<u32> = suffix.iter().copied().chain([found.token]).collect();
                    prop_assert_eq!(found.count as usize, ends(&known, &longer).len());
                    prop_assert_eq!(found.cursor.len(), longer.len());
                    sum += found.count;
                }
                prop_assert_eq!(sum, total);
                let counts: Vec<u32> = next.iter().map(|found| found.map_or(0, |found| found.count)).collect();
                prop_assert!(counts.is_sorted_by(|a, b| a >= b), "best first: {counts:?}");
            }
        }

        #[test]
        fn a_cursor_stays_right_while_the_automaton_grows(known in texts(), read in prop::collection::vec(0u32..3, 1..30)) {
            let mut automaton = SuffixAutomaton::default();
            let mut so_far: Vec<Vec<u32>> = Vec::new();
            let mut cursor = Cursor::default();
            let mut steps = read.iter().enumerate();
            for text in &known {
                automaton.begin();
                so_far.push(Vec::new());
                for &token in text {
                    automaton.push(token);
                    so_far.last_mut().unwrap().push(token);
                    if let Some((at, &token)) = steps.next() {
                        cursor = automaton.advance(cursor, token);
                        let suffix = &read[at + 1 - cursor.len()..=at];
                        prop_assert_eq!(automaton.count(cursor) as usize, if suffix.is_empty() { 0 } else { ends(&so_far, suffix).len() });
                    }
                }
            }
        }

        #[test]
        fn the_repeated_suffix_of_one_text_is_the_longest_that_occurs_twice(text in prop::collection::vec(0u32..3, 1..60)) {
            let automaton = of(std::slice::from_ref(&text));
            let twice = (0..text.len()).rev().find(|&n| ends(std::slice::from_ref(&text), &text[text.len() - n..]).len() > 1);
            prop_assert_eq!(automaton.repeated().len(), twice.unwrap_or(0));
        }
    }
}
