//! The bounded queue between the servers' threads and the engine's one thread.
//!
//! Requests stay here until the engine has room, so its capacity bounds the waiting requests. Closing is
//! one-way: a closed inbox refuses what is new and still hands out what it holds.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::SubmitError;

/// What a bounded first-come-first-served queue of `T` holds.
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<T> {
    queue: VecDeque<T>,
    closed: bool,
}

impl<T> Inbox<T> {
    pub(crate) fn new(capacity: usize) -> Inbox<T> {
        let state = State { queue: VecDeque::new(), closed: false };
        Inbox { state: Mutex::new(state), arrived: Condvar::new(), capacity }
    }

    /// Adds `item` at the end. A full inbox returns `retry_after_s` in the error.
    pub(crate) fn push(&self, item: T, retry_after_s: u64) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Draining);
        }
        if state.queue.len() >= self.capacity {
            return Err(SubmitError::QueueFull { retry_after_s });
        }
        state.queue.push_back(item);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes the first item if `fits` says so.
    pub(crate) fn pop_if(&self, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.lock();
        if state.queue.front().is_some_and(fits) { state.queue.pop_front() } else { None }
    }

    /// Removes the items for which `gone` is true and returns how many.
    pub(crate) fn remove_if(&self, gone: impl Fn(&T) -> bool) -> usize {
        let mut state = self.lock();
        let before = state.queue.len();
        state.queue.retain(|item| !gone(item));
        before - state.queue.len()
    }

    /// Waits up to `quiet`; true if nothing arrived meanwhile.
    pub(crate) fn is_quiet_for(&self, quiet: Duration) -> bool {
        let state = self.lock();
        let idle = |state: &mut State<T>| state.queue.is_empty() && !state.closed;
        let waited = self.arrived.wait_timeout_while(state, quiet, idle);
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Blocks until something is waiting (true) or the inbox is closed and empty (false).
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.lock();
        while state.queue.is_empty() && !state.closed {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Drops everything that waits; for an engine that failed.
    pub(crate) fn clear(&self) {
        self.lock().queue.clear();
    }

    /// No code panics while it holds the lock, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_says_when_to_retry() {
        let inbox = Inbox::new(1);
        inbox.push(1, 5).unwrap();
        assert_eq!(inbox.push(2, 5), Err(SubmitError::QueueFull { retry_after_s: 5 }));
    }

    #[test]
    fn a_closed_inbox_rejects_new_items_and_hands_out_old_ones() {
        let inbox = Inbox::new(4);
        inbox.push(1, 1).unwrap();
        inbox.close();
        assert_eq!(inbox.push(2, 1), Err(SubmitError::Draining));
        assert!(inbox.wait());
        assert_eq!(inbox.pop_if(|_| true), Some(1));
        assert!(!inbox.wait());
    }

    #[test]
    fn quiet_is_an_open_inbox_with_nothing_in_it() {
        let (inbox, moment) = (Inbox::new(4), Duration::from_millis(1));
        assert!(inbox.is_quiet_for(moment));
        inbox.push(1, 1).unwrap();
        assert!(!inbox.is_quiet_for(moment));
        inbox.pop_if(|_| true);
        inbox.close();
        assert!(!inbox.is_quiet_for(moment));
    }

    #[test]
    fn only_the_first_item_is_considered() {
        let inbox = Inbox::new(4);
        inbox.push(10, 1).unwrap();
        inbox.push(1, 1).unwrap();
        assert_eq!(inbox.pop_if(|&item| item < 5), None);
        assert_eq!(inbox.len(), 2);
    }
}
