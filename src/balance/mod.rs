//! Calls by service name: an awc client that chooses an instance for every request, and another one for a retry.
//!
//! [`Client`] is the ready client. Applications that build their own [`awc::Client`] give it the [`Middleware`].

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
