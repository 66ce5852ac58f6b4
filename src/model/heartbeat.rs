//! What a server answers to a heartbeat.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
        HeartbeatReply {
            client_beat_interval: 0,
            code: crate::wire::v1::BEAT_TAKEN,
            light_beat_enabled: false,
            extra: BTreeMap::new(),
        }
    }

    /// Whether the server does not know the instance: it is to be registered again.
    pub fn is_unknown(&self) -> bool {
        self.code == crate::wire::v1::BEAT_UNKNOWN
    }
}
