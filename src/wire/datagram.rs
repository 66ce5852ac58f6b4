//! The UDP datagrams by which servers push lists, and their acknowledgements. Pure functions, no I/O.
//!
//! Anybody can send a datagram. So decoding never panics, inflates no more than the caller allows, and rejects a
//! datagram unless its text is a complete list.
//!
//! A push:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `type` | text | `dom` or `service`: a list; `dump`: a request for all lists of the client; others are unknown |
//! | `data` | text | for a list: the list as JSON, the same as the answer to `GET /v1/ns/instance/list` |
//! | `lastRefTime` | number | nanoseconds from an arbitrary moment; identifies the push |
//!
//! The acknowledgement, which must come from the socket that received the push:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `type` | text | `push-ack`, `dump-ack` or `unknown-ack` |
//! | `lastRefTime` | text | the number of the push, as text |
//! | `data` | text | empty |
//!
//! Facts about servers: Nacos up to 3.1 pushes to clients whose user agent it knows and whose last list request
//! named a UDP port. A datagram of 1 KiB or more is gzipped. One that is not acknowledged is sent once more after
//! 10 s, with its old content and after newer ones. So lists are ordered by the `lastRefTime` *inside* of `data`,
//! in milliseconds.

use std::io::Read;

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use super::v1::ListAnswer;

/// The size of the largest datagram, in bytes.
///
/// UDP allows no more, so a list that is longer when gzipped cannot be pushed; polls find its changes.
pub(crate) const MAX_DATAGRAM_SIZE: usize = 65_535;
/// The first two bytes of gzip, which JSON never begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The content of a datagram, plain or gzipped.
///
/// The embedded server writes it, and the client reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Packet {
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    /// A list as JSON text inside this JSON.
    #[serde(default)]
    pub(crate) data: Option<String>,
    /// Identifies the push. It counts nanoseconds from an arbitrary moment, so it does not show the age of the list.
    #[serde(default)]
    pub(crate) last_ref_time: i64,
}

/// The reply to a push, sent to the address that the datagram came from.
///
/// Without it, the server sends the push again after 10 s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acknowledgement {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The `lastRefTime` of the push, as text.
    pub(crate) last_ref_time: String,
    pub(crate) data: String,
}

/// A push that was decoded completely. [`acknowledgement`](PushMessage::acknowledgement) makes the reply.
#[derive(Debug, Clone)]
pub(crate) struct PushMessage {
    pub(crate) content: PushContent,
    last_ref_time: i64,
}

#[derive(Debug, Clone)]
pub(crate) enum PushContent {
    /// The whole list of a service. Its name is `GROUP@@service`.
    List(Box<ListAnswer>),
    /// A request for all lists of the client. The reply is empty, since the request is not authenticated.
    Dump,
    /// A type that this crate does not know.
    Unknown,
}

/// Why a datagram was not decoded. It must not be acknowledged.
///
/// After an acknowledgement the server would not send the list again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NotDecoded {
    /// The datagram is not a push.
    Malformed(String),
    /// The text is longer than the limit.
    OverLimit,
}

impl PushMessage {
    /// Decodes a datagram with a text of at most `limit` bytes. Also returns the number of decoded bytes, as a measure
    /// of the work.
    ///
    /// Bytes after the first JSON value, or after the first gzip member, are ignored.
    ///
    /// # Errors
    /// [`NotDecoded`]. The number of decoded bytes is returned in this case too.
    pub(crate) fn decode(datagram: &[u8], limit: usize) -> (usize, Result<Self, NotDecoded>) {
        if datagram.starts_with(&GZIP_MAGIC) {
            let mut text = Vec::new();
            let inflated = inflate(datagram, limit, &mut text);
            (text.len().min(limit), inflated.and_then(|()| Self::read(&text)))
        } else if datagram.len() <= limit {
            (datagram.len(), Self::read(datagram))
        } else {
            (0, Err(NotDecoded::OverLimit))
        }
    }

    fn read(text: &[u8]) -> Result<Self, NotDecoded> {
        let packet: Packet = first_object(text)?;
        let content = match packet.kind.as_str() {
            "dom" | "service" => PushContent::List(Box::new(read_list(packet.data.as_deref())?)),
            "dump" => PushContent::Dump,
            _ => PushContent::Unknown,
        };
        Ok(PushMessage { content, last_ref_time: packet.last_ref_time })
    }

    /// The acknowledgement that servers expect: see `PushReceiver` of Nacos' 1.x client.
    pub(crate) fn acknowledgement(&self) -> Acknowledgement {
        let kind = match self.content {
            PushContent::List(_) => "push-ack",
            PushContent::Dump => "dump-ack",
            PushContent::Unknown => "unknown-ack",
        };
        Acknowledgement { kind: kind.into(), last_ref_time: self.last_ref_time.to_string(), data: String::new() }
    }
}

impl Acknowledgement {
    /// The text to send. Never compressed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Whether a datagram begins like a push, plain or gzipped. Costs almost nothing, unlike decoding.
pub(crate) fn may_be_a_push(datagram: &[u8]) -> bool {
    datagram.starts_with(&GZIP_MAGIC) || begins_an_object(datagram)
}

/// Inflates a datagram into `text`, up to one byte more than `limit`.
///
/// # Errors
/// [`NotDecoded::OverLimit`] as soon as there is more text than allowed: a small datagram may inflate to a thousand
/// times its size.
fn inflate(datagram: &[u8], limit: usize, text: &mut Vec<u8>) -> Result<(), NotDecoded> {
    // The checksum is compared at the end, so the text must be read to its end.
    let mut limited = GzDecoder::new(datagram).take((limit as u64).saturating_add(1));
    limited.read_to_end(text).map_err(|error| NotDecoded::Malformed(format!("bad gzip: {error}")))?;
    if text.len() > limit {
        return Err(NotDecoded::OverLimit);
    }
    Ok(())
}

/// # Errors
/// [`NotDecoded::Malformed`] for a text that is no list, and for a list without a name, which could be of any
/// service.
fn read_list(data: Option<&str>) -> Result<ListAnswer, NotDecoded> {
    let data = data.ok_or_else(|| NotDecoded::Malformed("the push has no data".into()))?;
    let list: ListAnswer = first_object(data.as_bytes())?;
    if list.name.is_empty() {
        return Err(NotDecoded::Malformed("the list names no service".into()));
    }
    Ok(list)
}

/// Reads one JSON object and ignores what follows. Other JSON values are not pushes. Arrays must be rejected here,
/// because serde would read their elements as fields.
fn first_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, NotDecoded> {
    if !begins_an_object(text) {
        return Err(NotDecoded::Malformed("not a JSON object".into()));
    }
    let read = T::deserialize(&mut serde_json::Deserializer::from_slice(text));
    read.map_err(|error| NotDecoded::Malformed(error.to_string()))
}

fn begins_an_object(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
}

/// Datagrams for tests.
#[cfg(test)]
pub(crate) mod samples {
    use std::io::Write;

    use flate2::{write::GzEncoder, Compression};
    use serde_json::{json, Value};

    pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn push(kind: &str, data: &Value) -> Vec<u8> {
        json!({ "type": kind, "data": data.to_string(), "lastRefTime": 7 }).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{json, Value};

    use super::{
        samples::{gzip, push},
        *,
    };
    use crate::{
        model::service::ServiceName,
        wire::recordings::{self, assert_same_instance, SERVERS},
    };

    const LIMIT: usize = 2 * 1024 * 1024;

    fn decode(datagram: &[u8]) -> Result<PushMessage, NotDecoded> {
        PushMessage::decode(datagram, LIMIT).1
    }

    fn list_of(message: PushMessage) -> ListAnswer {
        match message.content {
            PushContent::List(list) => *list,
            other => panic!("{other:?} is not a list"),
        }
    }

    /// Asserts that `list` equals the text of the datagram, which is read here without the crate's own structs.
    fn assert_same_list(list: ListAnswer, text: &str) {
        let first = |text: &str| serde_json::Deserializer::from_str(text).into_iter::<Value>().next().unwrap().unwrap();
        let packet = first(text);
        let data = first(packet["data"].as_str().unwrap());
        let service = ServiceName::from_wire(&list.name, &list.group_name);
        assert_eq!(data["name"], *list.name);
        assert_eq!(data["clusters"].as_str().unwrap_or(""), list.clusters);
        assert_eq!(data["lastRefTime"].as_i64().unwrap_or(0), list.last_ref_time);
        let hosts: Vec<&Value> = data["hosts"].as_array().unwrap().iter().collect();
        assert_eq!(hosts.len(), list.hosts.len());
        for (host, ours) in hosts.into_iter().zip(list.hosts) {
            if let Some(instance) = ours.into_instance(service.grouped()) {
                assert_same_instance(text, &instance, host, &service);
            }
        }
    }

    /// The datagrams of all recordings, with their texts.
    static RECORDED: LazyLock<Vec<(Vec<u8>, String)>> = LazyLock::new(|| {
        let pushes = SERVERS.into_iter().flat_map(recordings::of).filter_map(|exchange| exchange.udp_push);
        let datagram = |gzipped: bool, text: &str| if gzipped { gzip(text.as_bytes()) } else { text.into() };
        pushes.map(|push| (datagram(push.gzip, &push.text), push.text)).collect()
    });

    #[test]
    fn every_recorded_push_is_decoded_and_acknowledged() {
        let mut read = 0;
        for (datagram, text) in RECORDED.iter() {
            let message = decode(datagram).unwrap();
            let packet: Value = serde_json::from_str(text).unwrap();
            let expected = format!(r#"{{"type":"push-ack","lastRefTime":"{}","data":""}}"#, packet["lastRefTime"]);
            assert_eq!(String::from_utf8(message.acknowledgement().encode()).unwrap(), expected);
            let list = list_of(message);
            assert_eq!(list.name, "DEFAULT_GROUP@@watched");
            assert_same_list(list, text);
            read += 1;
        }
        assert_eq!(read, 88);
    }

    #[test]
    fn bytes_after_a_push_are_ignored() {
        for (datagram, text) in RECORDED.iter() {
            let datagram = [datagram, &b"\0\0\0 garbage"[..]].concat();
            assert_same_list(list_of(decode(&datagram).unwrap()), text);
        }
    }

    #[test]
    fn other_types_get_their_own_empty_acknowledgement() {
        let acknowledged = |kind: &str| {
            let message = decode(&push(kind, &json!({}))).unwrap();
            String::from_utf8(message.acknowledgement().encode()).unwrap()
        };
        assert_eq!(acknowledged("dump"), r#"{"type":"dump-ack","lastRefTime":"7","data":""}"#);
        assert_eq!(acknowledged("weather"), r#"{"type":"unknown-ack","lastRefTime":"7","data":""}"#);
        assert!(matches!(decode(b"{}").unwrap().content, PushContent::Unknown));
        let list = json!({ "name": "G@@s", "hosts": [] });
        assert_eq!(list_of(decode(&push("service", &list)).unwrap()).name, "G@@s");
    }

    #[test]
    fn malformed_datagrams_are_rejected() {
        let host = json!({ "ip": "127.0.0.1", "port": 80, "healthy": true });
        let nameless = json!({ "hosts": [host] });
        let hostless = json!({ "name": "G@@s" });
        let no_hosts = json!({ "name": "G@@s", "hosts": [1] });
        for data in [json!({}), json!([]), json!("text"), Value::Null, nameless, hostless, no_hosts] {
            assert!(decode(&push("dom", &data)).is_err(), "{data}");
        }
        let deep = "[".repeat(100_000);
        for text in [
            "",
            " ",
            "null",
            "7",
            "[]",
            r#"["dom","{\"name\":\"s\",\"hosts\":[]}",7]"#,
            r#"{"type":"dom"}"#,
            r#"{"type":7}"#,
            r#"{"type":"dom","data":{}}"#,
            &deep,
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
            assert!(decode(&gzip(text.as_bytes())).is_err(), "{text}");
        }
        let valid = gzip(&push("dom", &json!({ "name": "G@@s", "hosts": [] })));
        for cut in 0..valid.len() {
            assert!(decode(&valid[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_datagram_is_inflated_up_to_the_limit_and_no_further() {
        let text = push("dom", &json!({ "name": "G@@s", "hosts": [] }));
        for datagram in [gzip(&text), text.clone()] {
            let (bytes, message) = PushMessage::decode(&datagram, text.len());
            assert_eq!((bytes, list_of(message.unwrap()).name.as_str()), (text.len(), "G@@s"));
        }
        let (bytes, message) = PushMessage::decode(&gzip(&text), text.len() - 1);
        assert_eq!((bytes, message.err()), (text.len() - 1, Some(NotDecoded::OverLimit)));
        assert!(matches!(PushMessage::decode(&text, text.len() - 1), (0, Err(NotDecoded::OverLimit))));

        let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
        assert!(bomb.len() < 2 * MAX_DATAGRAM_SIZE);
        let mut inflated = Vec::new();
        assert_eq!(inflate(&bomb, 1000, &mut inflated), Err(NotDecoded::OverLimit));
        assert_eq!(inflated.len(), 1001, "one byte more than the limit");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_are_never_a_list(bytes in prop::collection::vec(any::<u8>(), 0..2000), gzipped in any::<bool>()) {
            let datagram = if gzipped { gzip(&bytes) } else { bytes.clone() };
            if let Ok(message) = decode(&datagram) {
                prop_assert!(!matches!(message.content, PushContent::List(_)));
            }
            // The magic number of gzip, followed by something else.
            prop_assert!(decode(&[&GZIP_MAGIC[..], &bytes].concat()).is_err());
        }

        /// A damaged plain datagram is read as the text that it has become. A damaged gzipped datagram is rejected,
        /// unless the damage has no effect.
        #[test]
        fn a_damaged_push_never_gives_a_wrong_list(
            which in any::<prop::sample::Index>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (mut datagram, text) = RECORDED[which.index(RECORDED.len())].clone();
            let gzipped = datagram.starts_with(&GZIP_MAGIC);
            for (index, byte) in damage {
                let index = index.index(datagram.len());
                datagram[index] = byte;
            }
            if let Some(cut) = cut {
                datagram.truncate(cut.index(datagram.len()));
            }
            if let Ok(PushMessage { content: PushContent::List(list), .. }) = decode(&datagram) {
                let now = if gzipped { text } else { String::from_utf8_lossy(&datagram).into_owned() };
                assert_same_list(*list, &now);
            }
        }

        #[test]
        fn absurd_values_neither_panic_nor_grow(port in any::<i64>(), time in any::<i64>(), weight in any::<f64>(), name in ".{0,3000}") {
            let host = json!({ "ip": name, "port": port, "healthy": true, "weight": weight });
            let list = json!({ "name": name, "hosts": [host], "lastRefTime": time, "cacheMillis": time });
            for datagram in [push("dom", &list), gzip(&push("dom", &list))] {
                if let Ok(message) = decode(&datagram) {
                    let list = list_of(message);
                    prop_assert_eq!((list.name.as_str(), list.last_ref_time, list.hosts.len()), (name.as_str(), time, 1));
                }
            }
        }
    }
}
