//! Tenants beside each other: the backlog of one does not delay the others, and preemption changes no answer.

mod common;

use std::time::{Duration, Instant};

use common::{Fixture, collect, request};
use foretoken_engine::{CacheUse, Engine, EngineConfig, Request, SubmitError};

/// For answers that must not end while a test looks at them.
const LONG_CTX: usize = 32_768;
const LONG: usize = 30_000;

fn engine(change: impl FnOnce(&mut EngineConfig)) -> Engine {
    Fixture::load().start(change)
}

fn of(tenant: &str, request: Request) -> Request {
    Request { tenant: tenant.into(), ..request }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_short_request_is_answered_while_another_tenant_s_long_answers_hold_every_place() {
    let engine = engine(|config| (config.ctx, config.running_max) = (LONG_CTX, 4));
    let greedy =
        (0..12).map(|i| engine.submit(of("greedy", request([1, 2, i], LONG, 1))).expect("there is room"));
    let greedy: Vec<_> = greedy.collect();
    until("every place is taken", || engine.stats().running == 4);
    for i in 0..3 {
        let (ids, ..) =
            collect(engine.submit(of("polite", request([7, 8, i], 5, 1))).expect("there is room"));
        assert_eq!(ids.len(), 5);
    }
    // Counters are published after each step, so the last answer may not be in them yet.
    until("three answers are counted", || engine.stats().finished_length_total >= 3);
    let stats = engine.stats();
    assert_eq!((stats.finished_length_total, stats.finished_abort_total), (3, 0), "no long answer has ended");
    assert!(stats.preemptions_total >= 1);
    drop(greedy);
}

#[test]
fn answers_of_tenants_that_preempt_each_other_are_those_of_each_alone() {
    let roomy = engine(|_| {});
    let busy = engine(|config| config.running_max = 3);
    let ask = |tenant: u32, i: u32| {
        let prompt = (0..40 + 30 * (i % 4)).map(move |t| (t * 3 + i * 7 + tenant) % 250);
        let ask = of(&format!("tenant {tenant}"), request(prompt, 60 + 20 * (i as usize % 5), u64::from(i)));
        // Some leave no blocks in the cache, so resuming computes everything again.
        let cache = CacheUse { read: !i.is_multiple_of(3), write: i % 3 == 1 };
        Request { cache, ..ask }
    };
    let backlog: Vec<_> = (0..30).map(|i| busy.submit(ask(0, i)).expect("there is room")).collect();
    for i in 0..4 {
        let others: Vec<_> =
            (1..4).map(|tenant| busy.submit(ask(tenant, i)).expect("there is room")).collect();
        for (tenant, answer) in (1..4).zip(others) {
            let alone = collect(roomy.submit(ask(tenant, i)).expect("there is room"));
            assert_eq!(collect(answer).0, alone.0, "tenant {tenant}, request {i}");
        }
    }
    for (i, answer) in (0..30).zip(backlog) {
        assert_eq!(
            collect(answer).0,
            collect(roomy.submit(ask(0, i)).expect("there is room")).0,
            "request {i}"
        );
    }
    assert!(busy.stats().preemptions_total > 0, "the test must make tenants preempt each other");
}

#[test]
fn a_tenant_runs_no_more_than_its_limit_even_alone() {
    let engine = engine(|config| (config.ctx, config.running_per_tenant_max) = (LONG_CTX, Some(2)));
    let submit = |tenant, i| engine.submit(of(tenant, request([1, i], LONG, 1))).expect("there is room");
    let _one: Vec<_> = (0..4).map(|i| submit("a", i)).collect();
    until("its limit runs", || engine.stats().running == 2);
    let _other = submit("b", 1);
    until("another tenant runs too", || engine.stats().running == 3);
    assert_eq!(engine.stats().waiting, 2);
}

#[test]
fn a_tenant_that_fills_the_queue_leaves_room_for_others() {
    let engine = engine(|config| (config.ctx, config.running_max, config.queue) = (LONG_CTX, 1, 10));
    let submit = |tenant, i| engine.submit(of(tenant, request([1, i], LONG, 1)));
    let _running = submit("a", 0).expect("there is room");
    until("it runs", || engine.stats().running == 1);
    let waiting: Vec<_> = (1..).map_while(|i| submit("a", i).ok()).collect();
    assert_eq!(waiting.len(), 7);
    assert!(matches!(submit("a", 20), Err(SubmitError::QueueFull { .. })));
    assert!(submit("b", 1).is_ok());
}

#[test]
fn a_caller_with_many_users_leaves_other_callers_their_places() {
    let engine = engine(|config| (config.ctx, config.running_max) = (LONG_CTX, 4));
    let by = |caller: &str, user: &str, request: Request| {
        engine.submit(Request { caller: caller.into(), ..of(user, request) }).expect("there is room")
    };
    let _many: Vec<_> = (0..12).map(|i| by("a", &format!("a/{i}"), request([1, 2, i], LONG, 1))).collect();
    until("every place is taken", || engine.stats().running == 4);
    // A share of two: one long answer, and short ones beside it.
    let _long = by("b", "b/0", request([3], LONG, 1));
    for i in 0..3 {
        assert_eq!(collect(by("b", "b/0", request([7, i], 5, 1))).0.len(), 5);
    }
}
