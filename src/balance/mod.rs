//! Calls by service name: an awc client that chooses an instance for every request, and another one for a retry.
//!
//! [`Client`] is the ready client. Applications that build their own [`awc::Client`] give it the [`Middleware`].
//!
//! A request by name passes through these files:
//!
//! 1. `middleware` finds the service that the host names, in `services` and `hosts`.
//! 2. The service's view chooses an instance. `outgoing` addresses the request to that instance, and `body` makes
//!    the body so that it can be sent again.
//! 3. `connections` gives awc a connection to the instance, with `tls` if needed.
//! 4. `answer` ends the call when the body of the answer ends.
//! 5. After a failure, `retry` decides whether the request may be sent to another instance, and `budget` whether
//!    there are retries left.

mod answer;
mod body;
mod budget;
mod client;
mod connections;
mod error;
pub(crate) mod hosts;
mod middleware;
mod outgoing;
mod retry;
mod services;
mod tls;

pub use self::{
    client::{Client, ClientBuilder},
    error::cause,
    middleware::{Balanced, Middleware},
    outgoing::HostHeader,
    retry::Retry,
};
