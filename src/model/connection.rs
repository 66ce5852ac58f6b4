//! Whether the servers can be reached.

use serde::Serialize;

/// Whether the servers can be reached. See [`GetStatus`](crate::GetStatus) and
/// [`WatchConnection`](crate::WatchConnection).
///
/// Serialises in lower case (`"connected"`).
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
