//! Which sequences the next step works on, and on how many tokens of each.
//!
//! Every running answer gets its next token in every step; the rest of the step's token budget goes to prefills, by the
//! owners' turns ([`fairness`](crate::fairness)) and within a tenant in order of arrival. When blocks run out, the
//! youngest sequence of the owner that runs the most is preempted and resumed later. The invariant: the oldest running
//! sequence is never preempted, so it always continues, and nothing starves. The scheduler never runs the model and
//! never talks to a caller.

use foretoken_cache::{ContextCache, RecomputeCost, ScopeId};

use crate::block_table::blocks_for;
use crate::capacity::windowed_held;
use crate::fairness::{Demand, Fairness, Owner, Places};
use crate::inbox::Inbox;
use crate::job::Job;
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
    /// Running sequences of one tenant, at most.
    pub(crate) per_tenant_max: usize,
}

/// Fairness preempts no further sequence while this many per running place are preempted already.
const PREEMPTED_PER_PLACE: usize = 4;

/// The running sequences, in order of admission, and the preempted ones.
pub(crate) struct Scheduler {
    pub(crate) running: Vec<Sequence>,
    /// Preempted, in order of arrival; they go before anything that the same tenant has in the queue.
    pub(crate) preempted: Vec<Sequence>,
    pub(crate) preemptions: u64,
    /// Measured cost of computing a prompt token.
    pub(crate) cost: RecomputeCost,
    limits: Limits,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Scheduler {
        Scheduler {
            running: Vec::new(),
            preempted: Vec::new(),
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
        if self.running.len() >= self.limits.running_max {
            return false;
        }
        let held: usize = self.running.iter().map(|seq| seq.table.sealed()).sum();
        // A held block may be a pinned one.
        let available = cache.available_max().saturating_sub(held.max(cache.pinned()));
        let reserved: usize = self
            .running
            .iter()
            .map(|seq| blocks_for(seq.tokens.len()).saturating_sub(seq.table.blocks()))
            .sum();
        available >= reserved + blocks_for(tokens + 1) && self.has_windowed_room(cache, tokens)
    }

    /// Whether there are windowed parts for a further sequence of `tokens` tokens. All but those of running sequences can
    /// be evicted, unless they are pinned.
    fn has_windowed_room(&self, cache: &ContextCache, tokens: usize) -> bool {
        let Some(room) = cache.windowed_max() else { return true };
        let lengths = || self.running.iter().map(|seq| seq.tokens.len()).chain([tokens]).map(|len| len + 1);
        let held: usize = lengths().map(|len| windowed_held(&cache.layout(), len)).sum();
        let all: usize = lengths().map(blocks_for).sum();
        all.min(held + blocks_for(self.limits.step_tokens)) <= room
    }

    /// Demand of every owner with a request; `queued` are the owners with requests in the inbox and the arrival number
    /// of the first one.
    fn demand(&self, queued: Vec<(Owner<ScopeId>, u64)>) -> Demand<ScopeId> {
        let mut demand = Demand::default();
        self.running.iter().for_each(|seq| demand.add_running(seq.owner));
        // A preempted one arrived before anything that its owner has in the queue.
        self.preempted.iter().for_each(|seq| demand.add_waiting(seq.owner, seq.id));
        queued.into_iter().for_each(|(owner, arrived)| demand.add_waiting(owner, arrived));
        demand
    }

    /// The work of the next step. Allocates the blocks it needs; may preempt.
    pub(crate) fn plan(&mut self, cache: &ContextCache, fairness: &Fairness<ScopeId>) -> Vec<Work> {
        let mut planned = Vec::new();
        let mut budget = self.limits.step_tokens;
        for id in self.by_turns(fairness, |seq| seq.pending() == 1) {
            if budget > 0 && self.reserve(cache, id, 1) {
                planned.push((id, 1));
                budget -= 1;
            }
        }
        if !planned.is_empty() {
            budget = budget.min((self.limits.step_tokens / PREFILL_SHARE_WHILE_DECODING).max(1));
        }
        for id in self.by_turns(fairness, Sequence::is_reading) {
            let Some(seq) = self.running.iter().find(|seq| seq.id == id) else { continue };
            let rows = seq.pending().min(budget);
            if rows > 0 && self.reserve(cache, id, rows) {
                planned.push((id, rows));
                budget -= rows;
            }
        }
        // A sequence planned early may have been preempted for a later one.
        let rows_of = |id| planned.iter().find(|(planned, _)| *planned == id).map(|(_, rows)| *rows);
        let running = self.running.iter().enumerate();
        running.filter_map(|(index, seq)| rows_of(seq.id).map(|rows| Work { index, rows })).collect()
    }

    /// Running sequences that `include` selects, by their owners' turns and each owner's in order of arrival.
    fn by_turns(&self, fairness: &Fairness<ScopeId>, include: impl Fn(&Sequence) -> bool) -> Vec<u64> {
        let running = self.running.iter().filter(|seq| include(seq));
        let mut turns: Vec<_> = running.map(|seq| (fairness.served(seq.owner), seq.id)).collect();
        turns.sort_unstable();
        turns.into_iter().map(|(_, id)| id).collect()
    }

    /// Allocates blocks for `rows` more tokens of a running sequence, preempting others if needed. False if the
    /// sequence itself was preempted.
    fn reserve(&mut self, cache: &ContextCache, id: u64, rows: usize) -> bool {
        while let Some(seq) = self.running.iter_mut().find(|seq| seq.id == id) {
            let needed = seq.committed + rows;
            if seq.table.reserve(cache, needed) {
                return true;
            }
            let demand = self.demand(Vec::new());
            let running = self.running.iter().enumerate();
            let youngest = running.max_by_key(|(_, seq)| (demand.running(seq.owner), seq.id));
            if let Some(index) = youngest.map(|(index, _)| index) {
                self.preempt(cache, index);
            }
        }
        false
    }

    fn preempt(&mut self, cache: &ContextCache, index: usize) {
        let mut seq = self.running.remove(index);
        seq.preempt(cache);
        let place = self.preempted.partition_point(|other| other.id < seq.id);
        self.preempted.insert(place, seq);
        self.preemptions += 1;
    }
}

/// Admission of one step: the queue and the places that requests move between.
pub(crate) struct Admission<'a, F> {
    pub(crate) scheduler: &'a mut Scheduler,
    pub(crate) cache: &'a ContextCache,
    pub(crate) inbox: &'a Inbox<ScopeId, Job>,
    /// Makes a sequence of a job and its arrival number.
    pub(crate) begin: F,
}

impl<F: FnMut(Job, u64) -> Sequence> Places<ScopeId> for Admission<'_, F> {
    fn demand(&self) -> Demand<ScopeId> {
        self.scheduler.demand(self.inbox.heads())
    }

    fn has_room(&self, owner: Owner<ScopeId>) -> bool {
        let preempted = self.scheduler.preempted.iter().find(|seq| seq.owner == owner);
        let tokens = match preempted {
            Some(seq) => Some(seq.tokens.len()),
            None => self.inbox.peek(owner, |job| job.request.prompt.len()),
        };
        tokens.is_some_and(|tokens| self.scheduler.has_room(self.cache, tokens))
    }

    fn start(&mut self, owner: Owner<ScopeId>) {
        let preempted = &mut self.scheduler.preempted;
        let seq = match preempted.iter().position(|seq| seq.owner == owner) {
            Some(place) => Some(preempted.remove(place)),
            None => self.inbox.pop(owner).map(|(arrived, job)| (self.begin)(job, arrived)),
        };
        if let Some(seq) = seq {
            self.scheduler.start(self.cache, seq);
        }
    }

    fn preempt_youngest(&mut self, owner: Owner<ScopeId>) -> bool {
        let Scheduler { running, preempted, limits, .. } = &*self.scheduler;
        let of_owner = running.iter().enumerate().filter(|(_, seq)| seq.owner == owner);
        let youngest = of_owner.max_by_key(|(_, seq)| seq.id).map(|(index, _)| index);
        if preempted.len() >= PREEMPTED_PER_PLACE * limits.running_max {
            return false;
        }
        youngest.is_some_and(|index| {
            self.scheduler.preempt(self.cache, index);
            true
        })
    }
}

/// Lets `seq` wait for the earlier sequence that computes the longest prefix of it, if any does.
fn follow(seq: &mut Sequence, earlier: &[Sequence]) {
    let best = earlier.iter().map(|other| (seq.shared_with(other), other)).max_by_key(|(shared, _)| *shared);
    seq.follows = best
        .filter(|(shared, other)| *shared > seq.committed && other.committed < *shared)
        .map(|(shared, other)| (other.id, shared));
}
