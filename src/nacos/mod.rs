//! What crosses the wire: the Nacos client. No actor in sight.
#![allow(dead_code)]

pub(crate) mod exchange;
pub(crate) mod v1;

pub use exchange::Operation;
