//! Requests and answers of Nacos' HTTP APIs as pure functions. No I/O.
//!
//! [`v1`] and [`v3`] have a function per operation that creates the request, and a function that reads the answer. Both
//! use the types in [`exchange`]. The client and the embedded server share the structs of the answers, so a field that
//! is renamed on one side is renamed on the other side too. `recordings.rs` compares the functions with recorded
//! exchanges of real servers.

pub(crate) mod datagram;
pub(crate) mod exchange;
mod lenient;
#[cfg(test)]
pub(crate) mod recordings;
pub(crate) mod signature;
pub(crate) mod v1;
pub(crate) mod v3;
