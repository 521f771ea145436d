//! Fair admission: which tenant's request is admitted next, and which tenant is preempted for it.
//!
//! A virtual token counter per tenant (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): computed
//! prompt tokens count 1, generated tokens 2, and the waiting tenant with the lowest counter is next. A tenant that
//! returns after a pause starts at the lowest counter of the active ones, so an idle tenant accumulates no credit. In
//! addition running places are shared: while others wait, a tenant starts no more sequences than its share, and a tenant
//! below its share preempts the youngest sequence of the tenant that runs the most. Within a tenant admission is first
//! come, first served.
//!
//! This is policy only: counts and counters, no blocks, sequences or queues. The invariants: a decision depends on the
//! demand and the counters, never on time; and preemption only ever makes running places more equal, so two tenants
//! cannot preempt each other in a loop.

use std::collections::BTreeMap;

/// Weights of the virtual token counter, as in the paper: a generated token costs more than one of a prompt.
const PROMPT_TOKEN: u64 = 1;
const GENERATED_TOKEN: u64 = 2;
/// How far the counter of an active tenant may lag behind the highest one. Bounds how long a tenant that used little so
/// far can delay the others' prefills.
const LAG_MAX: u64 = 16_384;
/// Inactive tenants whose counters are kept because they are ahead of the active ones, at most.
const INACTIVE_MAX: usize = 1024;

/// Demand of one tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Running sequences.
    pub(crate) running: usize,
    /// Arrival number of its first waiting request; `None` if none waits.
    pub(crate) waiting: Option<u64>,
}

/// Demand of every tenant with a request.
pub(crate) type Demand<K> = BTreeMap<K, Need>;

/// The queue and the running places, as admission changes them.
pub(crate) trait Places<K> {
    /// Demand of every tenant with a request.
    fn demand(&self) -> Demand<K>;

    /// Whether the tenant's first waiting request can start without preemption.
    fn has_room(&self, tenant: K) -> bool;

    /// Starts the tenant's first waiting request.
    fn start(&mut self, tenant: K);

    /// Preempts the tenant's youngest running sequence, which then waits at the head of the tenant's queue. False if it
    /// may not be preempted.
    fn preempt_youngest(&mut self, tenant: K) -> bool;
}

#[derive(Clone, Copy, Default)]
struct Account {
    /// The virtual token counter.
    served: u64,
    active: bool,
}

/// See the [module](self).
pub(crate) struct Fairness<K> {
    accounts: BTreeMap<K, Account>,
    /// The lowest counter of an active tenant so far; never falls.
    floor: u64,
    running_max: usize,
    per_tenant_max: usize,
}

impl<K: Copy + Ord> Fairness<K> {
    /// All counters at zero. `running_max` places in all, at most `per_tenant_max` of them for one tenant.
    pub(crate) fn new(running_max: usize, per_tenant_max: usize) -> Fairness<K> {
        Fairness { accounts: BTreeMap::new(), floor: 0, running_max, per_tenant_max }
    }

    /// Adds the tokens of a step to a tenant's counter.
    pub(crate) fn charge(&mut self, tenant: K, prompt_tokens: usize, generated_tokens: usize) {
        let account = self.accounts.entry(tenant).or_default();
        account.served += PROMPT_TOKEN * prompt_tokens as u64 + GENERATED_TOKEN * generated_tokens as u64;
    }

    /// Updates which tenants are active.
    fn update(&mut self, demand: &Demand<K>) {
        let active = self.accounts.iter().filter(|(tenant, of)| of.active && demand.contains_key(*tenant));
        self.floor =
            active.map(|(_, of)| of.served).min().map_or(self.floor, |lowest| lowest.max(self.floor));
        for tenant in demand.keys() {
            let account = self.accounts.entry(*tenant).or_default();
            if !std::mem::replace(&mut account.active, true) {
                account.served = account.served.max(self.floor);
            }
        }
        let highest = demand.keys().map(|tenant| self.served(tenant)).max().unwrap_or(0);
        for (tenant, account) in &mut self.accounts {
            account.active = demand.contains_key(tenant);
            if account.active {
                account.served = account.served.max(highest.saturating_sub(LAG_MAX));
            }
        }
        // A counter at or below the floor has the same effect as none.
        let floor = self.floor;
        self.accounts.retain(|_, of| of.active || of.served > floor);
        self.forget_inactive();
    }

    /// Keeps the bound on inactive tenants: those with the lowest counters are dropped.
    fn forget_inactive(&mut self) {
        let mut inactive: Vec<u64> =
            self.accounts.values().filter(|of| !of.active).map(|of| of.served).collect();
        if inactive.len() > INACTIVE_MAX {
            inactive.sort_unstable();
            let cut = inactive[inactive.len() / 2];
            self.accounts.retain(|_, of| of.active || of.served > cut);
        }
    }

    /// The virtual token counter of a tenant.
    pub(crate) fn served(&self, tenant: &K) -> u64 {
        self.accounts.get(tenant).map_or(self.floor, |of| of.served)
    }

    /// Admits waiting requests in turn. True if the next one has to wait for room.
    pub(crate) fn admit(&mut self, places: &mut impl Places<K>) -> bool {
        self.update(&places.demand());
        // Each round fills a place or makes places more equal, so the bound is not reached; the next step continues.
        for _ in 0..2 * self.running_max {
            let Some(tenant) = self.next(&places.demand()) else { return false };
            while !places.has_room(tenant) {
                match self.preempted_for(&places.demand(), tenant) {
                    Some(most) if places.preempt_youngest(most) => {}
                    _ => return true,
                }
            }
            places.start(tenant);
        }
        true
    }

    /// The tenant whose first waiting request is next; `None` if none may start. Tenants below their share come first, in
    /// order of their counters; places that no such tenant wants go to the tenant that runs the fewest sequences.
    fn next(&self, demand: &Demand<K>) -> Option<K> {
        let share = self.share(demand);
        let waiting = demand.iter().filter(|(_, need)| need.running < self.per_tenant_max);
        let ranked = waiting.filter_map(|(tenant, need)| {
            let (served, running) = (self.served(tenant), need.running as u64);
            let arrived = need.waiting?;
            let rank = if need.running < share {
                (0, served, running, arrived)
            } else {
                (1, running, served, arrived)
            };
            Some((rank, *tenant))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, tenant)| tenant)
    }

    /// The tenant that is preempted for a request of `tenant` that has no room; `None` if the request has to wait until a
    /// sequence ends.
    fn preempted_for(&self, demand: &Demand<K>, tenant: K) -> Option<K> {
        let running = demand.get(&tenant).map_or(0, |need| need.running);
        if running >= self.share(demand) {
            return None;
        }
        let (most, need) = demand.iter().max_by_key(|(tenant, need)| (need.running, self.served(tenant)))?;
        (need.running > running + 1).then_some(*most)
    }

    /// Running places of one tenant while others wait.
    fn share(&self, demand: &Demand<K>) -> usize {
        (self.running_max / demand.len().max(1)).max(1)
    }
}

#[cfg(test)]
#[path = "fairness_tests.rs"]
mod tests;
