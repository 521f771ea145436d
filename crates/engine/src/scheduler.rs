//! Which sequences the next step works on, and on how many tokens of each.
//!
//! First come, first served. Every running answer gets its next token in every step; what the step's budget
//! leaves goes to unread prompts in order of arrival. When blocks run out, the sequence that was admitted
//! last gives up its own and is read again later, so the first one always goes on and nothing starves.
//! The scheduler never runs the model and never talks to a caller.

use std::collections::VecDeque;

use foretoken_cache::BlockPool;

use crate::sequence::Sequence;
use crate::table::blocks_for;

/// Share of the step's budget that prompts may use while answers are being written: it bounds the pause
/// between two tokens of a running answer.
const PREFILL_SHARE_WHILE_DECODING: usize = 4;

/// Bounds of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tokens in one step.
    pub(crate) step_tokens: usize,
    /// Sequences that may run at a time.
    pub(crate) running_max: usize,
}

/// Tokens to compute of one running sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Index among the running sequences.
    pub(crate) index: usize,
    /// Tokens, at least one.
    pub(crate) rows: usize,
}

/// The running sequences, in order of admission, and those that had to step back.
pub(crate) struct Scheduler {
    pub(crate) running: Vec<Sequence>,
    /// Preempted, the earliest admitted first; they go before anything in the queue.
    pub(crate) preempted: VecDeque<Sequence>,
    pub(crate) preemptions: u64,
    limits: Limits,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Scheduler {
        Scheduler { running: Vec::new(), preempted: VecDeque::new(), preemptions: 0, limits }
    }

    /// Whether a sequence of `tokens` tokens can start now without taking blocks from another.
    pub(crate) fn has_room(&self, pool: &BlockPool, tokens: usize) -> bool {
        let promised: usize = self
            .running
            .iter()
            .map(|seq| blocks_for(seq.tokens.len()).saturating_sub(seq.table.blocks()))
            .sum();
        self.running.len() < self.limits.running_max
            && pool.counts().free >= promised + blocks_for(tokens + 1)
    }

    /// Brings preempted sequences back while there is room. True if none is left waiting.
    pub(crate) fn readmit(&mut self, pool: &BlockPool) -> bool {
        while let Some(seq) = self.preempted.front() {
            if !self.has_room(pool, seq.tokens.len()) {
                return false;
            }
            self.running.extend(self.preempted.pop_front());
        }
        true
    }

    /// The work of the next step. Reserves the blocks it needs; may preempt.
    pub(crate) fn plan(&mut self, pool: &BlockPool) -> Vec<Work> {
        let mut work = Vec::new();
        let mut budget = self.limits.step_tokens;
        let mut index = 0;
        while index < self.running.len() && budget > 0 {
            if self.running[index].pending() == 1 && self.reserve(pool, index, 1) {
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
            if self.running[index].pending() > 1 && self.reserve(pool, index, rows) {
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

    /// Makes room for `rows` more tokens of a running sequence, preempting later ones if need be. False if
    /// the sequence itself had to step back.
    fn reserve(&mut self, pool: &BlockPool, index: usize, rows: usize) -> bool {
        loop {
            let seq = &mut self.running[index];
            let needed = seq.committed + rows;
            if seq.table.reserve(pool, needed) {
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
