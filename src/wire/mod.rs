//! Requests and answers of Nacos' HTTP APIs as pure functions. No I/O.

pub(crate) mod datagram;
pub(crate) mod exchange;
mod lenient;
#[cfg(test)]
pub(crate) mod recordings;
pub(crate) mod signature;
pub(crate) mod v1;
pub(crate) mod v3;
