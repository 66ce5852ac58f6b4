//! The server's reply to a heartbeat.
//!
//! By default, Nacos clients send a heartbeat every 5 s. A server marks an instance as unhealthy after 15 s without a
//! heartbeat, and removes it after 30 s. The server's reply may ask for another interval, and may allow *light* beats,
//! which leave out the instance's values.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// The default of all Nacos clients (`Constants.DEFAULT_HEART_BEAT_INTERVAL`).
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// The server accepted the beat.
pub(crate) const BEAT_TAKEN: i64 = 10200;
/// The server does not know the instance (`NamingResponseCode.RESOURCE_NOT_FOUND`).
pub(crate) const BEAT_UNKNOWN: i64 = 20404;

/// The server's reply to a heartbeat: the answer to [`SendHeartbeat`](crate::SendHeartbeat).
///
/// Serialises with the field names of Nacos (`clientBeatInterval`, …). The v3 API only says whether a beat was
/// accepted. The interval is 0 then, and light beats are not enabled.
///
/// ```
/// use actix_nacos::HeartbeatReply;
///
/// let reply: HeartbeatReply =
///     serde_json::from_str(r#"{"clientBeatInterval": 5000, "code": 20404, "lightBeatEnabled": true}"#).unwrap();
/// assert!(reply.is_unknown());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HeartbeatReply {
    /// The interval between two beats that the server asks for, in milliseconds. 0 if the server names none.
    pub client_beat_interval: u64,
    /// 10200 if the server accepted the beat, 20404 if it does not know the instance.
    pub code: i64,
    /// Whether the next beat may leave out the values of the instance. False if the server does not say.
    pub light_beat_enabled: bool,
    /// All other fields of the reply.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl HeartbeatReply {
    /// The reply to an accepted beat, without an interval.
    pub(crate) fn taken() -> Self {
        HeartbeatReply { client_beat_interval: 0, code: BEAT_TAKEN, light_beat_enabled: false, extra: BTreeMap::new() }
    }

    /// Whether the server does not know the instance, so that the instance has to be registered again.
    ///
    /// [`SendHeartbeat`](crate::SendHeartbeat) registers the instance by itself then, and answers that it was
    /// taken.
    pub fn is_unknown(&self) -> bool {
        self.code == BEAT_UNKNOWN
    }
}
