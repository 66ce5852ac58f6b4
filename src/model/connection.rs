//! How the servers can be reached.

use serde::Serialize;

/// How the servers can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConnectionState {
    /// No server has answered yet.
    #[default]
    Unknown,
    /// The server in use answers, and no other is known to fail.
    Connected,
    /// A server fails, another one serves.
    Degraded,
    /// No server answers.
    Lost,
}
