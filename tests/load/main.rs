//! Tests that load the machine or measure punctuality. Only the quiet ones run beside each other.
//!
//! `cargo bench --bench reliability` runs the same scenarios at full length.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Each test has a runtime of its own, in which nobody else wants the lock.
#![allow(clippy::await_holding_lock)]

mod calls;
mod failover;
mod isolation;
mod offline;
mod outage;
mod restart;
mod spoofing;
mod spread;

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// Held by a test that needs the machine for itself.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that is quiet by itself, and may run beside others of its kind.
fn beside_quiet_ones() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
