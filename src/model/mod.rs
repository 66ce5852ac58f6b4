//! The values that applications and servers exchange: instances, services, changes.

pub(crate) mod change;
pub(crate) mod connection;
pub(crate) mod heartbeat;
pub(crate) mod histogram;
pub(crate) mod instance;
pub(crate) mod service;
