//! Hooks for this crate's own tests and benches, behind a feature that is no part of its API.

pub mod bench;
pub mod failpoints;
