//! Which sequences the next step works on, and on how many tokens of each.
//!
//! First come, first served. Every running answer gets its next token in every step; the rest of the step's
//! token budget goes to prefills in order of arrival. When blocks run out, the sequence that was admitted
//! last is preempted and resumed later, so the first one always continues and nothing starves.
//! The scheduler never runs the model and never talks to a caller.

use std::collections::VecDeque;

use foretoken_cache::{ContextCache, RecomputeCost};

use crate::block_table::blocks_for;
use crate::sequence::Sequence;
use crate::work::Work;

/// Divisor of the step's token budget that prefills may use while sequences decode: it bounds the latency
/// between two tokens of a running answer.
const PREFILL_SHARE_WHILE_DECODING: usize = 4;

/// Bounds of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tokens in one step.
    pub(crate) step_tokens: usize,
    /// Running sequences, at most.
    pub(crate) running_max: usize,
}

/// The running sequences, in order of admission, and the preempted ones.
pub(crate) struct Scheduler {
    pub(crate) running: Vec<Sequence>,
    /// Preempted, the earliest admitted first; they go before anything in the queue.
    pub(crate) preempted: VecDeque<Sequence>,
    pub(crate) preemptions: u64,
    /// Measured cost of computing a prompt token.
    pub(crate) cost: RecomputeCost,
    limits: Limits,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Scheduler {
        Scheduler {
            running: Vec::new(),
            preempted: VecDeque::new(),
            preemptions: 0,
            cost: RecomputeCost::default(),
            limits,
        }
    }

    /// Starts a sequence: from the cache, or waiting for one that is computing the same prefix.
    pub(crate) fn start(&mut self, cache: &ContextCache, mut seq: Sequence) {
        seq.attach(cache, self.cost, true);
        follow(&mut seq, &self.running);
        self.running.push(seq);
    }

    /// Resumes sequences whose awaited blocks have arrived, from a slower tier or from another sequence.
    pub(crate) fn wake(&mut self, cache: &ContextCache) {
        for index in 0..self.running.len() {
            let (earlier, rest) = self.running.split_at_mut(index);
            let Some(seq) = rest.first_mut() else { continue };
            if let Some(restore) = &mut seq.restore {
                if !cache.poll_restore(restore).done {
                    continue;
                }
                // Restored blocks are in memory now; the rest is computed.
                seq.attach(cache, self.cost, false);
                follow(seq, earlier);
            } else if let Some((leader, end)) = seq.follows {
                let leader = earlier.iter().find(|other| other.id == leader);
                if leader.is_some_and(|leader| leader.committed < end) {
                    continue;
                }
                seq.attach(cache, self.cost, false);
                follow(seq, earlier);
            }
        }
    }

    /// Whether a sequence of `tokens` tokens can start now without taking blocks from another.
    pub(crate) fn has_room(&self, cache: &ContextCache, tokens: usize) -> bool {
        let held: usize = self.running.iter().map(|seq| seq.table.sealed()).sum();
        // A held block may be a pinned one.
        let available = cache.available_max().saturating_sub(held.max(cache.pinned()));
        let reserved: usize = self
            .running
            .iter()
            .map(|seq| blocks_for(seq.tokens.len()).saturating_sub(seq.table.blocks()))
            .sum();
        self.running.len() < self.limits.running_max && available >= reserved + blocks_for(tokens + 1)
    }

    /// Resumes preempted sequences while there is room. True if none is left.
    pub(crate) fn readmit(&mut self, cache: &ContextCache) -> bool {
        while let Some(seq) = self.preempted.front() {
            if !self.has_room(cache, seq.tokens.len()) {
                return false;
            }
            if let Some(seq) = self.preempted.pop_front() {
                self.start(cache, seq);
            }
        }
        true
    }

    /// The work of the next step. Reserves the blocks it needs; may preempt.
    pub(crate) fn plan(&mut self, cache: &ContextCache) -> Vec<Work> {
        let mut work = Vec::new();
        let mut budget = self.limits.step_tokens;
        let mut index = 0;
        while index < self.running.len() && budget > 0 {
            if self.running[index].pending() == 1 && self.reserve(cache, index, 1) {
                work.push(Work { index, rows: 1 });
                budget -= 1;
            }
            index += 1;
        }
        if !work.is_empty() {
            budget = budget.min((self.limits.step_tokens / PREFILL_SHARE_WHILE_DECODING).max(1));
        }
        let mut index = 0;
        while index < self.running.len() && budget > 0 {
            let rows = self.running[index].pending().min(budget);
            if self.running[index].is_reading() && self.reserve(cache, index, rows) {
                work.push(Work { index, rows });
                budget -= rows;
            }
            index += 1;
        }
        // A sequence planned early may have been preempted for a later one.
        work.retain(|work| work.index < self.running.len());
        work.sort_unstable_by_key(|work| work.index);
        work
    }

    /// Allocates blocks for `rows` more tokens of a running sequence, preempting later ones if needed. False if
    /// the sequence itself was preempted.
    fn reserve(&mut self, cache: &ContextCache, index: usize, rows: usize) -> bool {
        loop {
            let seq = &mut self.running[index];
            let needed = seq.committed + rows;
            if seq.table.reserve(cache, needed) {
                return true;
            }
            let Some(mut last) = self.running.pop() else { return false };
            last.preempt();
            self.preempted.push_front(last);
            self.preemptions += 1;
            if self.running.len() == index {
                return false;
            }
        }
    }
}

/// Lets `seq` wait for the earlier sequence that computes the longest prefix of it, if any does.
fn follow(seq: &mut Sequence, earlier: &[Sequence]) {
    let best = earlier.iter().map(|other| (seq.shared_with(other), other)).max_by_key(|(shared, _)| *shared);
    seq.follows = best
        .filter(|(shared, other)| *shared > seq.committed && other.committed < *shared)
        .map(|(shared, other)| (other.id, shared));
}
