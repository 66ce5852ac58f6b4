//! What is to be done later, in the order in which it falls due.

use std::{collections::BTreeMap, time::Duration};

pub(crate) struct Agenda<T> {
    /// The number keeps things that fall due together in the order in which they were entered.
    entries: BTreeMap<(Duration, u64), T>,
    entered: u64,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Agenda { entries: BTreeMap::new(), entered: 0 }
    }

    pub(crate) fn enter(&mut self, at: Duration, what: T) {
        self.entered += 1;
        self.entries.insert((at, self.entered), what);
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out the next thing that is due by `now`, with the time for which it was entered.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<(Duration, T)> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), what) = entry.remove_entry();
        Some((at, what))
    }

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
    fn what_falls_due_together_comes_in_the_order_of_entry() {
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
