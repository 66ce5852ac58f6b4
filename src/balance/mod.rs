//! Calls by service name: an awc client that chooses an instance for every request, and another one for a retry.
//!
//! [`Client`] is the ready client. Applications that build their own [`awc::Client`] give it the [`Middleware`].
//!
//! A request by name passes through these files:
//!
//! 1. `middleware` finds the service that the host names, in `services` and `hosts`.
//! 2. The service's view chooses an instance. `outgoing` addresses the request to that instance, and `body` makes
//!    the body so that it can be sent again.
//! 3. `connections` gives awc a connection to the instance, with `tls` if needed. `tunnels` does so for WebSockets.
//! 4. `answer` ends the call when the body of the answer ends.
//! 5. After a failure, `retry` decides whether the request may be sent to another instance. The view's budget decides
//!    whether the service has a retry left.
//!
//! # Which part do I need?
//!
//! | you have | use |
//! |---|---|
//! | handlers that call HTTP services | [`Client`], made once per worker by [`Client::builder`] |
//! | an [`awc::Client`] with settings of its own | [`Middleware`], made by [`ClientBuilder::middleware`] |
//! | a protocol other than HTTP | [`ServiceView::begin`](crate::ServiceView::begin), without this module |
//!
//! # What is shared and what is not
//!
//! A client and its connections belong to one thread, because awc's client does. The Registry has everything that is
//! known about instances: lists, calls in flight, latencies, ejections and the budget of retries. All workers that use
//! one Registry share it. So if an instance fails for one worker, no worker chooses it.
//!
//! # Errors
//!
//! Calls return awc's [`SendRequestError`](awc::error::SendRequestError). [`cause`] finds the error of this crate
//! in it. If the last attempt was answered, the answer is returned, whatever its status is.
//!
//! `docs/guide/call-others.md` has recipes: names in URLs, retries, time limits, https, own awc clients.

mod answer;
mod body;
mod client;
mod connections;
mod deadline;
mod error;
pub(crate) mod hosts;
mod middleware;
mod outgoing;
mod retry;
mod services;
mod tls;
mod tunnels;

pub use self::{
    client::{Client, ClientBuilder},
    error::cause,
    middleware::{Balanced, Middleware},
    outgoing::HostHeader,
    retry::Retry,
};
