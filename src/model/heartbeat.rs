//! What a server answers to a heartbeat.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// As Nacos' clients have it (`Constants.DEFAULT_HEART_BEAT_INTERVAL`).
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// A beat was taken.
pub(crate) const BEAT_TAKEN: i64 = 10200;
/// A beat of an instance that is not registered here (`NamingResponseCode.RESOURCE_NOT_FOUND`).
pub(crate) const BEAT_UNKNOWN: i64 = 20404;

/// What the server answered to a heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HeartbeatReply {
    /// The interval that the server wants between two beats, in milliseconds; 0 where it does not say.
    pub client_beat_interval: u64,
    /// 10200: taken. 20404: the instance is not registered here.
    pub code: i64,
    /// Whether the next beat may leave the values of the instance out.
    pub light_beat_enabled: bool,
    /// What else the server sent.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl HeartbeatReply {
    /// A beat that was taken, with nothing more to say.
    pub(crate) fn taken() -> Self {
        HeartbeatReply { client_beat_interval: 0, code: BEAT_TAKEN, light_beat_enabled: false, extra: BTreeMap::new() }
    }

    /// Whether the server does not know the instance: it is to be registered again.
    pub fn is_unknown(&self) -> bool {
        self.code == BEAT_UNKNOWN
    }
}
