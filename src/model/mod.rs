//! The values that applications and servers exchange: instances, services, changes.
//!
//! These types do no I/O and know neither servers nor actors.

pub(crate) mod change;
pub(crate) mod connection;
pub(crate) mod heartbeat;
pub(crate) mod histogram;
pub(crate) mod instance;
pub(crate) mod instance_state;
pub(crate) mod names;
pub(crate) mod service;
