//! The bounded queue between the servers' threads and the engine's one thread.
//!
//! Requests stay here, by owner and in order of arrival, until the engine has room, so its capacity bounds the waiting
//! requests. No caller can fill it, nor a tenant the part of its caller: who has many requests waiting may add another
//! only while plenty of room is free. Closing is one-way: a closed inbox refuses what is new and still hands out what
//! it holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::SubmitError;
use crate::fairness::Owner;

/// A caller may queue another request while it has fewer than this many times the free places (dynamic thresholds,
/// Choudhury and Hahne, 1998), so alone it gets four fifths of the queue; and so does a tenant with the places that are
/// left for its caller. The last place is for whoever has nothing waiting.
const FREE_PLACES_FACTOR: usize = 4;

/// A bounded queue of items of `T`, first come first served within each [`Owner`].
pub(crate) struct Inbox<K, T> {
    state: Mutex<State<K, T>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<K, T> {
    /// Without empty queues.
    queues: BTreeMap<Owner<K>, VecDeque<(u64, T)>>,
    len: usize,
    /// Items that arrived so far; the number of the next one.
    arrivals: u64,
    closed: bool,
}

impl<K: Copy + Ord, T> State<K, T> {
    fn has_room(&self, owner: Owner<K>, capacity: usize) -> bool {
        let own = self.queues.get(&owner).map_or(0, VecDeque::len);
        let queues = self.queues.iter().filter(|(other, _)| other.caller == owner.caller);
        let of_caller: usize = queues.map(|(_, queue)| queue.len()).sum();
        let free = capacity - self.len;
        // Requests that the caller may still add: each takes a free place and is one more of its own.
        let left = (free * FREE_PLACES_FACTOR).saturating_sub(of_caller).div_ceil(FREE_PLACES_FACTOR + 1);
        let for_others = (of_caller > 0 && free == 1) || (own > 0 && left == 1);
        own < left * FREE_PLACES_FACTOR && !for_others
    }
}

impl<K: Copy + Ord, T> Inbox<K, T> {
    pub(crate) fn new(capacity: usize) -> Inbox<K, T> {
        let state = State { queues: BTreeMap::new(), len: 0, arrivals: 0, closed: false };
        Inbox { state: Mutex::new(state), arrived: Condvar::new(), capacity }
    }

    /// Adds `item` at the end of the owner's queue. An inbox that is full, or full for this owner, returns
    /// `retry_after_s` in the error.
    pub(crate) fn push(&self, owner: Owner<K>, item: T, retry_after_s: u64) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Draining);
        }
        if !state.has_room(owner, self.capacity) {
            return Err(SubmitError::QueueFull { retry_after_s });
        }
        let number = state.arrivals;
        state.arrivals += 1;
        state.len += 1;
        state.queues.entry(owner).or_default().push_back((number, item));
        self.arrived.notify_one();
        Ok(())
    }

    /// The owners that have something waiting, and the arrival number of the first of it.
    pub(crate) fn heads(&self) -> Vec<(Owner<K>, u64)> {
        let state = self.lock();
        let heads = state.queues.iter().filter_map(|(owner, queue)| Some((*owner, queue.front()?.0)));
        heads.collect()
    }

    /// Looks at an owner's first item.
    pub(crate) fn peek<R>(&self, owner: Owner<K>, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().queues.get(&owner)?.front().map(|(_, item)| look(item))
    }

    /// Takes an owner's first item, with its arrival number.
    pub(crate) fn pop(&self, owner: Owner<K>) -> Option<(u64, T)> {
        let mut state = self.lock();
        let queue = state.queues.get_mut(&owner)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            state.queues.remove(&owner);
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

    fn user(caller: char, tenant: char) -> Owner<char> {
        Owner { caller, tenant }
    }

    fn of(caller: char) -> Owner<char> {
        user(caller, 'x')
    }

    #[test]
    fn a_full_inbox_says_when_to_retry() {
        let inbox = Inbox::new(1);
        inbox.push(of('a'), 1, 5).unwrap();
        assert_eq!(inbox.push(of('a'), 2, 5), FULL);
        assert_eq!(inbox.push(of('b'), 2, 5), FULL);
    }

    #[test]
    fn callers_that_fill_the_inbox_leave_room_for_others() {
        let inbox = Inbox::new(100);
        let fill = |owner| (0..).take_while(|&item| inbox.push(owner, item, 5).is_ok()).count();
        assert_eq!(['a', 'b', 'c', 'd'].map(|caller| fill(of(caller))), [64, 24, 8, 3]);
        assert_eq!(inbox.push(of('e'), 0, 5), Ok(()));
        assert_eq!(inbox.len(), 100);
        assert_eq!(inbox.push(of('f'), 0, 5), FULL);
        // Places of the first one that become free are for the others.
        (0..10).for_each(|_| assert!(inbox.pop(of('a')).is_some()));
        assert_eq!(inbox.push(of('a'), 0, 5), FULL);
        assert_eq!(inbox.push(of('f'), 0, 5), Ok(()));
    }

    #[test]
    fn a_caller_with_many_users_fills_no_more_than_its_part_and_a_user_leaves_room_for_the_other_users() {
        let inbox = Inbox::new(100);
        let fill = |owner| (0..).take_while(|&item| inbox.push(owner, item, 5).is_ok()).count();
        assert_eq!(fill(user('a', '0')), 64);
        assert_eq!(fill(user('a', '1')), 13);
        assert!(('2'..='9').map(|tenant| fill(user('a', tenant))).sum::<usize>() <= 3);
        assert_eq!(inbox.len(), 80);
        assert_eq!(fill(of('b')), 13);
    }

    #[test]
    fn each_owner_is_served_in_order_of_arrival() {
        let inbox = Inbox::new(10);
        for (caller, item) in [('a', 1), ('b', 2), ('a', 3)] {
            inbox.push(of(caller), item, 1).unwrap();
        }
        assert_eq!(inbox.heads(), [(of('a'), 0), (of('b'), 1)]);
        assert_eq!(inbox.peek(of('a'), |item| *item), Some(1));
        assert_eq!(
            (inbox.pop(of('a')), inbox.pop(of('a')), inbox.pop(of('a'))),
            (Some((0, 1)), Some((2, 3)), None)
        );
        assert_eq!(inbox.remove_if(|item| *item == 2), 1);
        assert_eq!((inbox.len(), inbox.heads()), (0, Vec::new()));
    }

    #[test]
    fn a_closed_inbox_rejects_new_items_and_hands_out_old_ones() {
        let inbox = Inbox::new(4);
        inbox.push(of('a'), 1, 1).unwrap();
        inbox.close();
        assert_eq!(inbox.push(of('a'), 2, 1), Err(SubmitError::Draining));
        assert!(inbox.wait());
        assert_eq!(inbox.pop(of('a')), Some((0, 1)));
        assert!(!inbox.wait());
    }

    #[test]
    fn quiet_is_an_open_inbox_with_nothing_in_it() {
        let (inbox, moment) = (Inbox::new(4), Duration::from_millis(1));
        assert!(inbox.is_quiet_for(moment));
        inbox.push(of('a'), 1, 1).unwrap();
        assert!(!inbox.is_quiet_for(moment));
        inbox.pop(of('a'));
        inbox.close();
        assert!(!inbox.is_quiet_for(moment));
    }
}
