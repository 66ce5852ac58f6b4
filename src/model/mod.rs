//! What the crate speaks of: instances, services, and what changed in them.

pub(crate) mod change;
pub(crate) mod connection;
pub(crate) mod heartbeat;
pub(crate) mod instance;
pub(crate) mod service;
