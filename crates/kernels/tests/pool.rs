//! The barrier pool with real threads. The interleavings are in `loom_pool.rs`.
#![cfg(not(loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foretoken_kernels::pool::Pool;

/// Runs many short jobs and checks that each ran once on every worker.
fn short_runs(threads: usize, runs: usize) {
    let pool = Pool::new(threads);
    let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
    for run in 1..=runs {
        pool.run(&|worker| {
            assert_eq!(worker.count, threads);
            counts[worker.index].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == run), "run {run} is not complete");
    }
}

#[test]
fn every_worker_runs_each_job_once() {
    for threads in [1, 2, 3] {
        short_runs(threads, 20_000);
    }
}

#[test]
fn more_threads_than_cores_still_finish() {
    short_runs(16, 300);
}

#[test]
fn a_parked_worker_wakes_for_the_next_run() {
    let pool = Pool::new(2);
    let count = AtomicUsize::new(0);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(10));
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(count.load(Ordering::Relaxed), 10);
}

#[test]
fn a_caller_that_waits_long_is_woken() {
    let pool = Pool::new(2);
    let count = AtomicUsize::new(0);
    for _ in 0..3 {
        pool.run(&|worker| {
            if worker.index == 1 {
                std::thread::sleep(Duration::from_millis(10));
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[test]
fn a_panic_on_any_worker_reaches_the_caller_and_the_pool_stays_usable() {
    let pool = Pool::new(3);
    for culprit in 0..3 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|worker| assert!(worker.index != culprit, "worker {culprit} fails"));
        }));
        let payload = outcome.expect_err("the panic is lost");
        let message = payload.downcast_ref::<String>().expect("the payload is another");
        assert_eq!(*message, format!("worker {culprit} fails"));
    }
    let count = AtomicUsize::new(0);
    pool.run(&|_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[test]
fn a_nested_run_is_rejected() {
    let pool = Pool::new(2);
    let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(&|_| pool.run(&|_| {}))));
    assert!(outcome.is_err());
}

#[test]
fn shares_partition_the_items() {
    for count in 1..6 {
        for items in 0..20 {
            let mut next = 0;
            for index in 0..count {
                let share = foretoken_kernels::pool::Worker { index, count }.share(items);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, items);
        }
    }
}
