//! Tests that load the machine or measure times. Only tests that cause little load run at the same time.
//!
//! `cargo bench --bench reliability` runs the same scenarios at full length.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Each test has its own runtime, in which no other task takes the lock.
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

/// A lock for a test that needs the whole machine.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A lock for a test that causes little load. Such tests may run at the same time.
fn beside_quiet_ones() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
