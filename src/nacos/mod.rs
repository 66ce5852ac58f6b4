//! What crosses the wire: the Nacos client. No actor in sight.
#![allow(dead_code)]

pub(crate) mod exchange;
#[cfg(test)]
pub(crate) mod recordings;
pub(crate) mod v1;

pub use exchange::Operation;
