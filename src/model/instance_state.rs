//! The state of a registered instance on the servers.
//!
//! ```text
//! Pending ──► Registered ──► Lost ──► Registered
//!    │            │           │
//!    └────────────┴───────────┴──► Rejected ──► Registered
//! ```
//!
//! The Registry changes the state in `registry/instance_state.rs`. Registering with `when_reachable` begins with
//! `Pending`. Otherwise an instance begins as `Registered`, once a server has accepted it. Only an accepted
//! registration or beat leads to `Registered`.

use actix::Message;
use serde::Serialize;

use super::instance::InstanceKey;
use crate::error::Error;

/// Whether the servers have an instance that this application registered. Serialises in lower case, as `"registered"`.
///
/// | state | what to do |
/// |---|---|
/// | [`Pending`](Self::Pending), [`Lost`](Self::Lost) | wait: the Registry keeps trying |
/// | [`Rejected`](Self::Rejected) | read the error and correct the cause, such as a missing right |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InstanceState {
    /// The instance waits for a server that can be reached: see
    /// [`when_reachable`](crate::RegisterInstance::when_reachable).
    Pending,
    /// A server has accepted the registration, and heartbeats arrive.
    Registered,
    /// The servers reject the registration or the heartbeats, for example because the login lacks a right. The Registry
    /// tries again at every heartbeat interval. The error says what to correct.
    Rejected,
    /// A server has forgotten the instance, or its heartbeats have failed for longer than the heartbeat timeout (15 s,
    /// or the metadata entry [`HEART_BEAT_TIMEOUT`](crate::HEART_BEAT_TIMEOUT)). Callers may not find it, or see it as
    /// unhealthy. It is registered again as soon as a server accepts it.
    Lost,
}

/// Notifies a listener of the state of one registered instance: see [`WatchInstances`](crate::WatchInstances).
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub struct InstanceStateChanged {
    /// The instance.
    pub instance: InstanceKey,
    /// The state now.
    pub state: InstanceState,
    /// Why the instance is rejected, or why its last heartbeat failed. `None` in every other state, and if a server has
    /// forgotten the instance.
    pub error: Option<Error>,
}
