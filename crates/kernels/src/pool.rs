//! The barrier pool: runs one closure once on every worker and waits for all of them.
//!
//! It is for parallel sections of a few microseconds inside a forward pass, where the caller is itself worker 0 and
//! the closure decides how the work is partitioned. It is not a task queue: there is one job at a time,
//! no stealing and no nesting. The invariant: a worker touches the job only while its slot says `WORK`
//! (or `WAITED`), and [`Pool::run`] does not return, or unwind, before every slot has left those states.
//!
//! Each worker shares one cache line with the caller. Its state cycles `IDLE → WORK → IDLE`, with two exceptions: a
//! worker that has spun for its time limit sleeps as `PARKED`, and a caller that has spun for its time limit turns `WORK`
//! into `WAITED`, so that the worker knows to unpark it.
//!
//! The system's scheduler may wake a worker on its caller's CPU, and rarely migrates threads that hardly ever sleep. So a
//! worker on the caller's CPU migrates itself, if there are enough CPUs.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use sync::{Arc, AtomicBool, AtomicU32, JoinHandle, Ordering, Thread, UnsafeCell};

/// One participant of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// 0 is the calling thread.
    pub index: usize,
    /// How many participants the run has.
    pub count: usize,
}

impl Worker {
    /// This worker's contiguous share of `items`, as even as possible; the shares of all workers partition `0..items`.
    pub fn share(self, items: usize) -> std::ops::Range<usize> {
        let start = items * self.index / self.count;
        let end = items * (self.index + 1) / self.count;
        start..end
    }
}

/// Numbers per thread above which a small operation is faster on the pool. A run costs about 130 ns with two threads
/// (measured), a number 0.1 to 0.4 ns.
const FORK_NUMBERS: usize = 1 << 10;

/// Ready for a job; the worker spins.
const IDLE: u32 = 0;
/// Ready for a job; the worker sleeps and must be unparked.
const PARKED: u32 = 1;
/// The job cell is filled and the worker owns it.
const WORK: u32 = 2;
/// As `WORK`, and the caller sleeps and must be unparked.
const WAITED: u32 = 3;
/// The pool is being dropped.
const EXIT: u32 = 4;

type Job = *const (dyn Fn(Worker) + Sync);
type Panic = Box<dyn Any + Send>;

/// Data exchanged between the caller and one worker. Owned by the worker while the state is `WORK` or `WAITED` (except `caller`,
/// which the caller fills just before it moves the state to `WAITED`), by the caller otherwise.
#[repr(align(128))]
struct Slot {
    state: AtomicU32,
    /// The caller's CPU when it filled the job cell; synchronised like that cell.
    caller_cpu: UnsafeCell<Option<u32>>,
    job: UnsafeCell<Option<Job>>,
    caller: UnsafeCell<Option<Thread>>,
    panic: UnsafeCell<Option<Panic>>,
}

// SAFETY: ownership of the cells is passed by `state` as described on the type, with acquire and
// release at each handover; the job pointer is to a `Sync` closure that outlives the handover.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

/// Worker threads that wait for [`Pool::run`]. Dropping the pool joins them.
pub struct Pool {
    slots: Vec<Arc<Slot>>,
    handles: Vec<JoinHandle<()>>,
    busy: AtomicBool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` participants: the caller of [`Pool::run`] and `threads - 1` new threads.
    ///
    /// # Panics
    /// If `threads` is 0 or the system refuses a thread.
    pub fn new(threads: usize) -> Self {
        Self::build(threads, &[])
    }

    /// As [`Pool::new`], with worker `i` bound to the CPU `cpus[i]` where the platform can. Workers without
    /// an entry are not bound, nor is worker 0: bind it with [`crate::affinity::pin_current_thread`].
    pub fn pinned(threads: usize, cpus: &[usize]) -> Self {
        Self::build(threads, cpus)
    }

    fn build(threads: usize, cpus: &[usize]) -> Self {
        assert!(threads > 0, "a pool needs at least the calling thread");
        let slots: Vec<Arc<Slot>> = (1..threads).map(|_| Arc::new(Slot::new())).collect();
        let handles = slots
            .iter()
            .enumerate()
            .map(|(i, slot)| {
                let (slot, cpu) = (Arc::clone(slot), cpus.get(i + 1).copied());
                let worker = Worker { index: i + 1, count: threads };
                let mut distance = sync::Distance::new(threads);
                sync::spawn(format!("kernel-{}", i + 1), move || {
                    if let Some(cpu) = cpu {
                        crate::affinity::pin_current_thread(cpu);
                    }
                    slot.work(worker, &mut distance);
                })
            })
            .collect();
        Self { slots, handles, busy: AtomicBool::new(false) }
    }

    /// Participants of a run, the caller included.
    pub fn threads(&self) -> usize {
        self.slots.len() + 1
    }

    /// Runs `f` over ranges that partition `0..items`: one per worker if the total of `numbers` is large enough for the
    /// pool, else one range on this thread.
    #[cfg_attr(loom, allow(dead_code, reason = "the arithmetic that splits work is not in a build for loom"))]
    pub(crate) fn split(&self, items: usize, numbers: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        if items < 2 || numbers < FORK_NUMBERS * self.threads() {
            f(0..items);
        } else {
            self.run(&|worker| f(worker.share(items)));
        }
    }

    /// Runs `f` once on every worker, on this thread as worker 0, and returns when all are done. All that
    /// the workers wrote is visible to the caller afterwards.
    ///
    /// # Panics
    /// With the payload of a worker's panic, after all workers are done; and if the pool is already running
    /// (a run inside a run, or from two threads at once).
    pub fn run(&self, f: &(dyn Fn(Worker) + Sync)) {
        let count = self.threads();
        if count == 1 {
            return f(Worker { index: 0, count });
        }
        assert!(!self.busy.swap(true, Ordering::Acquire), "Pool::run inside another run of the same pool");
        // SAFETY: only the lifetime is erased. `finish` below waits until no worker uses the
        // pointer, and nothing between here and there can unwind past it: `f` runs under `catch_unwind`.
        let job: Job =
            unsafe { std::mem::transmute::<&(dyn Fn(Worker) + Sync), &'static (dyn Fn(Worker) + Sync)>(f) };
        for (slot, handle) in self.slots.iter().zip(&self.handles) {
            slot.start(job, handle);
        }
        let own = catch_unwind(AssertUnwindSafe(|| f(Worker { index: 0, count })));
        let mut panic = own.err();
        for slot in &self.slots {
            let theirs = slot.finish();
            panic = panic.or(theirs);
        }
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (slot, handle) in self.slots.iter().zip(&self.handles) {
            if slot.state.swap(EXIT, Ordering::AcqRel) == PARKED {
                handle.thread().unpark();
            }
        }
        for handle in self.handles.drain(..) {
            // A worker catches the panics of jobs, so the result is always `Ok`.
            drop(handle.join());
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            caller_cpu: UnsafeCell::new(None),
            job: UnsafeCell::new(None),
            caller: UnsafeCell::new(None),
            panic: UnsafeCell::new(None),
        }
    }

    /// Caller: hands the job over. The slot is `IDLE` or `PARKED`.
    fn start(&self, job: Job, handle: &JoinHandle<()>) {
        // SAFETY: the state is neither `WORK` nor `WAITED`, so the caller owns the cell.
        self.job.with_mut(|cell| unsafe { *cell = Some(job) });
        // SAFETY: as above.
        self.caller_cpu.with_mut(|cell| unsafe { *cell = crate::affinity::current_cpu() });
        if self.state.swap(WORK, Ordering::AcqRel) == PARKED {
            handle.thread().unpark();
        }
    }

    /// Caller: waits for the worker and takes the payload if it panicked.
    fn finish(&self) -> Option<Panic> {
        let done = |state| state != WORK && state != WAITED;
        if !sync::spin_until(|| done(self.state.load(Ordering::Acquire))) {
            // SAFETY: the worker reads this cell only after it has seen `WAITED`, which is stored below.
            self.caller.with_mut(|cell| unsafe { *cell = Some(sync::current()) });
            if self.state.compare_exchange(WORK, WAITED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                while self.state.load(Ordering::Acquire) == WAITED {
                    sync::park();
                }
            }
        }
        // SAFETY: the worker has released the slot.
        self.panic.with_mut(|cell| unsafe { (*cell).take() })
    }

    /// Worker: runs jobs until the pool is dropped.
    fn work(&self, worker: Worker, distance: &mut sync::Distance) {
        while let Some(job) = self.next() {
            // SAFETY: the state is `WORK` or `WAITED`, so the worker owns the cell.
            distance.keep_from(self.caller_cpu.with_mut(|cell| unsafe { *cell }));
            // SAFETY: the caller keeps the closure alive until this slot leaves `WORK`, in `release`.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(worker) }));
            if let Err(payload) = outcome {
                // SAFETY: the state is `WORK` or `WAITED`, so the worker owns the cell.
                self.panic.with_mut(|cell| unsafe { *cell = Some(payload) });
            }
            if !self.release() {
                return;
            }
        }
    }

    /// Worker: waits for a job; `None` means exit.
    fn next(&self) -> Option<Job> {
        let called = |state| state != IDLE && state != PARKED;
        if !sync::spin_until(|| called(self.state.load(Ordering::Acquire)))
            && self.state.compare_exchange(IDLE, PARKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            while self.state.load(Ordering::Acquire) == PARKED {
                sync::park();
            }
        }
        if self.state.load(Ordering::Acquire) == EXIT {
            return None;
        }
        // SAFETY: the state is `WORK` or `WAITED`, so the worker owns the cell, and `start` filled it.
        self.job.with_mut(|cell| unsafe { (*cell).take() })
    }

    /// Worker: releases the slot and unparks the caller if it sleeps.
    fn release(&self) -> bool {
        match self.state.compare_exchange(WORK, IDLE, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(WAITED) => {
                // SAFETY: the caller filled the cell before it stored `WAITED` and sleeps until `IDLE`.
                let caller = self.caller.with_mut(|cell| unsafe { (*cell).take() });
                self.state.store(IDLE, Ordering::Release);
                if let Some(caller) = caller {
                    caller.unpark();
                }
                true
            }
            Err(_) => false,
        }
    }
}

/// The primitives, from std or from loom.
#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    pub(super) use std::thread::{JoinHandle, Thread, current, park};
    use std::time::{Duration, Instant};

    use crate::affinity;

    /// How long a waiter spins before it yields its CPU.
    const SPIN: Duration = Duration::from_micros(5);
    /// How long a waiter spins and yields before it sleeps: longer than the gaps inside and between steps.
    const AWAKE: Duration = Duration::from_micros(2_000);
    /// Spin iterations between two reads of the clock.
    const PAUSES: u32 = 64;
    /// Minimum time between two migrations of a worker.
    const SETTLE: Duration = Duration::from_millis(5);

    /// Keeps a worker off its caller's CPU.
    pub(super) struct Distance {
        /// Whether there is a CPU for each thread of the pool.
        roomy: bool,
        moved: Option<Instant>,
    }

    impl Distance {
        pub(super) fn new(threads: usize) -> Self {
            Self { roomy: threads <= affinity::allowed_cpu_count(), moved: None }
        }

        /// Worker: migrates if it runs on the caller's CPU.
        #[inline]
        pub(super) fn keep_from(&mut self, caller: Option<u32>) {
            if self.roomy && caller.is_some() && caller == affinity::current_cpu() {
                self.leave(caller);
            }
        }

        #[cold]
        fn leave(&mut self, caller: Option<u32>) {
            let settled = self.moved.is_none_or(|moved| moved.elapsed() > SETTLE);
            if let Some(cpu) = caller.filter(|_| settled) {
                affinity::leave(cpu);
                self.moved = Some(Instant::now());
            }
        }
    }

    /// Spins until `ready`; false after a bounded time.
    pub(super) fn spin_until(ready: impl Fn() -> bool) -> bool {
        let mut start = None;
        loop {
            for _ in 0..PAUSES {
                if ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let waited = start.get_or_insert_with(Instant::now).elapsed();
            if waited > AWAKE {
                return ready();
            }
            if waited > SPIN {
                std::thread::yield_now();
            }
        }
    }

    pub(super) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        match std::thread::Builder::new().name(name).spawn(body) {
            Ok(handle) => handle,
            Err(error) => panic!("cannot start a kernel thread: {error}"),
        }
    }

    /// As `loom::cell::UnsafeCell`: access through a closure, so that loom can track its extent.
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod sync {
    pub(super) use loom::cell::UnsafeCell;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    pub(super) use loom::thread::{JoinHandle, Thread, current, park};

    /// Threads of a model have no CPU.
    pub(super) struct Distance;

    impl Distance {
        pub(super) fn new(_threads: usize) -> Self {
            Self
        }

        pub(super) fn keep_from(&mut self, _caller: Option<u32>) {}
    }

    /// One look stands for the whole spin: the model explores both outcomes.
    pub(super) fn spin_until(ready: impl Fn() -> bool) -> bool {
        ready()
    }

    pub(super) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        match loom::thread::Builder::new().name(name).spawn(body) {
            Ok(handle) => handle,
            Err(error) => panic!("cannot start a model thread: {error}"),
        }
    }
}
