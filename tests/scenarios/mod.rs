//! The faults that tests run with small sizes, and `benches/reliability.rs` at full length.

pub mod blocked;
pub mod by_name;
pub mod by_weight;
pub mod datagrams;
pub mod eject;
pub mod failover;
pub mod kill9;
pub mod listeners;
pub mod many_offline;
pub mod outage;
pub mod restart;
pub mod rnacos;
pub mod rolling;
pub mod rolling_restart;
pub mod session;
pub mod sigterm;
pub mod slow;
pub mod time_to_remove;
