//! Failures that a reachable server answers with, by operation: 5xx, and what cannot be read.
//!
//! Such an answer may be the request's own fault, a list that no client can read or a persistent instance while the
//! cluster has no leader: one subject that fails over and over pauses nobody else. From the second subject on the
//! operation is paused at this server, so that one that fails everybody is not asked by everybody. A success ends that.

use std::{collections::HashMap, time::Instant};

use super::{servers::pause, Operation};

#[derive(Debug, Clone, Default)]
pub(super) struct Refusals {
    by_operation: HashMap<Operation, Refusing>,
}

#[derive(Debug, Clone)]
struct Refusing {
    /// Who failed first.
    subject: String,
    /// Beyond the first subject's.
    failures: u32,
    last_failure: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Refusals {
    /// Until when `operation` is not to be asked for.
    pub(super) fn paused_until(&self, operation: Operation) -> Option<Instant> {
        self.by_operation.get(&operation)?.paused_until
    }

    /// One request may try; the others wait until then at the latest.
    pub(super) fn begin_trial(&mut self, operation: Operation, until: Instant) {
        if let Some(refusing) = self.by_operation.get_mut(&operation) {
            refusing.paused_until = refusing.paused_until.map(|_| until);
        }
    }

    /// Tells whether there was a pause, which is over now.
    pub(super) fn succeeded(&mut self, operation: Operation) -> bool {
        self.by_operation.remove(&operation).is_some_and(|refusing| refusing.paused_until.is_some())
    }

    /// A request of `subject` that began at `began` failed. Of many that failed together one counts.
    pub(super) fn failed(&mut self, operation: Operation, subject: String, began: Instant) {
        let Some(refusing) = self.by_operation.get_mut(&operation) else {
            let first = Refusing { subject, failures: 0, last_failure: None, paused_until: None };
            self.by_operation.insert(operation, first);
            return;
        };
        let alone = refusing.failures == 0 && refusing.subject == subject;
        if !alone && refusing.last_failure.is_none_or(|last| began >= last) {
            let now = Instant::now();
            refusing.failures += 1;
            refusing.last_failure = Some(now);
            refusing.paused_until = Some(now + pause(refusing.failures));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subject_that_fails_pauses_nobody() {
        let mut refusals = Refusals::default();
        for _ in 0..10 {
            refusals.failed(Operation::List, "orders".into(), Instant::now());
        }
        assert_eq!(refusals.paused_until(Operation::List), None);
    }

    #[test]
    fn from_the_second_subject_on_the_operation_is_paused_and_no_other() {
        let mut refusals = Refusals::default();
        refusals.failed(Operation::List, "orders".into(), Instant::now());
        refusals.failed(Operation::List, "ledger".into(), Instant::now());
        assert!(refusals.paused_until(Operation::List) > Some(Instant::now()));
        assert_eq!(refusals.paused_until(Operation::Beat), None);
        assert!(refusals.succeeded(Operation::List));
        assert_eq!(refusals.paused_until(Operation::List), None);
    }
}
