//! Counters of requests and pushes for tests.
//!
//! Handlers and pushes count under the mutex of the state, so a copy of all counters is consistent.

use std::collections::HashMap;

use crate::error::Operation;

/// How often each event has happened since the server was started. Restarts do not reset the counters.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*, Operation};
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = EmbeddedServer::start()?;
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
/// assert_eq!(server.counters().requests_for(Operation::Register), 1);
/// # Ok(())
/// # }
/// ```
///
/// To count the requests of one step, take the counters before and after:
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*, Operation};
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = EmbeddedServer::start()?;
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// let before = server.counters().requests_for(Operation::List);
/// registry.send(ListInstances::new("orders")).await??;
/// assert_eq!(server.counters().requests_for(Operation::List) - before, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Accepted connections.
    pub connections: u64,
    /// Received requests, including those that a fault failed, spoilt or left hanging.
    pub requests: u64,
    /// Pushes sent for the first time, including those that a fault dropped.
    pub pushes_sent: u64,
    /// Pushes sent again because they were not acknowledged.
    pub pushes_sent_again: u64,
    /// Acknowledged pushes.
    pub pushes_acknowledged: u64,
    pub(crate) by_operation: HashMap<Operation, u64>,
}

impl Counters {
    /// The requests for one operation, of v1 and v3 together. PUT, PATCH and batches count as [`Operation::Modify`].
    ///
    /// A request counts when it arrives, whether it is served or not. Logins count as [`Operation::Login`].
    /// Requests to other paths only count in [`requests`](Counters::requests).
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
