//! Requests and answers as pure functions: what the HTTP APIs and the datagrams of Nacos look like. No I/O.

pub(crate) mod exchange;
mod lenient;
#[cfg(test)]
pub(crate) mod recordings;
pub(crate) mod signature;
pub(crate) mod v1;
pub(crate) mod v3;
