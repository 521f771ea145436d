//! Fair admission: whose request is admitted next, and whose sequence is preempted for it.
//!
//! Two levels, by the same rules: callers (API keys) first, then the tenants (users) of one caller, so that a caller
//! gains nothing by inventing users. A virtual token counter each (Sheng et al., "Fairness in Serving Large Language
//! Models", OSDI 2024): computed prompt tokens count 1, generated tokens 2, and the lowest counter is next. Who returns
//! after a pause starts at the lowest counter of the active ones, so no credit accumulates while idle. In addition
//! running places are shared: while others wait, nobody starts more sequences than their share, and a request of an
//! owner below its share preempts the youngest sequence of the one that runs the most. Within a tenant admission is
//! first come, first served.
//!
//! This is policy only: counts and counters, no blocks, sequences or queues. The invariants: a decision depends on the
//! demand and the counters, never on time; and preemption only ever makes running places more equal, so no two tenants
//! can preempt each other in a loop.

use std::collections::{BTreeMap, BTreeSet};

/// Weights of the virtual token counter, as in the paper: a generated token costs more than one of a prompt.
const PROMPT_TOKEN: u64 = 1;
const GENERATED_TOKEN: u64 = 2;
/// How far an active counter may lag behind the highest one. Bounds how long an owner that used little so far can delay
/// the others' prefills.
const LAG_MAX: u64 = 16_384;
/// Counters of inactive owners that are kept because they are ahead of the active ones, at most.
const INACTIVE_MAX: usize = 1024;

/// Whose a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner<K> {
    /// The API key.
    pub(crate) caller: K,
    /// The caller's user: the scope of the caches.
    pub(crate) tenant: K,
}

/// Demand of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Running sequences.
    pub(crate) running: usize,
    /// Arrival number of its first waiting request; `None` if none waits.
    pub(crate) waiting: Option<u64>,
}

/// Demand of every owner with a request.
#[derive(Clone, Debug)]
pub(crate) struct Demand<K>(BTreeMap<Owner<K>, Need>);

impl<K> Default for Demand<K> {
    fn default() -> Self {
        Demand(BTreeMap::new())
    }
}

/// Demand of one caller.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    running: usize,
    tenants: usize,
}

impl<K: Copy + Ord> Demand<K> {
    /// Counts a running sequence.
    pub(crate) fn add_running(&mut self, owner: Owner<K>) {
        self.0.entry(owner).or_default().running += 1;
    }

    /// Adds a waiting request with its arrival number, the first one of an owner first.
    pub(crate) fn add_waiting(&mut self, owner: Owner<K>, arrived: u64) {
        self.0.entry(owner).or_default().waiting.get_or_insert(arrived);
    }

    /// Running sequences of the owner's caller and of the owner.
    pub(crate) fn running(&self, owner: Owner<K>) -> (usize, usize) {
        (self.total(owner.caller).running, self.0.get(&owner).map_or(0, |need| need.running))
    }

    fn total(&self, caller: K) -> Total {
        let of_caller = self.0.iter().filter(|(owner, _)| owner.caller == caller);
        of_caller.fold(Total::default(), |sum, (_, need)| Total {
            running: sum.running + need.running,
            tenants: sum.tenants + 1,
        })
    }

    fn totals(&self) -> BTreeMap<K, Total> {
        let mut totals: BTreeMap<K, Total> = BTreeMap::new();
        for (owner, need) in &self.0 {
            let total = totals.entry(owner.caller).or_default();
            total.running += need.running;
            total.tenants += 1;
        }
        totals
    }
}

/// The queue and the running places, as admission changes them.
pub(crate) trait Places<K> {
    /// Demand of every owner with a request.
    fn demand(&self) -> Demand<K>;

    /// Whether the owner's first waiting request can start without preemption.
    fn has_room(&self, owner: Owner<K>) -> bool;

    /// Starts the owner's first waiting request.
    fn start(&mut self, owner: Owner<K>);

    /// Preempts the owner's youngest running sequence, which then waits at the head of the owner's queue. False if it
    /// may not be preempted.
    fn preempt_youngest(&mut self, owner: Owner<K>) -> bool;
}

/// A virtual token counter.
#[derive(Clone, Copy, Default)]
struct Counter {
    served: u64,
    active: bool,
}

/// The counters of one level.
struct Counters<K> {
    counters: BTreeMap<K, Counter>,
    /// The lowest active counter so far; never falls.
    floor: u64,
}

impl<K: Copy + Ord> Counters<K> {
    fn new() -> Counters<K> {
        Counters { counters: BTreeMap::new(), floor: 0 }
    }

    fn served(&self, of: &K) -> u64 {
        self.counters.get(of).map_or(self.floor, |counter| counter.served)
    }

    fn charge(&mut self, of: K, tokens: u64) {
        self.counters.entry(of).or_default().served += tokens;
    }

    /// Updates which counters are active.
    fn update(&mut self, active: &BTreeSet<K>) {
        let still = self.counters.iter().filter(|(of, counter)| counter.active && active.contains(*of));
        let lowest = still.map(|(_, counter)| counter.served).min();
        self.floor = lowest.map_or(self.floor, |lowest| lowest.max(self.floor));
        for of in active {
            let counter = self.counters.entry(*of).or_default();
            if !std::mem::replace(&mut counter.active, true) {
                counter.served = counter.served.max(self.floor);
            }
        }
        let highest = active.iter().map(|of| self.served(of)).max().unwrap_or(0);
        for (of, counter) in &mut self.counters {
            counter.active = active.contains(of);
            if counter.active {
                counter.served = counter.served.max(highest.saturating_sub(LAG_MAX));
            }
        }
        // A counter at or below the floor has the same effect as none.
        let floor = self.floor;
        self.counters.retain(|_, counter| counter.active || counter.served > floor);
        self.drop_inactive();
    }

    /// Keeps the bound on inactive counters; the lowest ones are dropped.
    fn drop_inactive(&mut self) {
        let inactive = self.counters.values().filter(|counter| !counter.active);
        let mut inactive: Vec<u64> = inactive.map(|counter| counter.served).collect();
        if inactive.len() > INACTIVE_MAX {
            inactive.sort_unstable();
            let cut = inactive[inactive.len() / 2];
            self.counters.retain(|_, counter| counter.active || counter.served > cut);
        }
    }
}

/// See the [module](self).
pub(crate) struct Fairness<K> {
    callers: Counters<K>,
    /// The tenants of each active caller.
    tenants: BTreeMap<K, Counters<K>>,
    running_max: usize,
    per_tenant_max: usize,
}

impl<K: Copy + Ord> Fairness<K> {
    /// All counters at zero. `running_max` places in all, at most `per_tenant_max` of them for one tenant.
    pub(crate) fn new(running_max: usize, per_tenant_max: usize) -> Fairness<K> {
        Fairness { callers: Counters::new(), tenants: BTreeMap::new(), running_max, per_tenant_max }
    }

    /// Adds the tokens of a step to the owner's counters.
    pub(crate) fn charge(&mut self, owner: Owner<K>, prompt_tokens: usize, generated_tokens: usize) {
        let tokens = PROMPT_TOKEN * prompt_tokens as u64 + GENERATED_TOKEN * generated_tokens as u64;
        self.callers.charge(owner.caller, tokens);
        self.tenants.entry(owner.caller).or_insert_with(Counters::new).charge(owner.tenant, tokens);
    }

    /// The virtual token counters of the owner's caller and of the owner among that caller's tenants.
    pub(crate) fn served(&self, owner: Owner<K>) -> (u64, u64) {
        let tenants = self.tenants.get(&owner.caller);
        (self.callers.served(&owner.caller), tenants.map_or(0, |tenants| tenants.served(&owner.tenant)))
    }

    /// Updates which callers and tenants are active.
    fn update(&mut self, demand: &Demand<K>) {
        let mut active: BTreeMap<K, BTreeSet<K>> = BTreeMap::new();
        for owner in demand.0.keys() {
            active.entry(owner.caller).or_default().insert(owner.tenant);
        }
        self.callers.update(&active.keys().copied().collect());
        self.tenants.retain(|caller, _| active.contains_key(caller));
        for (caller, tenants) in &active {
            self.tenants.entry(*caller).or_insert_with(Counters::new).update(tenants);
        }
    }

    /// Admits waiting requests in turn. True if one is left that has to wait for room.
    pub(crate) fn admit(&mut self, places: &mut impl Places<K>) -> bool {
        self.update(&places.demand());
        // Each round fills a place or makes places more equal, so the bound is not reached; the next step continues.
        'rounds: for _ in 0..2 * self.running_max {
            let turns = self.turns(&places.demand());
            if turns.is_empty() {
                return false;
            }
            for (owner, below_share) in turns {
                if self.make_room(places, owner) {
                    places.start(owner);
                    continue 'rounds;
                }
                // One below its share is not overtaken, or a large request would wait for ever.
                if below_share {
                    break;
                }
            }
            return true;
        }
        true
    }

    /// Preempts for a request of `owner` until there is room for it. False if it has to wait.
    fn make_room(&self, places: &mut impl Places<K>, owner: Owner<K>) -> bool {
        while !places.has_room(owner) {
            match self.preempted_for(&places.demand(), owner) {
                Some(most) if places.preempt_youngest(most) => {}
                _ => return false,
            }
        }
        true
    }

    /// The owners with a request that may start, in the order of their turns, and whether each is below its share. At
    /// each level those below their share come first, in order of their counters; places that none of them wants go to
    /// whoever runs the fewest sequences.
    fn turns(&self, demand: &Demand<K>) -> Vec<(Owner<K>, bool)> {
        let totals = demand.totals();
        let share = self.share(totals.len());
        let mut turns = Vec::new();
        for (&owner, need) in &demand.0 {
            let Some(arrived) = need.waiting.filter(|_| need.running < self.per_tenant_max) else { continue };
            let total = totals.get(&owner.caller).copied().unwrap_or_default();
            let (caller_served, served) = self.served(owner);
            let caller_rank = rank(total.running, share, caller_served);
            let tenant_rank = rank(need.running, tenant_share(share, total), served);
            turns.push((caller_rank, tenant_rank, arrived, owner));
        }
        turns.sort_unstable();
        let below_share =
            |(caller, tenant, _, owner): (Rank, Rank, u64, Owner<K>)| (owner, !caller.0 && !tenant.0);
        turns.into_iter().map(below_share).collect()
    }

    /// The owner that is preempted for a request of `owner` that has no room; `None` if the request has to wait until a
    /// sequence ends.
    fn preempted_for(&self, demand: &Demand<K>, owner: Owner<K>) -> Option<Owner<K>> {
        let totals = demand.totals();
        let share = self.share(totals.len());
        let total = totals.get(&owner.caller).copied().unwrap_or_default();
        let most_of = |caller: K| {
            let of_caller = demand.0.iter().filter(|(other, _)| other.caller == caller);
            of_caller.max_by_key(|(other, need)| (need.running, self.served(**other).1))
        };
        if total.running < share {
            let most =
                totals.iter().max_by_key(|(caller, total)| (total.running, self.callers.served(caller)));
            if let Some((&caller, most)) = most
                && most.running > total.running + 1
            {
                return most_of(caller).map(|(most, _)| *most);
            }
        }
        let running = demand.0.get(&owner).map_or(0, |need| need.running);
        let (most, need) = most_of(owner.caller)?;
        (running < tenant_share(share, total) && need.running > running + 1).then_some(*most)
    }

    /// Running places of one of `callers` callers while others wait.
    fn share(&self, callers: usize) -> usize {
        (self.running_max / callers.max(1)).max(1)
    }
}

/// Running places of one tenant of a caller with the share `share`, while others wait.
fn tenant_share(share: usize, total: Total) -> usize {
    (share / total.tenants.max(1)).max(1)
}

/// Whether it has its share already, and the order among others of which the same is true.
type Rank = (bool, u64, u64);

/// Sorts whoever is below their share by counter and before all others, and those by what they run.
fn rank(running: usize, share: usize, served: u64) -> Rank {
    match running < share {
        true => (false, served, running as u64),
        false => (true, running as u64, served),
    }
}

#[cfg(test)]
#[path = "fairness_tests.rs"]
mod tests;
