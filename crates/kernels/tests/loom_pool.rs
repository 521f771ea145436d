//! The pool's start, finish, park and exit paths under every interleaving that loom distinguishes.
//! Run: `RUSTFLAGS="--cfg loom" cargo test -p foretoken-kernels --release --test loom_pool`.
#![cfg(loom)]

use foretoken_kernels::pool::Pool;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// Relaxed counters: only the pool's own ordering can make them visible.
fn runs_are_barriers(threads: usize, runs: usize, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let pool = Pool::new(threads);
        let done: Arc<Vec<AtomicUsize>> = Arc::new((0..threads).map(|_| AtomicUsize::new(0)).collect());
        for run in 1..=runs {
            let seen = Arc::clone(&done);
            pool.run(&move |worker| {
                let mine = &seen[worker.index];
                mine.store(mine.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            });
            for counter in done.iter() {
                assert_eq!(counter.load(Ordering::Relaxed), run);
            }
        }
    });
}

#[test]
fn two_threads_start_finish_park_and_exit() {
    runs_are_barriers(2, 2, None);
}

#[test]
fn three_threads_one_run() {
    runs_are_barriers(3, 1, Some(2));
}

#[test]
fn a_pool_that_never_ran_is_dropped() {
    loom::model(|| drop(Pool::new(2)));
}
