//! The Nacos client. It does not depend on any actor.
//!
//! [`Nacos`] has one method per operation, and [`calls`] defines the request and the answer of each operation by the
//! pure functions in `wire`. A request passes through these files:
//!
//! 1. [`attempt`] waits for a permit, chooses a server, and repeats the request at another server after a failure. It
//!    also finds out which protocol a server speaks.
//! 2. [`login`] adds the token from [`session`], and logs in if there is none.
//! 3. [`transport`] signs the request, sends it by awc, and reads the answer. [`dialer`] opens connections, with
//!    [`tls`] if the server needs it. [`decoding`] undoes what proxies did to the answer.
//!
//! [`servers`] has all servers, and chooses the server in use. [`health`] has the circuit breakers of one server.
//! [`connection`] derives the state of the connection from them. [`restart_detector`] and [`server_list`] are
//! background tasks.
//!
//! The client owns the connections, the tokens, the health of the servers, and the choice of the server in use. It does
//! not store what is registered or watched. The Registry does, and repeats its registrations when an epoch begins.
//!
//! Invariants:
//!
//! - Everything runs in one thread, because awc's client does. State is in `Cell`s and `RefCell`s that are never
//!   borrowed across an `await`.
//! - An error names the operation and the server, and says whether another attempt may help.
//! - From its first permit on, an operation ends within its deadline, whatever a server does: each wait has a
//!   limit.
//! - Passwords, tokens and secret keys are in no `Debug`, no log and no URL. Tokens are sent in a header, passwords
//!   in a form body.

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
pub(crate) mod server_list;
pub(crate) mod servers;
pub(crate) mod session;
mod stream;
#[cfg(any(feature = "rustls", feature = "openssl"))]
pub(crate) mod tls;
#[cfg(not(any(feature = "rustls", feature = "openssl")))]
#[path = "no_tls.rs"]
mod tls;
pub(crate) mod transport;

pub(crate) use self::{
    calls::ListQuery,
    nacos::{Listed, Nacos, Patience},
    server_list::refresh_server_list,
};
