//! Deterministic simulation of the scheduler with virtual time: one iteration is one step.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

type Tenant = Owner<u8>;

/// Tokens of prefill in a step.
const PREFILL: usize = 32;

#[derive(Clone, Debug)]
struct Job {
    tenant: Tenant,
    id: u64,
    /// The step in which it arrived.
    arrived: usize,
    prompt_left: usize,
    answer_left: usize,
}

/// A server whose memory is its places: each running answer gets a token per step, prompts share [`PREFILL`] tokens.
struct Server {
    now: usize,
    next_id: u64,
    queues: BTreeMap<Tenant, VecDeque<Job>>,
    running: Vec<Job>,
    running_max: usize,
    preempted: usize,
    /// Tenant, arrival and steps to the end of every finished request.
    finished: Vec<(Tenant, usize, usize)>,
    /// Steps from arrival to first token, by tenant.
    first_token: Vec<(Tenant, usize)>,
}

impl Places<u8> for Server {
    fn demand(&self) -> Demand<u8> {
        let mut demand = Demand::default();
        self.running.iter().for_each(|job| demand.add_running(job.tenant));
        let heads = self.queues.iter().filter_map(|(tenant, queue)| Some((*tenant, queue.front()?.id)));
        heads.for_each(|(tenant, arrived)| demand.add_waiting(tenant, arrived));
        demand
    }

    fn has_room(&self, _: Tenant) -> bool {
        self.running.len() < self.running_max
    }

    fn start(&mut self, tenant: Tenant) {
        self.running.extend(self.queues.get_mut(&tenant).and_then(VecDeque::pop_front));
    }

    fn preempt_youngest(&mut self, tenant: Tenant) -> bool {
        let of_tenant = self.running.iter().enumerate().filter(|(_, job)| job.tenant == tenant);
        let youngest = of_tenant.max_by_key(|(_, job)| job.id).map(|(index, _)| index);
        let job = self.running.remove(youngest.expect("only a running tenant yields"));
        self.queues.entry(tenant).or_default().push_front(job);
        self.preempted += 1;
        true
    }
}

impl Server {
    fn new(running_max: usize) -> Server {
        Server {
            now: 0,
            next_id: 0,
            queues: BTreeMap::new(),
            running: Vec::new(),
            running_max,
            preempted: 0,
            finished: Vec::new(),
            first_token: Vec::new(),
        }
    }

    fn submit(&mut self, tenant: Tenant, prompt_left: usize, answer_left: usize) {
        let job = Job { tenant, id: self.next_id, arrived: self.now, prompt_left, answer_left };
        self.next_id += 1;
        self.queues.entry(tenant).or_default().push_back(job);
    }

    fn outstanding(&self, tenant: Tenant) -> usize {
        let running = self.running.iter().filter(|job| job.tenant == tenant).count();
        running + self.queues.get(&tenant).map_or(0, VecDeque::len)
    }

    fn step(&mut self, fairness: &mut Fairness<u8>) {
        fairness.admit(self);
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|&at| (fairness.served(self.running[at].tenant), self.running[at].id));
        let mut budget = PREFILL;
        for at in order {
            let job = &mut self.running[at];
            let prefill = job.prompt_left.min(budget);
            let decodes = job.prompt_left == 0;
            budget -= prefill;
            job.prompt_left -= prefill;
            if decodes {
                job.answer_left -= 1;
            } else if job.prompt_left == 0 {
                self.first_token.push((job.tenant, self.now - job.arrived));
            }
            fairness.charge(job.tenant, prefill, usize::from(decodes));
        }
        self.now += 1;
        let (now, finished) = (self.now, &mut self.finished);
        self.running.retain(|job| {
            if job.answer_left == 0 {
                finished.push((job.tenant, job.arrived, now - job.arrived));
            }
            job.answer_left > 0
        });
    }
}

/// The same rules hold at both levels: number `n` as a caller, or as a tenant of one caller.
fn owner(as_callers: bool, n: u8) -> Tenant {
    if as_callers { Owner { caller: n, tenant: 0 } } else { Owner { caller: 0, tenant: n } }
}

/// Whose turn it is.
fn next(fairness: &Fairness<u8>, demand: &Demand<u8>) -> Option<Tenant> {
    fairness.turns(demand).first().map(|(owner, _)| *owner)
}

fn demand<const N: usize>(needs: [(Tenant, usize, Option<u64>); N]) -> Demand<u8> {
    let needs = needs.map(|(owner, running, waiting)| (owner, Need { running, waiting }));
    Demand(BTreeMap::from(needs))
}

/// The counter at the level that `owner(as_callers, _)` differs in.
fn served(fairness: &Fairness<u8>, as_callers: bool, n: u8) -> u64 {
    let (of_caller, of_tenant) = fairness.served(owner(as_callers, n));
    if as_callers { of_caller } else { of_tenant }
}

#[test]
fn the_one_that_was_served_least_is_next_and_in_a_tie_the_one_with_the_fewest_places() {
    for level in [true, false] {
        let (a, b) = (owner(level, 1), owner(level, 2));
        let mut fairness = Fairness::new(8, 8);
        let both = demand([(a, 1, Some(0)), (b, 0, Some(1))]);
        fairness.update(&both);
        assert_eq!(next(&fairness, &both), Some(b));
        fairness.charge(b, 10, 0);
        assert_eq!(next(&fairness, &both), Some(a));
        fairness.charge(a, 0, 6);
        assert_eq!(next(&fairness, &both), Some(b), "a generated token counts twice");
    }
}

#[test]
fn unwanted_places_are_used_beyond_the_share_up_to_the_limit_per_tenant() {
    for level in [true, false] {
        let (a, b) = (owner(level, 1), owner(level, 2));
        let fairness = Fairness::new(8, 6);
        let alone = |running| demand([(a, running, Some(0)), (b, 1, None)]);
        assert_eq!(next(&fairness, &alone(5)), Some(a), "the share is 4");
        assert_eq!(next(&fairness, &alone(6)), None);
    }
}

#[test]
fn preemption_only_makes_places_more_equal() {
    for level in [true, false] {
        let (a, b) = (owner(level, 1), owner(level, 2));
        let fairness = Fairness::new(4, 4);
        let preempted =
            |of_a, of_b| fairness.preempted_for(&demand([(a, of_a, Some(0)), (b, of_b, Some(1))]), b);
        assert_eq!(preempted(4, 0), Some(a));
        assert_eq!(preempted(3, 1), Some(a));
        assert_eq!(preempted(2, 2), None);
        assert_eq!(preempted(1, 0), None, "the only sequence of a tenant is left to it");
    }
}

#[test]
fn a_caller_gains_nothing_by_inventing_users() {
    let users: Vec<Tenant> = (0..20).map(|tenant| Owner { caller: 1, tenant }).collect();
    let other = Owner { caller: 2, tenant: 0 };
    let mut many: Demand<u8> = Demand::default();
    users.iter().take(8).for_each(|&user| many.add_running(user));
    users.iter().for_each(|&user| many.add_waiting(user, u64::from(user.tenant)));
    many.add_waiting(other, 100);
    let mut fairness = Fairness::new(8, 8);
    fairness.update(&many);
    for running in 0..4 {
        assert_eq!(next(&fairness, &many), Some(other), "it runs {running} of its share of 4");
        let preempted =
            fairness.preempted_for(&many, other).expect("the users run more than their caller's share");
        assert_eq!(preempted.caller, 1);
        let need = many.0.get_mut(&preempted).expect("it runs");
        need.running -= 1;
        many.add_running(other);
    }
    assert_eq!(fairness.preempted_for(&many, other), None);
    assert_eq!(many.running(other), (4, 4));
}

#[test]
fn an_idle_owner_accumulates_no_credit() {
    for level in [true, false] {
        let (a, b) = (owner(level, 1), owner(level, 2));
        let mut fairness = Fairness::new(2, 2);
        let (both, only_a) = (demand([(a, 1, Some(0)), (b, 1, Some(1))]), demand([(a, 1, Some(0))]));
        fairness.update(&both);
        fairness.update(&only_a);
        fairness.charge(a, 100_000, 0);
        fairness.update(&only_a);
        fairness.update(&both);
        assert_eq!(served(&fairness, level, 2), served(&fairness, level, 1));
    }
}

#[test]
fn an_owner_that_used_little_delays_the_others_by_a_bounded_amount() {
    for level in [true, false] {
        let (a, b) = (owner(level, 1), owner(level, 2));
        let mut fairness = Fairness::new(2, 2);
        let both = demand([(a, 1, Some(0)), (b, 1, Some(1))]);
        fairness.update(&both);
        fairness.charge(a, 1_000_000, 0);
        fairness.update(&both);
        assert_eq!(served(&fairness, level, 1) - served(&fairness, level, 2), LAG_MAX);
    }
}

#[test]
fn counters_of_inactive_owners_are_bounded() {
    let mut counters = Counters::new();
    for of in 1..5 * INACTIVE_MAX {
        counters.update(&BTreeSet::from([0, of]));
        counters.charge(of, of as u64);
        counters.update(&BTreeSet::from([0]));
        assert!(counters.counters.len() <= INACTIVE_MAX + 2, "{}", counters.counters.len());
    }
    counters.charge(0, 1_000_000);
    counters.update(&BTreeSet::from([0]));
    assert_eq!(counters.counters.len(), 1, "they are behind the active one now");

    let mut fairness = Fairness::new(4, 4);
    for caller in 0..100 {
        let owner = Owner { caller, tenant: 0 };
        fairness.update(&demand([(owner, 1, None)]));
        fairness.charge(owner, 10, 10);
    }
    assert_eq!(fairness.tenants.len(), 1, "tenants of active callers only");
}

#[test]
fn a_short_request_does_not_wait_for_forty_long_answers() {
    let mut fairness = Fairness::new(8, 8);
    let mut server = Server::new(8);
    let (greedy, polite) = (owner(true, 0), owner(true, 1));
    (0..40).for_each(|_| server.submit(greedy, 64, 2_000));
    (0..200).for_each(|_| server.step(&mut fairness));
    server.submit(polite, 16, 5);
    while server.outstanding(polite) > 0 {
        server.step(&mut fairness);
    }
    let (_, _, steps) = server.finished[0];
    assert_eq!(server.finished.len(), 1);
    assert!(steps <= 7, "one step for the prompt, one for each token, not {steps}");
    assert_eq!(server.preempted, 1);
}

/// Requests: tenant, step of arrival, tokens of prompt and answer.
fn traffic() -> impl Strategy<Value = Vec<(Tenant, usize, usize, usize)>> {
    let owner = || (0u8..3, 0u8..3).prop_map(|(caller, tenant)| Owner { caller, tenant });
    let request = (owner(), 0usize..400, 1usize..120, 1usize..150);
    let burst = (owner(), 0usize..400, 1usize..60, 1usize..300, 10usize..40);
    let bursts = prop::collection::vec(burst, 0..3).prop_map(|bursts| {
        let all = bursts.into_iter();
        all.flat_map(|(tenant, at, prompt, answer, count)| vec![(tenant, at, prompt, answer); count])
            .collect()
    });
    (prop::collection::vec(request, 1..60), bursts)
        .prop_map(|(single, bursts): (Vec<_>, Vec<_>)| single.into_iter().chain(bursts).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_and_every_step_computes_something(
        mut traffic in traffic(), running_max in 1usize..12, limit in prop::option::of(1usize..6),
    ) {
        let per_tenant = limit.unwrap_or(running_max).min(running_max);
        let mut fairness = Fairness::new(running_max, per_tenant);
        let mut server = Server::new(running_max);
        let (count, tokens) = (traffic.len(), traffic.iter().map(|of| of.2 + of.3).sum::<usize>());
        traffic.sort_by_key(|of| of.1);
        let mut traffic = VecDeque::from(traffic);
        while server.finished.len() < count {
            while traffic.front().is_some_and(|of| of.1 <= server.now) {
                let (tenant, _, prompt, answer) = traffic.pop_front().expect("there is one");
                server.submit(tenant, prompt, answer);
            }
            server.step(&mut fairness);
            let demand = server.demand();
            prop_assert!(server.running.len() <= running_max);
            prop_assert!(demand.0.values().all(|need| need.running <= per_tenant));
            prop_assert!(server.now <= 400 + tokens, "each step computes something once all have arrived");
        }
    }

    #[test]
    fn places_are_shared_whatever_the_others_do(traffic in traffic(), running_max in 6usize..24) {
        let mut fairness = Fairness::new(running_max, running_max);
        let mut server = Server::new(running_max);
        for now in 0..500 {
            for &(tenant, _, prompt, answer) in traffic.iter().filter(|of| of.1 == now) {
                server.submit(tenant, prompt, answer);
            }
            fairness.admit(&mut server);
            let demand = server.demand();
            let totals = demand.totals();
            let share = fairness.share(totals.len());
            for (owner, need) in demand.0.iter().filter(|(_, need)| need.waiting.is_some()) {
                let (total, most) = (totals[&owner.caller], totals.values().map(|total| total.running).max());
                prop_assert!(total.running >= share || most <= Some(total.running + 1), "{demand:?}");
                let peers = demand.0.iter().filter(|(other, _)| other.caller == owner.caller);
                let most = peers.map(|(_, need)| need.running).max();
                let share = tenant_share(share, total);
                prop_assert!(need.running >= share || most <= Some(need.running + 1), "{demand:?}");
                prop_assert!(server.running.len() == running_max, "no request waits while a place is free");
            }
            server.step(&mut fairness);
        }
    }

    /// One tenant keeps 40 long answers outstanding, up to ten others ask one short question after the other.
    #[test]
    fn polite_tenants_never_wait_for_a_greedy_one(
        polite in 1u8..11, running_max in 11usize..33, answer in 500usize..3000, prompt in 1usize..400,
        as_callers in any::<bool>(),
    ) {
        let greedy = owner(as_callers, 0);
        let mut fairness = Fairness::new(running_max, running_max);
        let mut server = Server::new(running_max);
        for _ in 0..600 {
            while server.outstanding(greedy) < 40 {
                server.submit(greedy, prompt, answer);
            }
            for tenant in (1..=polite).map(|n| owner(as_callers, n)) {
                if server.outstanding(tenant) == 0 {
                    server.submit(tenant, 20, 8);
                }
            }
            server.step(&mut fairness);
        }
        // A prompt of each tenant may be computed first, chunk by chunk, and the greedy one's chunk of a turn.
        let bound = (usize::from(polite) + 1) * 2;
        for &(tenant, steps) in server.first_token.iter().filter(|(tenant, _)| *tenant != greedy) {
            prop_assert!(steps <= bound, "{tenant:?} waited {steps} steps of {bound}");
        }
        prop_assert!(server.first_token.len() > usize::from(polite) * 10);
        prop_assert!(server.running.iter().any(|job| job.tenant == greedy), "the greedy tenant is served too");
    }

    /// More tenants than places, all with endless work: counters stay within a few requests of each other.
    #[test]
    fn tokens_are_shared_where_places_are_scarce(
        running_max in 1usize..4, long in 20usize..120, as_callers in any::<bool>(),
    ) {
        let mut fairness = Fairness::new(running_max, running_max);
        let mut server = Server::new(running_max);
        for _ in 0..2_000 {
            for n in 0..6 {
                while server.outstanding(owner(as_callers, n)) < 3 {
                    let answer = if n == 0 { long } else { 20 };
                    server.submit(owner(as_callers, n), 1 + usize::from(n), answer);
                }
            }
            server.step(&mut fairness);
        }
        let served: Vec<u64> = (0..6).map(|n| served(&fairness, as_callers, n)).collect();
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        let request = 2 * long as u64 + 6;
        prop_assert!(most - least <= 2 * request * running_max as u64, "{served:?}");
        prop_assert!(*least > 100);
    }
}
