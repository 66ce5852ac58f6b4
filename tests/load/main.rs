//! What loads the machine, or measures the process. These tests run one after the other.
//!
//! `cargo bench --bench reliability` stages the same scenarios at full length.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Each test has a runtime of its own, in which nobody else wants the lock.
#![allow(clippy::await_holding_lock)]

mod calls;
mod failover;
mod isolation;
mod offline;
mod restart;
mod spoofing;
mod spread;

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
