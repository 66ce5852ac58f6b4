//! What a server has been asked and has sent, for tests to look at.

use std::collections::HashMap;

use crate::error::Operation;

/// How often what has happened since the server began. Restarts do not set it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Requests that came in, those refused, spoilt or left hanging by a fault included.
    pub requests: u64,
    /// Pushes sent for the first time, those dropped by a fault included.
    pub pushes_sent: u64,
    /// Pushes sent again because nobody acknowledged them.
    pub pushes_sent_again: u64,
    /// Pushes acknowledged.
    pub pushes_acknowledged: u64,
    pub(crate) by_operation: HashMap<Operation, u64>,
}

impl Counters {
    /// The requests for one operation, in v1 and v3 together. `Modify` counts PUT, PATCH and batches.
    pub fn requests_for(&self, operation: Operation) -> u64 {
        self.by_operation.get(&operation).copied().unwrap_or(0)
    }

    pub(crate) fn count_request(&mut self, operation: Option<Operation>) {
        self.requests += 1;
        if let Some(operation) = operation {
            *self.by_operation.entry(operation).or_default() += 1;
        }
    }
}
