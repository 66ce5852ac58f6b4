//! Hooks for the tests and benches of this crate. Not part of its API.

pub mod bench;
pub mod failpoints;
#[cfg(feature = "embedded")]
pub mod fuzz;
pub mod network;
