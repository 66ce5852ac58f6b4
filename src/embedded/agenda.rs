//! Events in the order in which they become due.
//!
//! Times are those of the server's [clock](super::clock), not of the machine. So a test that advances the clock
//! finds all events, in their order, without waiting.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::catalogue::{InstanceKey, ServiceKey};

/// An event that becomes due.
#[derive(Debug)]
pub(crate) enum Due {
    /// Check whether the instance has beaten in time.
    CheckBeat { service: Arc<ServiceKey>, instance: Arc<InstanceKey>, registration: u64 },
    /// Remove the service if it still has no instances.
    CleanService { service: Arc<ServiceKey>, empty_since: Duration },
    /// Show a change of the service in its lists.
    RenewList { service: Arc<ServiceKey> },
    /// Push the changes that have been collected.
    Push { service: Arc<ServiceKey> },
    /// Send the push again if it has not been acknowledged.
    PushAgain(PushId),
    /// Send a datagram that a fault has delayed.
    SendDelayed(PushId),
}

/// Identifies a push by its receiver and its own `lastRefTime`, which the acknowledgement repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PushId {
    pub(super) to: SocketAddr,
    pub(super) last_ref_time: i64,
}

/// A queue by due time. It only stores events: the timer of the server's thread and
/// [`State::advance`](super::state::State::advance) take them out of it.
pub(crate) struct Agenda<T> {
    /// The number keeps events that are due at the same time in the order in which they were entered.
    entries: BTreeMap<(Duration, u64), T>,
    entered: u64,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Agenda { entries: BTreeMap::new(), entered: 0 }
    }

    /// Enters an event. There may be any number of equal events; handlers ignore those that are outdated.
    pub(crate) fn enter(&mut self, at: Duration, what: T) {
        self.entered += 1;
        self.entries.insert((at, self.entered), what);
    }

    /// When the timer must fire next. `None` if nothing is planned.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes the next event that is due at `now`, and returns it with its time.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<(Duration, T)> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), what) = entry.remove_entry();
        Some((at, what))
    }

    /// Removes the events that `is_discarded` selects.
    pub(crate) fn discard(&mut self, is_discarded: impl Fn(&T) -> bool) {
        self.entries.retain(|_, what| !is_discarded(what));
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_due_at_the_same_time_keep_their_order() {
        let mut agenda = Agenda::new();
        let second = Duration::from_secs(1);
        for what in ["a", "b"] {
            agenda.enter(second, what);
        }
        agenda.enter(Duration::ZERO, "first");
        agenda.enter(2 * second, "later");
        let due: Vec<_> = std::iter::from_fn(|| agenda.take_due(second)).map(|(_, what)| what).collect();
        assert_eq!(due, ["first", "a", "b"]);
        assert_eq!(agenda.next_due(), Some(2 * second));
    }
}
