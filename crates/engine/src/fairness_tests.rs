//! Deterministic simulation of the scheduler with virtual time: one iteration is one step.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

type Tenant = u8;

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

impl Places<Tenant> for Server {
    fn demand(&self) -> Demand<Tenant> {
        let mut demand: Demand<Tenant> = BTreeMap::new();
        self.running.iter().for_each(|job| demand.entry(job.tenant).or_default().running += 1);
        for (tenant, queue) in self.queues.iter().filter(|(_, queue)| !queue.is_empty()) {
            demand.entry(*tenant).or_default().waiting = queue.front().map(|job| job.id);
        }
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

    fn step(&mut self, fairness: &mut Fairness<Tenant>) {
        fairness.admit(self);
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|&at| (fairness.served(&self.running[at].tenant), self.running[at].id));
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

fn need(running: usize, waiting: Option<u64>) -> Need {
    Need { running, waiting }
}

#[test]
fn the_tenant_that_was_served_least_is_next_and_in_a_tie_the_one_with_the_fewest_places() {
    let mut fairness = Fairness::new(8, 8);
    let demand = Demand::from([('a', need(1, Some(0))), ('b', need(0, Some(1)))]);
    fairness.update(&demand);
    assert_eq!(fairness.next(&demand), Some('b'));
    fairness.charge('b', 10, 0);
    assert_eq!(fairness.next(&demand), Some('a'));
    fairness.charge('a', 0, 6);
    assert_eq!(fairness.next(&demand), Some('b'), "a generated token counts twice");
}

#[test]
fn unwanted_places_are_used_beyond_the_share_up_to_the_limit_per_tenant() {
    let fairness = Fairness::new(8, 6);
    let alone = |running| Demand::from([('a', need(running, Some(0))), ('b', need(1, None))]);
    assert_eq!(fairness.next(&alone(5)), Some('a'), "the share is 4");
    assert_eq!(fairness.next(&alone(6)), None);
}

#[test]
fn preemption_only_makes_places_more_equal() {
    let fairness = Fairness::<char>::new(4, 4);
    let yields = |a: usize, b: usize| {
        fairness.preempted_for(&Demand::from([('a', need(a, Some(0))), ('b', need(b, Some(1)))]), 'b')
    };
    assert_eq!(yields(4, 0), Some('a'));
    assert_eq!(yields(3, 1), Some('a'));
    assert_eq!(yields(2, 2), None);
    assert_eq!(yields(1, 0), None, "the only sequence of a tenant is left to it");
}

#[test]
fn an_idle_tenant_accumulates_no_credit() {
    let mut fairness = Fairness::new(2, 2);
    let (both, only_a) = (
        Demand::from([('a', need(1, Some(0))), ('b', need(1, Some(1)))]),
        Demand::from([('a', need(1, Some(0)))]),
    );
    fairness.update(&both);
    fairness.update(&only_a);
    fairness.charge('a', 100_000, 0);
    fairness.update(&only_a);
    fairness.update(&both);
    assert_eq!(fairness.served(&'b'), fairness.served(&'a'));
}

#[test]
fn a_tenant_that_used_little_delays_the_others_by_a_bounded_amount() {
    let mut fairness = Fairness::new(2, 2);
    let both = Demand::from([('a', need(1, Some(0))), ('b', need(1, Some(1)))]);
    fairness.update(&both);
    fairness.charge('a', 1_000_000, 0);
    fairness.update(&both);
    assert_eq!(fairness.served(&'a') - fairness.served(&'b'), LAG_MAX);
}

#[test]
fn accounts_of_tenants_without_requests_are_bounded() {
    let mut fairness = Fairness::new(4, 4);
    let mut demand = Demand::from([(0, need(1, None))]);
    for tenant in 1..5 * INACTIVE_MAX {
        demand.insert(tenant, need(1, None));
        fairness.update(&demand);
        fairness.charge(tenant, tenant, 0);
        demand.remove(&tenant);
        fairness.update(&demand);
        assert!(fairness.accounts.len() <= INACTIVE_MAX + 2, "{}", fairness.accounts.len());
    }
    fairness.charge(0, 1_000_000, 0);
    fairness.update(&demand);
    assert_eq!(fairness.accounts.len(), 1, "they are behind the active one now");
}

#[test]
fn a_short_request_does_not_wait_for_forty_long_answers() {
    let mut fairness = Fairness::new(8, 8);
    let mut server = Server::new(8);
    (0..40).for_each(|_| server.submit(0, 64, 2_000));
    (0..200).for_each(|_| server.step(&mut fairness));
    server.submit(1, 16, 5);
    while server.outstanding(1) > 0 {
        server.step(&mut fairness);
    }
    let (_, _, steps) = server.finished[0];
    assert_eq!(server.finished.len(), 1);
    assert!(steps <= 7, "one step for the prompt, one for each token, not {steps}");
    assert_eq!(server.preempted, 1);
}

/// Requests: tenant, step of arrival, tokens of prompt and answer.
fn traffic() -> impl Strategy<Value = Vec<(Tenant, usize, usize, usize)>> {
    let request = (0u8..6, 0usize..400, 1usize..120, 1usize..150);
    let burst = (0u8..6, 0usize..400, 1usize..60, 1usize..300, 10usize..40);
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
            prop_assert!(demand.values().all(|need| need.running <= per_tenant));
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
            let share = fairness.share(&demand);
            for need in demand.values().filter(|need| need.waiting.is_some()) {
                let most = demand.values().map(|need| need.running).max().unwrap_or(0);
                prop_assert!(need.running >= share || most <= need.running + 1, "{demand:?}");
                prop_assert!(server.running.len() == running_max, "no request waits while a place is free");
            }
            server.step(&mut fairness);
        }
    }

    /// One tenant keeps 40 long answers outstanding, up to ten others ask one short question after the other.
    #[test]
    fn polite_tenants_never_wait_for_a_greedy_one(
        polite in 1u8..11, running_max in 11usize..33, answer in 500usize..3000, prompt in 1usize..400,
    ) {
        let mut fairness = Fairness::new(running_max, running_max);
        let mut server = Server::new(running_max);
        for _ in 0..600 {
            while server.outstanding(0) < 40 {
                server.submit(0, prompt, answer);
            }
            for tenant in 1..=polite {
                if server.outstanding(tenant) == 0 {
                    server.submit(tenant, 20, 8);
                }
            }
            server.step(&mut fairness);
        }
        // A prompt of each tenant may be computed first, chunk by chunk, and the greedy one's chunk of a turn.
        let bound = (usize::from(polite) + 1) * 2;
        for &(tenant, steps) in server.first_token.iter().filter(|(tenant, _)| *tenant > 0) {
            prop_assert!(steps <= bound, "tenant {tenant} waited {steps} steps of {bound}");
        }
        prop_assert!(server.first_token.len() > usize::from(polite) * 10);
        prop_assert!(server.running.iter().any(|job| job.tenant == 0), "the greedy tenant is served too");
    }

    /// More tenants than places, all with endless work: counters stay within a few requests of each other.
    #[test]
    fn tokens_are_shared_where_places_are_scarce(running_max in 1usize..4, long in 20usize..120) {
        let mut fairness = Fairness::new(running_max, running_max);
        let mut server = Server::new(running_max);
        for _ in 0..20_000 {
            for tenant in 0..6 {
                while server.outstanding(tenant) < 3 {
                    server.submit(tenant, 1 + usize::from(tenant), if tenant == 0 { long } else { 20 });
                }
            }
            server.step(&mut fairness);
        }
        let served: Vec<u64> = (0..6).map(|tenant| fairness.served(&tenant)).collect();
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        let request = 2 * long as u64 + 6;
        prop_assert!(most - least <= 2 * request * running_max as u64, "{served:?}");
        prop_assert!(*least > 1000);
    }
}
