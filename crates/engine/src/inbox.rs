//! The bounded queue between the servers' threads and the engine's one thread.
//!
//! Requests stay here, by tenant and in order of arrival, until the engine has room, so its capacity bounds the waiting
//! requests. No tenant can fill it: one that has many requests waiting may add another only while plenty of room is
//! free. Closing is one-way: a closed inbox refuses what is new and still hands out what it holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::SubmitError;

/// A tenant may queue another request while it has fewer than this many times the free places (dynamic thresholds,
/// Choudhury and Hahne, 1998): alone it gets four fifths of the queue. The last place is for a tenant that
/// has nothing waiting.
const FREE_PLACES_FACTOR: usize = 4;

/// A bounded queue of items of `T`, first come first served within each tenant `K`.
pub(crate) struct Inbox<K, T> {
    state: Mutex<State<K, T>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<K, T> {
    /// Without empty queues.
    queues: BTreeMap<K, VecDeque<(u64, T)>>,
    len: usize,
    /// Items that arrived so far; the number of the next one.
    arrivals: u64,
    closed: bool,
}

impl<K: Copy + Ord, T> Inbox<K, T> {
    pub(crate) fn new(capacity: usize) -> Inbox<K, T> {
        let state = State { queues: BTreeMap::new(), len: 0, arrivals: 0, closed: false };
        Inbox { state: Mutex::new(state), arrived: Condvar::new(), capacity }
    }

    /// Adds `item` at the end of the tenant's queue. An inbox that is full, or full for this tenant, returns
    /// `retry_after_s` in the error.
    pub(crate) fn push(&self, tenant: K, item: T, retry_after_s: u64) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Draining);
        }
        let own = state.queues.get(&tenant).map_or(0, VecDeque::len);
        let free = self.capacity - state.len;
        if own >= free.saturating_mul(FREE_PLACES_FACTOR) || (own > 0 && free == 1) {
            return Err(SubmitError::QueueFull { retry_after_s });
        }
        let number = state.arrivals;
        state.arrivals += 1;
        state.len += 1;
        state.queues.entry(tenant).or_default().push_back((number, item));
        self.arrived.notify_one();
        Ok(())
    }

    /// The tenants that have something waiting, and the arrival number of the first of it.
    pub(crate) fn heads(&self) -> Vec<(K, u64)> {
        let state = self.lock();
        let heads = state.queues.iter().filter_map(|(tenant, queue)| Some((*tenant, queue.front()?.0)));
        heads.collect()
    }

    /// Looks at a tenant's first item.
    pub(crate) fn peek<R>(&self, tenant: K, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().queues.get(&tenant)?.front().map(|(_, item)| look(item))
    }

    /// Takes a tenant's first item, with its arrival number.
    pub(crate) fn pop(&self, tenant: K) -> Option<(u64, T)> {
        let mut state = self.lock();
        let queue = state.queues.get_mut(&tenant)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            state.queues.remove(&tenant);
        }
        state.len -= usize::from(first.is_some());
        first
    }

    /// Removes the items for which `gone` is true and returns how many.
    pub(crate) fn remove_if(&self, gone: impl Fn(&T) -> bool) -> usize {
        let mut state = self.lock();
        let before = state.len;
        state.queues.retain(|_, queue| {
            queue.retain(|(_, item)| !gone(item));
            !queue.is_empty()
        });
        state.len = state.queues.values().map(VecDeque::len).sum();
        before - state.len
    }

    /// Waits up to `quiet`; true if nothing arrived meanwhile.
    pub(crate) fn is_quiet_for(&self, quiet: Duration) -> bool {
        let state = self.lock();
        let idle = |state: &mut State<K, T>| state.len == 0 && !state.closed;
        let waited = self.arrived.wait_timeout_while(state, quiet, idle);
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Blocks until something is waiting (true) or the inbox is closed and empty (false).
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.lock();
        while state.len == 0 && !state.closed {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.len > 0
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len
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
        let mut state = self.lock();
        state.queues.clear();
        state.len = 0;
    }

    /// No code panics while it holds the lock, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Result<(), SubmitError> = Err(SubmitError::QueueFull { retry_after_s: 5 });

    #[test]
    fn a_full_inbox_says_when_to_retry() {
        let inbox = Inbox::new(1);
        inbox.push('a', 1, 5).unwrap();
        assert_eq!(inbox.push('a', 2, 5), FULL);
        assert_eq!(inbox.push('b', 2, 5), FULL);
    }

    #[test]
    fn tenants_that_fill_the_inbox_leave_room_for_others() {
        let inbox = Inbox::new(100);
        let fill = |tenant| (0..).take_while(|&item| inbox.push(tenant, item, 5).is_ok()).count();
        assert_eq!((fill('a'), fill('b'), fill('c')), (80, 16, 3));
        assert_eq!(inbox.push('d', 0, 5), Ok(()));
        assert_eq!(inbox.len(), 100);
        assert_eq!(inbox.push('e', 0, 5), FULL);
        // What the first one gives up as it is served is for the others.
        (0..10).for_each(|_| assert!(inbox.pop('a').is_some()));
        assert_eq!(inbox.push('a', 0, 5), FULL);
        assert_eq!(inbox.push('e', 0, 5), Ok(()));
    }

    #[test]
    fn each_tenant_is_served_in_order_of_arrival() {
        let inbox = Inbox::new(10);
        for (tenant, item) in [('a', 1), ('b', 2), ('a', 3)] {
            inbox.push(tenant, item, 1).unwrap();
        }
        assert_eq!(inbox.heads(), [('a', 0), ('b', 1)]);
        assert_eq!(inbox.peek('a', |item| *item), Some(1));
        assert_eq!((inbox.pop('a'), inbox.pop('a'), inbox.pop('a')), (Some((0, 1)), Some((2, 3)), None));
        assert_eq!(inbox.remove_if(|item| *item == 2), 1);
        assert_eq!((inbox.len(), inbox.heads()), (0, Vec::new()));
    }

    #[test]
    fn a_closed_inbox_rejects_new_items_and_hands_out_old_ones() {
        let inbox = Inbox::new(4);
        inbox.push('a', 1, 1).unwrap();
        inbox.close();
        assert_eq!(inbox.push('a', 2, 1), Err(SubmitError::Draining));
        assert!(inbox.wait());
        assert_eq!(inbox.pop('a'), Some((0, 1)));
        assert!(!inbox.wait());
    }

    #[test]
    fn quiet_is_an_open_inbox_with_nothing_in_it() {
        let (inbox, moment) = (Inbox::new(4), Duration::from_millis(1));
        assert!(inbox.is_quiet_for(moment));
        inbox.push('a', 1, 1).unwrap();
        assert!(!inbox.is_quiet_for(moment));
        inbox.pop('a');
        inbox.close();
        assert!(!inbox.is_quiet_for(moment));
    }
}
