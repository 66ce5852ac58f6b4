//! Counts requests by operation and outcome.
//!
//! Each request counts, not each operation: a registration that failed at one server and succeeded at another
//! counts once as failed and once as succeeded. Logins and server lists are not counted.

use std::{cell::Cell, time::Duration};

use serde::Serialize;

use crate::{
    error::{Error, Operation},
    model::histogram::{Durations, Histogram},
};

/// The operations that are requests of the naming API.
pub(crate) const REQUESTS: [Operation; 7] = [
    Operation::Register,
    Operation::Beat,
    Operation::Deregister,
    Operation::List,
    Operation::Modify,
    Operation::Get,
    Operation::ListServices,
];

/// The requests of one operation. If an operation is tried at several servers, each request counts.
///
/// [`RegistryStatus::requests`](crate::RegistryStatus::requests) has one for each operation that was requested.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RequestStatus {
    /// The operation.
    pub operation: Operation,
    /// Requests that succeeded, including those that found no such instance.
    pub succeeded: u64,
    /// Requests that a server rejected.
    pub rejected: u64,
    /// Requests without a usable answer.
    pub failed: u64,
    /// How long the requests took.
    pub duration: Histogram,
}

/// Counts requests, in the Registry's thread.
///
/// The size is fixed, because the operations are known.
#[derive(Debug, Default)]
pub(crate) struct RequestCounters([OperationCounters; REQUESTS.len()]);

#[derive(Debug, Default)]
struct OperationCounters {
    succeeded: Cell<u64>,
    rejected: Cell<u64>,
    failed: Cell<u64>,
    durations: Durations,
}

impl RequestCounters {
    /// Counts one request and its time.
    pub(crate) fn count<T>(&self, operation: Operation, took: Duration, outcome: &Result<T, Error>) {
        let index = REQUESTS.iter().position(|counted| *counted == operation);
        let Some(counters) = index.and_then(|index| self.0.get(index)) else { return };
        let counter = match outcome {
            // The server has answered that there is no such instance.
            Ok(_) | Err(Error::NotFound { .. }) => &counters.succeeded,
            Err(error) if error.is_retryable() => &counters.failed,
            Err(_) => &counters.rejected,
        };
        counter.set(counter.get() + 1);
        counters.durations.count(took);
    }

    /// Returns the counts of all operations with at least one request.
    pub(crate) fn status(&self) -> Vec<RequestStatus> {
        let describe = |(operation, counters): (Operation, &OperationCounters)| RequestStatus {
            operation,
            succeeded: counters.succeeded.get(),
            rejected: counters.rejected.get(),
            failed: counters.failed.get(),
            duration: counters.durations.histogram(),
        };
        let all = REQUESTS.into_iter().zip(&self.0).map(describe);
        all.filter(|status| status.duration.count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_operation_and_outcome() {
        let counters = RequestCounters::default();
        let refused = |status| Error::Refused {
            operation: Operation::Beat,
            server: "192.0.2.1:8848".into(),
            status,
            body: String::new(),
        };
        let took = Duration::from_millis(3);
        counters.count(Operation::Beat, took, &Ok(()));
        counters.count::<()>(Operation::Beat, took, &Err(refused(503)));
        counters.count::<()>(Operation::Beat, took, &Err(refused(403)));
        counters.count::<()>(
            Operation::Get,
            took,
            &Err(Error::NotFound { instance: "orders".into(), may_be_disabled: false }),
        );
        // A login is not a request of the naming API.
        counters.count(Operation::Login, took, &Ok(()));
        let status = counters.status();
        let figures: Vec<_> =
            status.iter().map(|of| (of.operation, of.succeeded, of.rejected, of.failed, of.duration.count)).collect();
        assert_eq!(figures, [(Operation::Beat, 1, 1, 1, 3), (Operation::Get, 1, 0, 0, 1)]);
    }
}
