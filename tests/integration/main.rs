//! Tests that can run in one process, one file per theme: `cargo test --test integration health::` runs one file.
//!
//! The tests run at the same time, and most of them wait for timers: `.cargo/config.toml` makes cargo run more of them
//! than there are cores. Tests that load the machine are in `tests/load`. A test that needs its own process is a file
//! in `tests/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_answers;
mod bad_input;
mod cache;
mod calls;
mod choices;
mod console;
mod conversions;
mod deadlines;
mod drain;
mod embedded_dialects;
mod embedded_expiry;
mod embedded_faults;
mod embedded_lifecycle;
mod embedded_load;
mod embedded_push;
mod embedded_replay;
mod embedded_v1;
mod embedded_v3;
mod endpoint;
mod events;
mod health;
mod heartbeats;
mod login;
mod metadata;
mod metrics;
mod modify;
mod names;
mod neighbours;
mod order;
mod outage;
mod page;
mod panics;
mod plain_threads;
mod push;
mod registration;
mod registrations;
mod removals;
mod secrets;
mod servers;
mod session;
mod signing;
mod status;
mod subscriptions;
mod upgrade;

#[path = "../raw_http/mod.rs"]
mod raw_http;
#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../site/mod.rs"]
mod site;
#[path = "../support/mod.rs"]
mod support;
