//! Whether the servers can be reached.
//!
//! The state is derived from the health of all servers in `client/connection.rs`.

use actix::Message;
use serde::Serialize;

/// Whether the servers can be reached. See [`GetStatus`](crate::GetStatus) and
/// [`WatchConnection`](crate::WatchConnection).
///
/// Serialises in lower case (`"connected"`).
///
/// | state | registrations and heartbeats | lists and calls |
/// |---|---|---|
/// | [`Unknown`](Self::Unknown) | wait for the first answer | no list yet, except from the disk cache |
/// | [`Connected`](Self::Connected) | in time | current |
/// | [`Degraded`](Self::Degraded) | in time, perhaps at another server | current |
/// | [`Lost`](Self::Lost) | are repeated until a server answers | use the last lists, which are stale |
///
/// No state requires the application to act. Do not make a process unready because of `Lost`: it can still serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConnectionState {
    /// No server has answered yet.
    #[default]
    Unknown,
    /// The server in use answers, and no other server is known to fail.
    Connected,
    /// At least one server fails, but another one answers.
    Degraded,
    /// No server answers.
    Lost,
}

/// Notifies a listener of the state of the connection: see [`WatchConnection`](crate::WatchConnection). After several
/// changes in quick succession, only the newest state is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub struct ConnectionChanged {
    /// The state now.
    pub state: ConnectionState,
    /// The server in use, as `host:port`. `None` if no server is known yet.
    pub server: Option<String>,
}
