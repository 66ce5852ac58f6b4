//! The Nacos client. It knows no actor.
//!
//! [`Nacos`] has one method per operation. The requests and the reading of answers are pure functions in `wire`.
//! [`attempt`] chooses the server, repeats failed requests, and finds out the protocol of a server. [`login`] adds the
//! token.

mod attempt;
mod calls;
mod connection;
mod decoding;
mod dialer;
mod health;
mod list_cache;
mod login;
mod nacos;
pub(crate) mod request_counters;
mod resolve;
pub(crate) mod restart_detector;
pub(crate) mod server;
mod server_list;
pub(crate) mod servers;
pub(crate) mod session;
mod stream;
#[cfg(any(feature = "rustls", feature = "openssl"))]
mod tls;
#[cfg(not(any(feature = "rustls", feature = "openssl")))]
#[path = "no_tls.rs"]
mod tls;
pub(crate) mod transport;

pub(crate) use self::{
    calls::ListQuery,
    nacos::{Listed, Nacos, Patience},
    server_list::refresh_server_list,
};
